"""Evidence with hashes: from a finding's pointers to the bytes that were received.

A finding names the raw segment and the message in it. At booking the segment's hash and the
payload's own hash are written beside that, so that the evidence still says what was received
when the bytes themselves have aged out. What cannot be resolved says why.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec
from psycopg import AsyncConnection, AsyncCursor
from psycopg.rows import tuple_row

from alerts.concealing import RULE
from device_profiles.findings import Evidence
from ingest.store.queries import load_queries

SQL = load_queries(Path(__file__).with_name("queries.sql"))

MISSING = "segment not stored"
DAMAGED = "segment does not match its hash"
AGED_OUT = "segment has aged out"
NO_MESSAGE = "segment holds no such message"


class Segment(Protocol):
    """A raw segment, unpacked."""

    @property
    def payloads(self) -> Sequence[bytes]:
        """The messages' payloads, in the order they were received."""
        ...


Unpack = Callable[[bytes], Segment]
"""Turns a stored segment's body into its messages: `ingest.segments.unpack`."""


class StoredEvidence(Evidence, frozen=True, kw_only=True, omit_defaults=True):
    """Evidence as it is booked.

    Attributes:
        segment_sha256: Hash of the raw segment's stored body, hexadecimal.
        payload_sha256: Hash of the message's payload, hexadecimal.
        unresolved: Why a hash is missing; None when nothing is, or nobody looked.
        shared_sha256: Hash of the copy of the picture that may be shared, hexadecimal; None where
            there is none. Derived, not evidence: see `alerts.sharing`.
    """

    segment_sha256: str | None = None
    payload_sha256: str | None = None
    unresolved: str | None = None
    shared_sha256: str | None = None

    @property
    def pointer(self) -> Evidence:
        """What the detector said, without what booking added."""
        return Evidence(**{name: getattr(self, name) for name in Evidence.__struct_fields__})


def unresolved(evidence: Iterable[Evidence]) -> tuple[StoredEvidence, ...]:
    """Take evidence as it is, without looking for its bytes.

    Args:
        evidence: A finding's evidence.

    Returns:
        The same, without hashes of segment and payload.
    """
    return tuple(_stored(entry) for entry in evidence)


async def resolve_evidence(
    connection: AsyncConnection[Any], evidence: Sequence[Evidence], unpack: Unpack
) -> tuple[StoredEvidence, ...]:
    """Find the received bytes behind evidence and write down their hashes.

    Each segment is read once and its body checked against its stored hash before it is unpacked.

    Args:
        connection: An open connection; its transaction is used.
        evidence: A finding's evidence.
        unpack: Reads a segment's body.

    Returns:
        The evidence in the same order, with hashes or with the reason why there are none.

    Raises:
        psycopg.Error: The database failed.
    """
    wanted = sorted({(entry.source.worker, entry.source.number) for entry in evidence})
    found: dict[tuple[int, int], tuple[str, Sequence[bytes] | str]] = {}
    async with connection.cursor(row_factory=tuple_row) as cursor:
        for worker, number in wanted:
            await cursor.execute(SQL["evidence_segment"], {"worker": worker, "number": number})
            row = await cursor.fetchone()
            if row is None:
                continue
            sha256 = bytes(row[0])
            if row[1] is None:
                found[worker, number] = (sha256.hex(), AGED_OUT)
                continue
            body = bytes(row[1])
            whole = hashlib.sha256(body).digest() == sha256
            found[worker, number] = (sha256.hex(), unpack(body).payloads if whole else DAMAGED)
        copies = await _copies(cursor, evidence)
    return tuple(
        msgspec.structs.replace(
            _with_hashes(entry, found), shared_sha256=copies.get(recipe_of(entry))
        )
        for entry in evidence
    )


def recipe_of(entry: Evidence) -> bytes:
    """What a copy for sharing is made of: which boxes are drawn on which frame, and by which rule.

    Args:
        entry: Evidence with a frame.

    Returns:
        The SHA-256 of all.
    """
    said = (entry.frame_sha256, entry.boxes, RULE)
    return hashlib.sha256(_ENCODER.encode(said)).digest()


async def _copies(
    cursor: AsyncCursor[tuple[Any, ...]], evidence: Iterable[Evidence]
) -> dict[bytes, str]:
    recipes = [recipe_of(entry) for entry in evidence if entry.frame_sha256 is not None]
    if not recipes:
        return {}
    await cursor.execute(SQL["shared_pictures"], {"recipes": recipes})
    return {bytes(recipe): bytes(sha256).hex() for recipe, sha256 in await cursor.fetchall()}


def _with_hashes(
    entry: Evidence, found: dict[tuple[int, int], tuple[str, Sequence[bytes] | str]]
) -> StoredEvidence:
    segment = found.get((entry.source.worker, entry.source.number))
    if segment is None:
        return _stored(entry, unresolved=MISSING)
    sha256, payloads = segment
    if isinstance(payloads, str):
        return _stored(entry, segment_sha256=sha256, unresolved=payloads)
    if not 0 <= entry.source.index < len(payloads):
        return _stored(entry, segment_sha256=sha256, unresolved=NO_MESSAGE)
    payload = hashlib.sha256(payloads[entry.source.index]).hexdigest()
    return _stored(entry, segment_sha256=sha256, payload_sha256=payload)


def _stored(entry: Evidence, **hashes: str) -> StoredEvidence:
    fields: dict[str, Any] = msgspec.structs.asdict(entry)
    return StoredEvidence(**{**fields, **hashes})


_ENCODER = msgspec.json.Encoder(order="deterministic")
_DECODER = msgspec.json.Decoder(tuple[StoredEvidence, ...])


def encode_evidence(evidence: Sequence[StoredEvidence]) -> str:
    """Write evidence as it is stored.

    Args:
        evidence: Booked evidence.

    Returns:
        A JSON array.
    """
    return _ENCODER.encode(evidence).decode()


def decode_evidence(text: str) -> tuple[StoredEvidence, ...]:
    """Read evidence back.

    Args:
        text: A JSON array that `encode_evidence` wrote.

    Returns:
        The evidence.
    """
    return _DECODER.decode(text)
