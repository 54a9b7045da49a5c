"""Standard Webhooks: signing and verifying. Pure: time, secrets and bytes are handed in.

Signed is ``{webhook-id}.{webhook-timestamp}.{body}`` with HMAC-SHA256; the header holds
``v1,`` and base64, one signature per secret while secrets rotate, separated by spaces.
Source: https://github.com/standard-webhooks/standard-webhooks, spec/standard-webhooks.md.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from alerts.errors import SecretUnusable, SignatureRejected

ID_HEADER = "webhook-id"
TIMESTAMP_HEADER = "webhook-timestamp"
SIGNATURE_HEADER = "webhook-signature"

SECRET_PREFIX = "whsec_"  # noqa: S105 - the prefix of every secret, none itself
TOLERANCE_S = 300
"""How far a message's time may lie from ours (Standard Webhooks: 5 minutes suggested)."""

MIN_SECRET_BYTES = 16
MAX_SECRET_BYTES = 512
"""The specification asks for 24 to 64 bytes; other makers' secrets lie outside, within these."""

MAX_SECRETS = 8
MAX_SIGNATURES = 16

_TIMESTAMP = re.compile(r"[0-9]{1,12}", re.ASCII)
_ID = re.compile(r"[!-~]{1,256}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Secret:
    """A shared key. Its text never shows in a log.

    Attributes:
        key: The raw bytes.
    """

    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Verified:
    """What a valid webhook's headers said.

    Attributes:
        webhook_id: The idempotency key.
        sent_at: When it was signed; aware, UTC.
    """

    webhook_id: str
    sent_at: datetime


def new_secret(random_bytes: bytes) -> str:
    """Write random bytes as a secret.

    Args:
        random_bytes: 24 to 64 bytes from a source fit for keys.

    Returns:
        ``whsec_`` and base64.
    """
    return SECRET_PREFIX + base64.b64encode(random_bytes).decode()


def parse_secrets(text: str) -> tuple[Secret, ...]:
    """Read one secret, or several while they rotate: the newest first, separated by spaces.

    Args:
        text: What an environment variable or a file holds.

    Returns:
        The secrets, in that order; at least one.

    Raises:
        SecretUnusable: None is there, or one is malformed; the message never quotes it.
    """
    words = text.split()
    if not 1 <= len(words) <= MAX_SECRETS:
        raise SecretUnusable(f"holds {len(words)} secrets, not 1 to {MAX_SECRETS}")
    return tuple(_secret(word, place) for place, word in enumerate(words, start=1))


def _secret(word: str, place: int) -> Secret:
    if not word.startswith(SECRET_PREFIX):
        raise SecretUnusable(f"secret {place} does not begin with {SECRET_PREFIX}")
    encoded = word.removeprefix(SECRET_PREFIX)
    try:
        key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise SecretUnusable(f"secret {place} is not base64 after {SECRET_PREFIX}") from None
    if not MIN_SECRET_BYTES <= len(key) <= MAX_SECRET_BYTES:
        raise SecretUnusable(
            f"secret {place} has {len(key)} bytes, not {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES}"
        )
    return Secret(key)


def _signature(secret: Secret, webhook_id: str, timestamp: str, body: bytes) -> str:
    signed = f"{webhook_id}.{timestamp}.".encode() + body
    digest = hmac.new(secret.key, signed, hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


def sign(
    secrets: Sequence[Secret], webhook_id: str, sent_at: datetime, body: bytes
) -> dict[str, str]:
    """Sign a body.

    Args:
        secrets: Every secret the receiver may verify with; at least one.
        webhook_id: The idempotency key; the same for every attempt.
        sent_at: The time of this attempt; aware.
        body: The exact bytes to be sent.

    Returns:
        The three headers.
    """
    timestamp = str(int(sent_at.timestamp()))
    return {
        ID_HEADER: webhook_id,
        TIMESTAMP_HEADER: timestamp,
        SIGNATURE_HEADER: " ".join(
            _signature(secret, webhook_id, timestamp, body) for secret in secrets
        ),
    }


def verify(
    secrets: Sequence[Secret], headers: Mapping[str, str], body: bytes, now: datetime
) -> Verified:
    """Check that a webhook comes from who holds the secret, unchanged and not long ago.

    Args:
        secrets: Every secret that is valid now.
        headers: The request's headers, in any case of letters.
        body: The bytes as received.
        now: Our time; aware.

    Returns:
        Its id and time.

    Raises:
        SignatureRejected: A header is missing or malformed, the time is beyond the tolerance,
            or no signature holds.
    """
    by_name = {name.lower(): value for name, value in headers.items()}
    try:
        webhook_id, timestamp, signatures = (
            by_name[name] for name in (ID_HEADER, TIMESTAMP_HEADER, SIGNATURE_HEADER)
        )
    except KeyError as missing:
        raise SignatureRejected(f"header {missing.args[0]} is missing") from None
    if not _ID.fullmatch(webhook_id):
        raise SignatureRejected(f"header {ID_HEADER} is malformed")
    if not _TIMESTAMP.fullmatch(timestamp):
        raise SignatureRejected(f"header {TIMESTAMP_HEADER} is not a count of seconds")
    apart = int(timestamp) - now.timestamp()
    if abs(apart) > TOLERANCE_S:
        raise SignatureRejected(
            f"signed {abs(apart):.0f} s {'ahead' if apart > 0 else 'ago'}: {TOLERANCE_S} s are"
            " tolerated"
        )
    given = [entry.encode() for entry in signatures.split(" ")[:MAX_SIGNATURES]]
    expected = [_signature(secret, webhook_id, timestamp, body).encode() for secret in secrets]
    # Every pair is compared, each in constant time: how long it takes says nothing.
    matches = [hmac.compare_digest(ours, theirs) for ours in expected for theirs in given]
    if not any(matches):
        raise SignatureRejected("no signature holds")
    return Verified(webhook_id, datetime.fromtimestamp(int(timestamp), UTC))
