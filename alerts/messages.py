"""The webhook's body: what a contractor or a regulator is told of one event.

Standard Webhooks wants ``type``, ``timestamp`` and ``data``, and a body below 20 kB. The bound
holds by construction: each text and table has its share of bytes, evidence gets what is left,
and what was left out is said in ``notes``. The whole of it stays in the database.

The same event always gives the same bytes: fields stand in the order written here, tables are
sorted by name. `docs/webhooks.schema.json` is this module's JSON Schema (`alerts.schema`).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import msgspec

from alerts.evidence import StoredEvidence
from alerts.life import Event, State, Violation
from device_profiles.findings import Severity

MAX_BODY_BYTES = 20_000
"""A body stays below this (Standard Webhooks: under 20 kB)."""

MAX_BOXES = 16
"""Most boxes told of one frame; the highest scores stay."""

_TEXT_BYTES = {
    "message": 2_000,
    "reason": 1_200,
    "name": 700,
    "subject": 450,
    "short": 250,
    "label": 100,
}
_MEASURED_BYTES = 4_000
_ENTRY_BYTES = 4_000
_NOTES_BYTES = 1_000

# Where room is short, these stay first.
_ROLE_RANK = {"peak": 0, "first": 1, "last": 2, "confirmation": 3}

_ENCODER = msgspec.json.Encoder()


class MessageType(StrEnum):
    """What a webhook tells."""

    OPENED = "violation.opened"
    AMENDED = "violation.amended"
    CLOSED = "violation.closed"
    WITHDRAWN = "violation.withdrawn"


TYPES = {
    Event.OPENED: MessageType.OPENED,
    Event.AMENDED: MessageType.AMENDED,
    Event.CLOSED: MessageType.CLOSED,
    Event.WITHDRAWN: MessageType.WITHDRAWN,
}

Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
Utc = Annotated[datetime, msgspec.Meta(tz=True, description="UTC, RFC 3339")]
Local = Annotated[datetime, msgspec.Meta(tz=True, description="in the site's zone, RFC 3339")]


class SiteCard(msgspec.Struct, frozen=True, kw_only=True):
    """The site a message is about."""

    id: str
    name: str
    timezone: Annotated[str, msgspec.Meta(description="IANA time zone")]


class ToldBox(msgspec.Struct, frozen=True, kw_only=True):
    """A box that mattered on a frame."""

    label: str
    score: float
    box: Annotated[
        tuple[float, float, float, float],
        msgspec.Meta(description="x1, y1, x2, y2 in pixels of the original"),
    ]


class ToldSource(msgspec.Struct, frozen=True, kw_only=True):
    """Where the received bytes lie in the raw segments."""

    worker: int
    number: int
    index: int


class ToldEvidence(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A reading or frame the violation rests on."""

    device: str
    observed_at: Utc
    role: Annotated[str, msgspec.Meta(description="first, peak, last, confirmation, …")]
    source: ToldSource
    values: dict[str, float] = {}
    boxes: tuple[ToldBox, ...] = ()
    segment_sha256: Annotated[
        Sha256 | None, msgspec.Meta(description="of the raw segment as stored")
    ] = None
    payload_sha256: Annotated[
        Sha256 | None, msgspec.Meta(description="of the device's message as received")
    ] = None
    frame_sha256: Annotated[Sha256 | None, msgspec.Meta(description="of the original picture")] = (
        None
    )
    model_sha256: Annotated[
        Sha256 | None, msgspec.Meta(description="of the model that looked at the picture")
    ] = None
    unresolved: Annotated[
        str | None, msgspec.Meta(description="why a hash is missing, where one is")
    ] = None
    shared_sha256: Annotated[
        Sha256 | None,
        msgspec.Meta(
            description="of a copy of the picture for sharing: what was found is marked, the heads"
            " of others are unreadable; derived, not evidence"
        ),
    ] = None


class ViolationData(msgspec.Struct, frozen=True, kw_only=True):
    """The violation as it stands after the event."""

    id: Annotated[str, msgspec.Meta(description="the same in every message about it")]
    rule: str
    kind: Annotated[
        str,
        msgspec.Meta(description="dust, crane, helmet, vest, presence, reported, device_health"),
    ]
    site: SiteCard
    subject: Annotated[str, msgspec.Meta(description="device, pair of devices, or track")]
    state: State
    severity: Severity
    opened_at: Utc
    opened_at_local: Local
    closed_at: Utc | None
    closed_at_local: Local | None
    measured: Annotated[
        dict[str, float], msgspec.Meta(description="the figures that decided, units in the names")
    ]
    message_zh: str
    message_en: str
    reason: Annotated[str | None, msgspec.Meta(description="why it was withdrawn")]
    evidence: tuple[ToldEvidence, ...]
    evidence_total: Annotated[int, msgspec.Meta(ge=0, description="entries booked")]
    notes: Annotated[tuple[str, ...], msgspec.Meta(description="what was left out for size")]


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One webhook about one event of one violation."""

    type: MessageType
    timestamp: Annotated[Utc, msgspec.Meta(description="when it was booked, UTC")]
    data: ViolationData


def decode_message(body: bytes | str) -> Message:
    """Read a body, strictly as the schema says.

    Args:
        body: The bytes that were signed.

    Returns:
        The message.

    Raises:
        msgspec.DecodeError: It is not JSON, or not a message.
    """
    return msgspec.json.decode(body, type=Message)


def render(
    event: Event,
    violation: Violation,
    site: SiteCard,
    at: datetime,
    reason: str | None = None,
) -> str:
    """Write the body for one event.

    Args:
        event: `opened`, `amended`, `closed` or `withdrawn`.
        violation: As it stands after the event.
        site: Its site.
        at: When the event was booked; aware.
        reason: Why it was withdrawn.

    Returns:
        The exact text to be signed and sent, below `MAX_BODY_BYTES` in UTF-8.

    Raises:
        KeyError: The event is not one that is told.
        zoneinfo.ZoneInfoNotFoundError: The site's zone is unknown.
    """
    zone = ZoneInfo(site.timezone)
    notes: list[str] = []
    measured = _fitting(violation.measured, _MEASURED_BYTES)
    if len(measured) < len(violation.measured):
        notes.append(f"measured: {len(measured)} of {len(violation.measured)} figures")
    data = ViolationData(
        id=violation.id,
        rule=_cut(violation.rule, "short"),
        kind=_cut(violation.kind, "short"),
        site=SiteCard(id=site.id, name=_cut(site.name, "name"), timezone=site.timezone),
        subject=_cut(violation.subject, "subject"),
        state=violation.state,
        severity=violation.severity,
        opened_at=_utc(violation.opened_at),
        opened_at_local=violation.opened_at.astimezone(zone),
        closed_at=None if violation.closed_at is None else _utc(violation.closed_at),
        closed_at_local=(
            None if violation.closed_at is None else violation.closed_at.astimezone(zone)
        ),
        measured=measured,
        message_zh=_cut(violation.message_zh, "message"),
        message_en=_cut(violation.message_en, "message"),
        reason=None if reason is None else _cut(reason, "reason"),
        evidence=(),
        evidence_total=len(violation.evidence),
        notes=(),
    )
    message = Message(type=TYPES[event], timestamp=_utc(at), data=data)
    room = MAX_BODY_BYTES - 1 - _NOTES_BYTES - len(_ENCODER.encode(message))
    evidence, cut = _within(violation.evidence, room)
    if len(evidence) < len(violation.evidence):
        notes.append(
            f"evidence: {len(evidence)} of {len(violation.evidence)} entries; all of it is kept"
            " with the violation"
        )
    if cut:
        notes.append(f"evidence: {cut} entries without some of their values or boxes")
    data = msgspec.structs.replace(data, evidence=evidence, notes=tuple(notes))
    return _ENCODER.encode(msgspec.structs.replace(message, data=data)).decode()


def _utc(time: datetime) -> datetime:
    return time.astimezone(ZoneInfo("UTC"))


def _cut(text: str, share: str) -> str:
    """Shorten a text to its share of bytes as encoded JSON, where one character may take six."""
    limit = _TEXT_BYTES[share]
    if len(_ENCODER.encode(text)) <= limit:
        return text
    kept, size = [], len('""…'.encode())
    for character in text:
        size += len(_ENCODER.encode(character)) - 2
        if size > limit:
            break
        kept.append(character)
    return "".join(kept) + "…"


def _fitting(figures: dict[str, float], limit: int) -> dict[str, float]:
    kept: dict[str, float] = {}
    size = len("{}")
    for name in sorted(figures):
        size += len(_ENCODER.encode({name: figures[name]})) - 1  # braces go, a comma comes
        if size > limit:
            break
        kept[name] = figures[name]
    return kept


def _within(evidence: Sequence[StoredEvidence], room: int) -> tuple[tuple[ToldEvidence, ...], int]:
    """Choose what fits: the peak first, then first and last, the rest in order of time."""
    order = sorted(
        range(len(evidence)), key=lambda place: (_ROLE_RANK.get(evidence[place].role, 3), place)
    )
    kept: dict[int, ToldEvidence] = {}
    cut = 0
    for place in order:
        told, whole = _told(evidence[place])
        size = len(_ENCODER.encode(told)) + 1
        if size > room:
            break
        room -= size
        cut += not whole
        kept[place] = told
    return tuple(kept[place] for place in sorted(kept)), cut


def _told(entry: StoredEvidence) -> tuple[ToldEvidence, bool]:
    """Turn one entry into what is told of it, bounded; and whether that is all of it."""
    best = sorted(entry.boxes, key=lambda box: -box[1])[:MAX_BOXES]
    boxes = tuple(
        ToldBox(label=_cut(label, "label"), score=score, box=(x1, y1, x2, y2))
        for label, score, x1, y1, x2, y2 in best
    )
    told = ToldEvidence(
        device=_cut(entry.device, "short"),
        observed_at=_utc(entry.observed_at),
        role=_cut(entry.role, "short"),
        source=ToldSource(
            worker=entry.source.worker, number=entry.source.number, index=entry.source.index
        ),
        values=_fitting(entry.values, _ENTRY_BYTES // 2),
        boxes=boxes,
        segment_sha256=entry.segment_sha256,
        payload_sha256=entry.payload_sha256,
        frame_sha256=entry.frame_sha256,
        model_sha256=entry.model_sha256,
        unresolved=None if entry.unresolved is None else _cut(entry.unresolved, "short"),
        shared_sha256=entry.shared_sha256,
    )
    return told, len(told.values) == len(entry.values) and len(boxes) == len(entry.boxes)


def webhook_schema() -> dict[str, Any]:
    """The JSON Schema of a body.

    Returns:
        A schema (2020-12) that every rendered body satisfies.
    """
    schema = msgspec.json.schema(Message)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "smartsite webhook",
        "description": "What a recipient is told of one event of one violation.",
        **schema,
    }
