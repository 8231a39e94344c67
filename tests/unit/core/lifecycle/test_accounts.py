"""What a Secret may hold for an account of a guest; refusals name the Secret and never what it holds."""

from __future__ import annotations

import pytest

from lq_operator.core.lifecycle.accounts import InvalidSecretError, password_of, ssh_keys_of

A = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA a@example"
B = "sk-ssh-ed25519@openssh.com AAAA+/=="


@pytest.mark.parametrize(
    ("value", "password"),
    [(b"a", "a"), (b"a\n", "a"), (b"a\r\n", "a"), (" a:b$ é ".encode(), " a:b$ é "), (b"x" * 512, "x" * 512)],
)
def test_password(value: bytes, password: str) -> None:
    assert password_of(value, "Secret s") == password


@pytest.mark.parametrize(
    "value", [b"", b"\n", b"hunter2\nmore", b"hunter2\x00", b"hunter2\n\n", b"\xffhunter2", b"x" * 513]
)
def test_no_password(value: bytes) -> None:
    with pytest.raises(InvalidSecretError, match=r"^Secret s must hold") as refused:
        password_of(value, "Secret s")
    assert "hunter2" not in str(refused.value)


def test_ssh_keys() -> None:
    text = f"# mine\n{A}\n\n  {B}\r\n{A}\n"
    assert ssh_keys_of(text.encode(), "Secret s") == (A, B)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# none\n",
        "hunter2",
        f"{A}\nhunter2",
        "-----BEGIN OPENSSH PRIVATE KEY-----\nhunter2\n",
        'command="hunter2" ssh-ed25519 AAAA',
        f"{A}\x1b[31mhunter2",
        "\n".join(f"ssh-rsa AAAA{n}" for n in range(65)),
        f"ssh-rsa {'A' * 9000}",
    ],
)
def test_no_ssh_keys(text: str) -> None:
    with pytest.raises(InvalidSecretError, match=r"^Secret s") as refused:
        ssh_keys_of(text.encode(), "Secret s")
    assert "hunter2" not in str(refused.value)
