"""From messages to what is to be written: pure, one flush at a time.

``gather`` looks every message's topic up, decodes its payload, gathers readings by kind into
blocks, checks the blocks, and puts aside what could not be read, with the reason. Each message
ends in exactly one place, and every unit of the balance is counted here once.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from device_profiles.errors import Reason, Rejected
from device_profiles.native import Status, decode_event, decode_status, moment_of
from device_profiles.readings import Decoded, Refused
from device_profiles.vocabulary import QUANTITIES
from ingest.blocks import Block, Columns, Heard, Met
from ingest.clocks import NOT_BELIEVED
from ingest.profiles import kind_of_note
from ingest.registry import (
    UNKNOWN_DEVICE,
    EventGateway,
    Gateway,
    RegisteredDevice,
    Routes,
    UnknownExternalId,
    Use,
)
from ingest.segments import Flag, Packed, pack

MAX_DETAIL_CHARS = 500
MAX_FAULTS_SHOWN = 20
"""Most faults of one message and scope that get a row each; the rest share one more row."""

NOT_HERE = "events with pictures are for the role frames: set [frames] events = true"

EXTERNAL_ID = "external_id"
"""Field of what is quarantined because nobody is registered with the external id, its value."""


class Scope(StrEnum):
    """What was refused."""

    MESSAGE = "message"
    READING = "reading"
    VALUE = "value"
    FRAME = "frame"
    STATUS = "status"


@dataclass(slots=True)
class Arrivals:
    """Messages as they came, in the order they came; entry i of each list is one message.

    Attributes:
        topics: Where.
        payloads: What; for an oversized message its first bytes.
        flags: `Flag` of each.
        received_us: When the socket was read, microseconds since 1970 UTC.
        oversized: For messages above the limit, by index: true length and SHA-256.
    """

    topics: list[bytes] = field(default_factory=list)
    payloads: list[bytes] = field(default_factory=list)
    flags: list[int] = field(default_factory=list)
    received_us: list[int] = field(default_factory=list)
    oversized: dict[int, tuple[int, bytes]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.topics)

    def halves(self) -> tuple[Arrivals, Arrivals]:
        """Cut in two, to find the one that cannot be written.

        Returns:
            The first and the second half, in order.
        """
        middle = len(self) // 2
        return self._cut(0, middle), self._cut(middle, len(self))

    def _cut(self, start: int, end: int) -> Arrivals:
        return Arrivals(
            self.topics[start:end],
            self.payloads[start:end],
            self.flags[start:end],
            self.received_us[start:end],
            {
                index - start: facts
                for index, facts in self.oversized.items()
                if start <= index < end
            },
        )

    def payload_facts(self, index: int) -> tuple[int, bytes]:
        """Length and SHA-256 of a message's payload as it was sent."""
        known = self.oversized.get(index)
        if known is not None:
            return known
        payload = self.payloads[index]
        return len(payload), hashlib.sha256(payload).digest()


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """Between which times a reading is believed.

    Attributes:
        future_s: How far a reading's time may lie after its receipt.
        past_s: How far it may lie before.
    """

    future_s: float = 300.0
    past_s: float = 400 * 86_400.0

    def require(self, reported_us: int, received_us: int, offset_us: int = 0) -> None:
        """Refuse a time that is not believed.

        Args:
            reported_us: The device's time, microseconds since 1970 UTC.
            received_us: When it came.
            offset_us: By how much its clock is off; `NOT_BELIEVED` where that cannot be told.

        Raises:
            Rejected: With reason `time`, saying how far off it is.
        """
        when = moment_of(reported_us).isoformat()
        if offset_us == NOT_BELIEVED:
            raise Rejected(
                Reason.TIME,
                f"time {when} was reported before: the clock was set back, and what it means"
                " cannot be told",
            )
        ahead_s = (reported_us + offset_us - received_us) / 1e6
        if ahead_s > self.future_s or ahead_s < -self.past_s:
            side = "after" if ahead_s > 0 else "before"
            repaired = f", repaired by {offset_us / 1e6:+.0f} s," if offset_us else ""
            raise Rejected(
                Reason.TIME, f"time {when}{repaired} lies {abs(ahead_s):.0f} s {side} its receipt"
            )


@dataclass(frozen=True, slots=True)
class Quarantined:
    """What could not be read, and why.

    Attributes:
        index: Position of the message in the segment.
        scope: What was refused.
        reason: The class of fault.
        detail: One line naming device, value and the rule it broke.
        device_id: The registry's number, None if unknown.
        field: The quantity, for values.
        value: The offending value as text.
        units: Of the balance, that this entry stands for.
    """

    index: int
    scope: Scope
    reason: Reason
    detail: str
    device_id: int | None = None
    field: str | None = None
    value: str | None = None
    units: int = 0


@dataclass(slots=True)
class Flush:
    """What one flush writes in one transaction.

    Attributes:
        arrivals: The messages it is made of.
        segment: The same, packed.
        blocks: Readings by kind.
        statuses: Device number, message index and status.
        events: Device number, message index and the event's JSON.
        quarantined: What could not be read.
        readings: Units of the balance: every reading, and one for each undecodable message.
        refused: Of these, how many were put aside.
        conflicts: How many did nothing but contradict an earlier one of this flush.
        duplicates: How many said what an earlier one of this flush had said.
        merged: Those that brought further quantities to an earlier one of this flush.
        exceptions: Counted by (hour in microseconds, device number, what).
        labels: How messages name the devices in the blocks, by number.
        heard: The blocks as they were read.
        repeated: How many of `duplicates` each message holds, by its index.
        notes: What decoders accepted although it is odd, by profile and kind of note.
    """

    arrivals: Arrivals
    segment: Packed
    blocks: list[Columns]
    statuses: list[tuple[int, int, Status]]
    events: list[tuple[int, int, bytes]]
    quarantined: list[Quarantined]
    readings: int
    refused: int
    conflicts: int
    duplicates: int
    merged: list[Met]
    exceptions: Counter[tuple[int, int, str]]
    labels: dict[int, str] = field(default_factory=dict)
    heard: list[Heard] = field(default_factory=list)
    repeated: Counter[int] = field(default_factory=Counter)
    notes: Counter[tuple[str, str]] = field(default_factory=Counter)

    @property
    def redelivered(self) -> int:
        """Messages the broker marked as sent before."""
        return sum(1 for flag in self.arrivals.flags if flag & Flag.DUP)

    def received_us(self, index: int) -> int:
        """When a message came, microseconds since 1970 UTC."""
        return self.arrivals.received_us[index]


def refuse(arrivals: Arrivals, routes: Routes, why: str) -> Flush:
    """Put a message aside that the database would not take.

    Args:
        arrivals: That message alone.
        routes: Where topics lead.
        why: What the database said.

    Returns:
        A flush that writes nothing but its quarantine.
    """
    state = _Gathering(arrivals, routes, TimeLimits())
    for index, topic in enumerate(arrivals.topics):
        route = routes.known.get(topic)
        device = route.device if route else None
        state.put_aside(index, Scope.MESSAGE, Reason.TYPE, f"cannot be stored: {why}", device)
        state.units += 1
    return state.flush(0)


def hour_of(us: int) -> int:
    """Start of the UTC hour a time lies in, in microseconds."""
    return us - us % 3_600_000_000


class _Gathering:
    """The state of one `gather`."""

    def __init__(
        self, arrivals: Arrivals, routes: Routes, limits: TimeLimits, *, fold: bool = True
    ) -> None:
        self.folds = fold
        self.arrivals = arrivals
        self.routes = routes
        self.limits = limits
        self.blocks = {kind: Block(kind) for kind in QUANTITIES}
        self.statuses: list[tuple[int, int, Status]] = []
        self.events: list[tuple[int, int, bytes]] = []
        self.quarantined: list[Quarantined] = []
        self.exceptions: Counter[tuple[int, int, str]] = Counter()
        self.units = 0
        self.refused = 0
        self.conflicts = 0
        self.duplicates = 0
        self.heard: list[Heard] = []
        self.repeated: Counter[int] = Counter()
        self.notes: Counter[tuple[str, str]] = Counter()
        self.merged: list[Met] = []
        self.devices: dict[int, RegisteredDevice] = {}

    def put_aside(
        self,
        index: int,
        scope: Scope,
        reason: Reason,
        detail: str,
        device: RegisteredDevice | None = None,
        field: str | None = None,
        value: str | None = None,
        count: int = 1,
        units: int = 0,
    ) -> None:
        """Quarantine something of a message, or `count` things with one row, and count them.

        `units` of the balance are the row's own where what it names is part of a reading.
        """
        if device is not None:
            detail = f"{device.reader}: {detail}"
        device_id = device.id if device else None
        match scope:
            case Scope.VALUE:
                what = "refused_value"
            case Scope.STATUS:
                what = "quarantined_status"
            case _:
                what = "quarantined"
                units = count
                self.refused += count
        self.quarantined.append(
            Quarantined(
                index, scope, reason, detail[:MAX_DETAIL_CHARS], device_id, field, value, units
            )
        )
        hour = hour_of(self.arrivals.received_us[index])
        self.exceptions[hour, device_id or UNKNOWN_DEVICE, what] += count

    def put_aside_all(
        self,
        index: int,
        scope: Scope,
        faults: Sequence[Refused],
        device: RegisteredDevice,
        units: int = 0,
    ) -> None:
        """Quarantine parts of one message: the first ones by name, the rest in one row."""
        for part in faults[:MAX_FAULTS_SHOWN]:
            self.put_aside(
                index, scope, part.reason, part.detail, device, part.field, part.value, units=units
            )
            units = 0
        rest = faults[MAX_FAULTS_SHOWN:]
        if rest:
            detail = f"and {len(rest)} more of this message, the first: {rest[0].detail}"
            self.put_aside(index, scope, rest[0].reason, detail, device, count=len(rest))

    def read_message(self, index: int, topic: bytes, payload: bytes) -> None:
        """Read one message: the way every message takes that is not plain telemetry."""
        device = None
        scope = Scope.MESSAGE
        try:
            route = self.routes.known.get(topic) or self.routes.find(topic)
            if isinstance(route, EventGateway):
                scope = Scope.STATUS
                raise Rejected(Reason.TOPIC, NOT_HERE)
            if not isinstance(route, Gateway):
                device = route.device
                if route.use is not Use.READ:
                    scope = Scope.STATUS
            oversized = self.arrivals.oversized.get(index)
            if oversized is not None:
                raise Rejected(
                    Reason.TOO_LARGE, f"payload of {oversized[0]} bytes is above the limit"
                )
            if isinstance(route, Gateway):
                self.read_gateway(index, route, payload)
                return
            match route.use:
                case Use.READ:
                    assert route.decode is not None  # noqa: S101 - READ routes decode
                    decoded = route.decode(payload)
                case Use.KEEP_STATUS:
                    self.statuses.append((route.device.id, index, decode_status(payload)))
                    return
                case Use.KEEP_EVENT:
                    self.events.append((route.device.id, index, decode_event(payload)))
                    return
                case Use.KEEP_FRAME:
                    raise Rejected(Reason.TOPIC, "frames have a connection of their own")
                case Use.REPORT:
                    raise Rejected(Reason.TOPIC, NOT_HERE)
        except Rejected as fault:
            self.units += scope is Scope.MESSAGE
            self.put_aside_whole(index, scope, fault, device)
            return
        self.take(index, route.device, decoded)

    def put_aside_whole(
        self,
        index: int,
        scope: Scope,
        fault: Rejected,
        device: RegisteredDevice | None,
        count: int = 1,
    ) -> None:
        """Quarantine a message, or all of one that is about one device."""
        at = f" (at byte {fault.offset})" if fault.offset is not None else ""
        stranger = fault.external_id if isinstance(fault, UnknownExternalId) else None
        field = None if stranger is None else EXTERNAL_ID
        self.put_aside(
            index, scope, fault.reason, fault.detail + at, device, field, stranger, count
        )

    def take(self, index: int, device: RegisteredDevice, decoded: Decoded) -> None:
        """Take in what a message holds of one device."""
        block = self.blocks[device.kind]
        for reading in decoded.readings:
            block.add(device.id, index, reading)
        self.units += len(decoded.readings)
        self.devices[device.id] = device
        if decoded.notes:
            self.note(device, decoded.notes)
        readings = [part for part in decoded.refused if part.field is None]
        self.units += len(readings)
        self.put_aside_all(index, Scope.READING, readings, device)
        values = [part for part in decoded.refused if part.field is not None]
        self.put_aside_all(index, Scope.VALUE, values, device)

    def note(self, device: RegisteredDevice, notes: Sequence[str]) -> None:
        """Count what was accepted although it is odd."""
        profile = device.profile.sheet.id if device.profile else "native"
        for note in notes:
            self.notes[profile, kind_of_note(note)] += 1

    def read_gateway(self, index: int, gateway: Gateway, payload: bytes) -> None:
        """Take in what a gateway says of the devices behind it.

        Raises:
            Rejected: Nothing of the message can be read.
        """
        read = {gateway.profile.sheet.id: dict(gateway.decode(payload))}
        strangers: list[tuple[Rejected, int]] = []
        for external_id, found in read[gateway.profile.sheet.id].items():
            units = len(found.readings) + sum(part.field is None for part in found.refused)
            try:
                device, decode = self.routes.behind(gateway, external_id)
                assert device.profile is not None  # noqa: S101 - `behind` sees to it
                name = device.profile.sheet.id
                if name not in read:
                    read[name] = dict(decode(payload))
            except Rejected as fault:
                strangers.append((fault, units))
            else:
                self.take(index, device, read[name][external_id])
        for stranger, units in strangers[:MAX_FAULTS_SHOWN]:
            self.units += units
            self.put_aside_whole(index, Scope.READING, stranger, None, units)
        rest = strangers[MAX_FAULTS_SHOWN:]
        if rest:
            units = sum(units for _, units in rest)
            self.units += units
            first = rest[0][0]
            detail = f"and {len(rest)} more devices of this message, the first: {first.detail}"
            self.put_aside(index, Scope.READING, first.reason, detail, count=units)

    def check(self, block: Block) -> Columns:
        """Repair times; refuse values out of range, times not believed, and empty readings."""
        received = np.array(self.arrivals.received_us, np.int64)
        columns = block.columns(received)
        if not len(columns):
            return columns
        quantities = QUANTITIES[block.kind]
        low = np.array([quantity.low for quantity in quantities])
        high = np.array([quantity.high for quantity in quantities])
        values = columns.values
        outside = (values < low) | (values > high)
        keep = np.ones(len(columns), np.bool_)
        refused: defaultdict[tuple[int, int, Scope], list[Refused]] = defaultdict(list)

        def refuse(row: int, scope: Scope, part: Refused) -> None:
            message = int(columns.index[row]), int(columns.device_id[row])
            refused[*message, scope].append(part)

        if outside.any():
            for row, place in np.argwhere(outside).tolist():
                quantity = quantities[place]
                value = float(values[row, place])
                detail = (
                    f"{quantity.name} {value:g} is not within {quantity.low:g} to"
                    f" {quantity.high:g} {quantity.unit}"
                )
                refuse(row, Scope.VALUE, Refused(Reason.RANGE, detail, quantity.name, repr(value)))
            values[outside] = np.nan
        offsets = self.routes.clocks.offsets(columns.device_id, columns.reported_us)
        if offsets is not None:
            columns.observed_us = columns.reported_us + np.where(
                offsets == NOT_BELIEVED, 0, offsets
            )
        ahead = columns.observed_us - columns.received_us
        limits = self.limits
        disbelieved = (ahead > limits.future_s * 1e6) | (ahead < -limits.past_s * 1e6)
        if offsets is not None:
            disbelieved |= offsets == NOT_BELIEVED
        self.heard.append(
            Heard(
                columns.index,
                columns.device_id,
                columns.series,
                columns.reported_us,
                columns.observed_us,
                columns.received_us,
                ~disbelieved,
                columns.seq,
            )
        )
        empty = np.isnan(values).all(axis=1)
        if disbelieved.any() or empty.any():
            for row in np.flatnonzero(disbelieved | empty).tolist():
                reported_us = int(columns.reported_us[row])
                offset_us = 0 if offsets is None else int(offsets[row])
                try:
                    limits.require(reported_us, int(columns.received_us[row]), offset_us)
                    if columns.alarms[row] is None and columns.extra[row] is None:
                        raise Rejected(Reason.INCOMPLETE, "no value of the reading is left")
                except Rejected as fault:
                    keep[row] = False
                    # With its time, a span of the clock can find it again.
                    when = moment_of(reported_us).isoformat() if disbelieved[row] else None
                    refuse(row, Scope.READING, Refused(fault.reason, fault.detail, None, when))
        for (index, device_id, scope), faults in refused.items():
            self.put_aside_all(index, scope, faults, self.devices[device_id])
        if not keep.all():
            columns.keep(keep)
        if not self.folds:
            return columns
        conflicts: defaultdict[tuple[int, int], list[Refused]] = defaultdict(list)
        contradicting: Counter[tuple[int, int]] = Counter()
        for met in columns.fold():
            conflicts[met.index, met.device_id] += self.account_for(met)
            contradicting[met.index, met.device_id] += not met.merged and bool(met.conflicts)
        for (index, device_id), faults in conflicts.items():
            device = self.devices[device_id]
            units = contradicting[index, device_id]
            self.put_aside_all(index, Scope.VALUE, faults, device, units)
        return columns

    def flush(self, units: int) -> Flush:
        """Check the blocks and put everything together; `units` were counted by the caller."""
        arrivals = self.arrivals
        columns = [self.check(block) for block in self.blocks.values() if len(block)]
        return Flush(
            arrivals=arrivals,
            segment=pack(arrivals.received_us, arrivals.topics, arrivals.payloads, arrivals.flags),
            blocks=[block for block in columns if len(block)],
            statuses=self.statuses,
            events=self.events,
            quarantined=self.quarantined,
            readings=units + self.units,
            refused=self.refused,
            conflicts=self.conflicts,
            duplicates=self.duplicates,
            merged=self.merged,
            exceptions=self.exceptions,
            labels={number: device.label for number, device in self.devices.items()},
            heard=self.heard,
            repeated=self.repeated,
            notes=self.notes,
        )

    def account_for(self, met: Met) -> list[Refused]:
        """Count a reading that met an earlier one of its key in this flush, and name conflicts."""
        hour = hour_of(self.arrivals.received_us[met.index])
        match what_became_of(met):
            case "merged":
                self.merged.append(met)
            case "duplicate":
                self.duplicates += 1
                self.repeated[met.index] += 1
            case _:
                self.conflicts += 1
        self.exceptions[hour, met.device_id, what_became_of(met)] += 1
        return [
            Refused(
                Reason.CONFLICT,
                f"{name} {value} differs from an earlier value for this time; the first stays",
                name,
                value[:80],
            )
            for name, value in met.conflicts.items()
        ]


def what_became_of(met: Met) -> str:
    """How a reading that met an earlier one of its key counts in the balance.

    Args:
        met: What it brought.

    Returns:
        "merged", "duplicate", or "conflict" where all it brought new was contradiction.
    """
    if met.merged:
        return "merged"
    return "conflict" if met.conflicts else "duplicate"


def gather(arrivals: Arrivals, routes: Routes, limits: TimeLimits, *, fold: bool = True) -> Flush:
    """Turn messages into what one transaction writes.

    Args:
        arrivals: The messages.
        routes: Where topics lead; unknown topics of registered devices are remembered in it.
        limits: Which times are believed.
        fold: Whether rows of one key are merged here; else every reading stays a row of its
            own, as whoever accounts for each message needs it.

    Returns:
        The flush.
    """
    state = _Gathering(arrivals, routes, limits, fold=fold)
    known = routes.known
    blocks = state.blocks
    oversized = arrivals.oversized
    units = 0
    for index, (topic, payload) in enumerate(zip(arrivals.topics, arrivals.payloads, strict=True)):
        route = known.get(topic)
        if route is not None and route.decode is not None and index not in oversized:
            # Plain telemetry of a known device, as nearly every message is.
            try:
                decoded = route.decode(payload)
            except Rejected:
                pass
            else:
                if not decoded.refused:
                    device = route.device
                    if decoded.notes:
                        state.note(device, decoded.notes)
                    block = blocks[device.kind]
                    for reading in decoded.readings:
                        block.add(device.id, index, reading)
                    units += len(decoded.readings)
                    state.devices[device.id] = device
                    continue
        state.read_message(index, topic, payload)
    return state.flush(units)
