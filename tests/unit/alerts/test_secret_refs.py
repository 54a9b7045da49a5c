from pathlib import Path

import pytest

from alerts.errors import SecretUnusable
from alerts.secret_refs import MAX_FILE_BYTES, resolve
from alerts.webhooks import Secret, new_secret

KEY, OTHER = bytes(range(24)), bytes(range(32))


def test_from_the_environment() -> None:
    assert resolve("env:HOOK", {"HOOK": new_secret(KEY)}) == (Secret(KEY),)


def test_from_a_file_with_two_while_they_rotate(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text(f"{new_secret(OTHER)}\n{new_secret(KEY)}\n")
    assert resolve(f"file:{path}", {}) == (Secret(OTHER), Secret(KEY))


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("env:HOOK", "secret env:HOOK is not set"),
        ("env:EMPTY", "secret env:EMPTY holds 0 secrets"),
        ("env:PLAIN", "secret env:PLAIN secret 1 does not begin with whsec_"),
        ("file:/nowhere/at/all", "secret file:/nowhere/at/all cannot be read: No such file"),
        ("file:/", "cannot be read: Is a directory"),
        ("file:a\0b", "is not a path"),
        ("file:", "cannot be read"),
        ("vault:x", "neither env:NAME nor file:PATH"),
    ],
)
def test_what_is_missing_is_named(reference: str, message: str) -> None:
    with pytest.raises(SecretUnusable, match=message) as fault:
        resolve(reference, {"EMPTY": " ", "PLAIN": "hunter2"})
    assert "hunter2" not in str(fault.value)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"x" * (MAX_FILE_BYTES + 1)])
def test_a_file_that_is_no_secret(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "secret"
    path.write_bytes(content)
    with pytest.raises(SecretUnusable, match=r"not ASCII|larger than"):
        resolve(f"file:{path}", {})
