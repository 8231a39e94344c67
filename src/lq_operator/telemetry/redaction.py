"""Keeps secrets out of log lines: by the name of a key, and by the shape of a text.

Turns every value into something JSON can hold on the way, so that a log call never raises and never prints an
object's repr unread.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

REDACTED = "[redacted]"
MAX_TEXT_CHARS = 8192
"""A line longer than this is somebody's document (a domain XML, a user-data), not a message."""

_MAX_DEPTH = 8

_SECRET_FRAGMENTS = (
    "userdata",
    "vendordata",
    "password",
    "passwd",
    "passphrase",
    "token",
    "secret",
    "privatekey",
    "authorization",
    "apikey",
    "credential",
)
# A reference says where a secret lies, which is what a person needs to mend a wrong one.
_REFERENCE_SUFFIXES = ("name", "namespace", "ref", "refs", "kind", "count")

_KEY_WORDS = r"(?:user|vendor)[-_]?data|pass(?:word|wd|phrase)|token|secret|private[-_]?key|api[-_]?key|credentials?"
_TEXT_RULES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.S), REDACTED),
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}"), rf"\1 {REDACTED}"),
    (re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"), REDACTED),
    (re.compile(r"(?<=://)([^\s/:@]+):[^\s/@]+@"), rf"\1:{REDACTED}@"),
    (
        re.compile(
            rf"""(?ix) (?P<key> ["']? \b [\w-]*? (?:{_KEY_WORDS}) ["']? \s* [=:] \s* )"""
            r"""(?: "(?:[^"\\]|\\.)*(?:"|\Z) | '(?:[^'\\]|\\.)*(?:'|\Z) | [^\s,;)}\]"']+ )""",
        ),
        rf"\g<key>{REDACTED}",
    ),
)


_HINTS = ("private key", "bearer", "basic", "eyj", "://", "data", "pass", "token", "secret", "key", "credential")
"""Every text rule needs one of them, in lower case: a sentence without any is passed on unread by the expressions."""


@lru_cache(maxsize=4096)
def is_secret_key(key: str) -> bool:
    """Whether a field of this name may hold a secret; `secret_name` and `passwordRef` only point to one."""
    plain = re.sub(r"[^a-z0-9]", "", key.lower())
    return any(fragment in plain for fragment in _SECRET_FRAGMENTS) and not plain.endswith(_REFERENCE_SUFFIXES)


def redact_text(text: str) -> str:
    """The text without private keys, tokens, URL passwords and `password=...` pairs, cut at MAX_TEXT_CHARS."""
    # Cut first with room to spare: a megabyte must not go through five regular expressions on every line.
    cut = text[: 2 * MAX_TEXT_CHARS]
    lower = cut.lower()
    for pattern, replacement in _TEXT_RULES if any(hint in lower for hint in _HINTS) else ():
        cut = pattern.sub(replacement, cut)
    if len(text) > len(text[: 2 * MAX_TEXT_CHARS]) or len(cut) > MAX_TEXT_CHARS:
        return f"{cut[:MAX_TEXT_CHARS]}... [{len(text)} characters in all]"
    return cut


def redact(value: Any, depth: int = 0) -> Any:
    """The value as plain JSON types with every secret replaced; nesting below eight levels becomes text."""
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, str):
        return redact_text(value)
    if depth >= _MAX_DEPTH:
        return redact_text(_text_of(value))
    if isinstance(value, Mapping):
        return {str(k): REDACTED if _hides(str(k), v) else redact(v, depth + 1) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [redact(item, depth + 1) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return redact({f.name: getattr(value, f.name, None) for f in dataclasses.fields(value)}, depth + 1)
    dump = getattr(value, "model_dump", None)
    if callable(dump) and not isinstance(value, type):
        return redact(dump(), depth + 1)
    return redact_text(_text_of(value))


def _hides(key: str, value: Any) -> bool:
    return value is not None and not isinstance(value, bool) and is_secret_key(key)


def _text_of(value: Any) -> str:
    try:
        return repr(value)
    # A broken __repr__ of a logged object must not break whoever logs it.
    except (ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
        return f"<{type(value).__name__} whose repr failed: {type(error).__name__}>"
