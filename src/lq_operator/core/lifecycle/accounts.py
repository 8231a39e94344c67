"""What a Secret may hold for an account of a guest: one password, or public ssh keys. Pure; errors never repeat the value."""

from __future__ import annotations

import re

MOST_PASSWORD_BYTES = 512
MOST_KEYS = 64
MOST_KEY_CHARACTERS = 8192
_KEY = re.compile(r"(ssh-|ecdsa-|sk-)[-@.a-zA-Z0-9]+ [A-Za-z0-9+/]+={0,3}( .*)?")


class InvalidSecretError(ValueError):
    """A person must change the Secret. The message names it, never what it holds."""


def password_of(value: bytes, where: str) -> str:
    """The password. One line end at the end is taken off: files made with an editor have it."""
    text = _text(value, where).removesuffix("\n").removesuffix("\r")
    if not text or len(value) > MOST_PASSWORD_BYTES:
        raise InvalidSecretError(f"{where} must hold a password of 1 to {MOST_PASSWORD_BYTES} bytes")
    if not text.isprintable():
        raise InvalidSecretError(f"{where} must hold one line without control characters")
    return text


def ssh_keys_of(value: bytes, where: str) -> tuple[str, ...]:
    """One public key a line, in the order given; empty lines and comments are left out."""
    lines = [line.strip() for line in _text(value, where).splitlines()]
    keys = tuple(dict.fromkeys(line for line in lines if line and not line.startswith("#")))
    if not 0 < len(keys) <= MOST_KEYS:
        raise InvalidSecretError(f"{where} must hold 1 to {MOST_KEYS} public keys, one a line")
    for number, key in enumerate(keys, 1):
        if len(key) > MOST_KEY_CHARACTERS or not key.isprintable() or not _KEY.fullmatch(key):
            raise InvalidSecretError(f"{where}: key {number} is no public key like 'ssh-ed25519 AAAA... name'")
    return keys


def _text(value: bytes, where: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise InvalidSecretError(f"{where} must hold text (UTF-8)") from None
