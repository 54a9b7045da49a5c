"""Where a secret lies: ``env:NAME`` or ``file:PATH``, never the secret itself.

References are resolved at each use, so a rotated secret needs no restart.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from alerts.errors import SecretUnusable
from alerts.webhooks import Secret, parse_secrets

MAX_FILE_BYTES = 16_384


def resolve(reference: str, environ: Mapping[str, str]) -> tuple[Secret, ...]:
    """Fetch the secrets behind a reference.

    Args:
        reference: ``env:NAME`` or ``file:PATH``.
        environ: The environment.

    Returns:
        The secrets, newest first.

    Raises:
        SecretUnusable: It is missing, unreadable or malformed; the message names the reference
            and the fault, never the content.
    """
    try:
        return parse_secrets(_text(reference, environ))
    except SecretUnusable as fault:
        raise SecretUnusable(f"secret {reference} {fault}") from None


def _text(reference: str, environ: Mapping[str, str]) -> str:
    where, _, name = reference.partition(":")
    if where == "env":
        if name not in environ:
            raise SecretUnusable("is not set")
        return environ[name]
    if where != "file":
        raise SecretUnusable("is neither env:NAME nor file:PATH")
    try:
        with Path(name).open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as fault:
        raise SecretUnusable(f"cannot be read: {fault.strerror}") from None
    except ValueError:
        raise SecretUnusable("is not a path") from None
    if len(content) > MAX_FILE_BYTES:
        raise SecretUnusable(f"is larger than {MAX_FILE_BYTES} bytes")
    try:
        return content.decode("ascii")
    except UnicodeDecodeError:
        raise SecretUnusable("is not ASCII text") from None
