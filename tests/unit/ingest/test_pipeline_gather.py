"""Gathering a flush: every message ends in exactly one place, and the balance holds."""

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_profiles.errors import Reason, Rejected
from device_profiles.vocabulary import QUANTITIES, Kind
from ingest.pipeline import (
    MAX_DETAIL_CHARS,
    MAX_FAULTS_SHOWN,
    Arrivals,
    Flush,
    Quarantined,
    Scope,
    TimeLimits,
    gather,
    hour_of,
)
from ingest.registry import UNKNOWN_DEVICE, RegisteredDevice, Routes
from ingest.segments import Flag, unpack

NOW_US = 1_800_000_000_000_000
NOW_MS = NOW_US // 1_000
LIMITS = TimeLimits(future_s=300, past_s=86_400)

DUST = RegisteredDevice(1, "s", "d1", Kind.DUST, "")
CRANE = RegisteredDevice(2, "s", "c1", Kind.CRANE, "")
CAMERA = RegisteredDevice(3, "s", "cam", Kind.CAMERA, "")
FAR = RegisteredDevice(4, "far", "d1", Kind.DUST, "east/2")
DEVICES = (DUST, CRANE, CAMERA, FAR)

DUST_TOPIC = b"site/s/dust/d1/telemetry"
CRANE_TOPIC = b"site/s/crane/c1/telemetry"
FAR_TOPIC = b"east/2/site/far/dust/d1/telemetry"


def reading(ts: object = NOW_MS, **values: object) -> dict[str, Any]:
    return {"ts": ts, "values": values or {"pm10_ug_m3": 55.5}}


def arrivals(*messages: tuple[bytes, object], flags: int = 1) -> Arrivals:
    found = Arrivals()
    for topic, payload in messages:
        found.topics.append(topic)
        found.payloads.append(
            payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        )
        found.flags.append(flags)
        found.received_us.append(NOW_US)
    return found


def flush_of(*messages: tuple[bytes, object]) -> Flush:
    flush = gather(arrivals(*messages), Routes(DEVICES), LIMITS)
    balances(flush)
    return flush


def rows(flush: Flush) -> int:
    return sum(len(block) for block in flush.blocks)


def balances(flush: Flush) -> None:
    """What holds of every flush."""
    folded = flush.conflicts + flush.duplicates + len(flush.merged)
    assert flush.readings == rows(flush) + flush.refused + folded
    assert all(len(block) for block in flush.blocks)
    counted: Counter[str] = Counter()
    for (_, _, what), count in flush.exceptions.items():
        counted[what] += count
    assert counted["quarantined"] == flush.refused
    assert counted["conflict"] == flush.conflicts
    assert sum(entry.units for entry in flush.quarantined) == flush.refused + flush.conflicts
    for entry in flush.quarantined:
        assert len(entry.detail) <= MAX_DETAIL_CHARS
        assert "\n" not in entry.detail
        if entry.device_id is not None:
            label = next(device.label for device in DEVICES if device.id == entry.device_id)
            assert entry.detail.startswith(f"{label}: ")
    for block in flush.blocks:
        for place, quantity in enumerate(QUANTITIES[block.kind]):
            column = block.values[:, place]
            spoken = column[~np.isnan(column)]
            assert ((spoken >= quantity.low) & (spoken <= quantity.high)).all()


def only(flush: Flush) -> Quarantined:
    (entry,) = flush.quarantined
    return entry


@dataclass(frozen=True)
class Case:
    """A message and what has to become of it."""

    topic: bytes
    payload: bytes
    rows: int = 0
    refused: int = 0
    statuses: int = 0
    events: int = 0
    scopes: tuple[Scope, ...] = ()
    oversized: bool = False


def case(topic: bytes, payload: object, **rest: Any) -> Case:
    data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return Case(topic, data, **rest)


MESSAGE = {"refused": 1, "scopes": (Scope.MESSAGE,)}
CASES = [
    case(DUST_TOPIC, reading(), rows=1),
    case(FAR_TOPIC, reading(), rows=1),
    case(CRANE_TOPIC, reading(slew_deg=1.0, alarms=["wind"]), rows=1),
    case(CRANE_TOPIC, reading(alarms=[]), rows=1),
    case(DUST_TOPIC, reading(pm10_ug_m3=1, o3=2), rows=1),
    case(DUST_TOPIC, [reading(), reading(NOW_MS + 1)], rows=2),
    case(DUST_TOPIC, [reading(), {}, 1], rows=1, refused=2, scopes=(Scope.READING,) * 2),
    case(DUST_TOPIC, [1, {}], refused=2, scopes=(Scope.READING,) * 2),
    case(DUST_TOPIC, [1], **MESSAGE),
    case(DUST_TOPIC, [], **MESSAGE),
    case(DUST_TOPIC, b"\xff", **MESSAGE),
    case(DUST_TOPIC, b"", **MESSAGE),
    case(DUST_TOPIC, reading(pm10_ug_m3="x"), **MESSAGE),
    case(DUST_TOPIC, reading(pm10_ug_m3=1, leq_db="x"), rows=1, scopes=(Scope.VALUE,)),
    case(DUST_TOPIC, reading(pm10_ug_m3=1, leq_db=-1), rows=1, scopes=(Scope.VALUE,)),
    case(DUST_TOPIC, reading(pm10_ug_m3=1, leq_db=math.nan), rows=1, scopes=(Scope.VALUE,)),
    case(DUST_TOPIC, reading(leq_db=-1), refused=1, scopes=(Scope.VALUE, Scope.READING)),
    case(DUST_TOPIC, reading(leq_db=-1, o3=1), rows=1, scopes=(Scope.VALUE,)),
    case(CRANE_TOPIC, reading(load_t=1e9, alarms=[]), rows=1, scopes=(Scope.VALUE,)),
    case(DUST_TOPIC, reading(NOW_MS + 300_001), refused=1, scopes=(Scope.READING,)),
    case(DUST_TOPIC, reading(NOW_MS - 86_400_001), refused=1, scopes=(Scope.READING,)),
    case(DUST_TOPIC, reading(NOW_MS + 300_000), rows=1),
    case(DUST_TOPIC, reading(NOW_MS - 86_400_000), rows=1),
    case(DUST_TOPIC, reading(), oversized=True, **MESSAGE),
    case(b"site/s/dust/d2/telemetry", reading(), **MESSAGE),
    case(b"site/s/crane/d1/telemetry", reading(), **MESSAGE),
    case(b"east/site/s/dust/d1/telemetry", reading(), **MESSAGE),
    case(b"site/far/dust/d1/telemetry", reading(), **MESSAGE),
    case(b"site/s/camera/cam/telemetry", reading(), **MESSAGE),
    case(b"\xff/x", reading(), **MESSAGE),
    case(b"site/s/dust/d1/status", {"online": True}, statuses=1),
    case(b"site/s/dust/d1/status", {"online": 1}, scopes=(Scope.STATUS,)),
    case(b"site/s/dust/d1/status", b"\x00", oversized=True, scopes=(Scope.STATUS,)),
    case(b"site/s/camera/cam/status", {"online": False}, statuses=1),
    case(b"site/s/crane/c1/event", {"button": "stop"}, events=1),
    case(b"site/s/crane/c1/event", [1], scopes=(Scope.STATUS,)),
    case(b"site/s/camera/cam/frame/1800000000000", b"\xff\xd8", scopes=(Scope.STATUS,)),
]


def earlier(payload: bytes, ms: int) -> bytes:
    """The payload with all its times moved back."""
    return re.sub(rb"\b1[78]\d{11}\b", lambda ts: str(int(ts[0]) - ms).encode(), payload)


def mixed(cases: list[Case], apart_ms: int) -> Arrivals:
    """Messages that come, and speak of times, that far apart."""
    found = arrivals(
        *[(one.topic, earlier(one.payload, index * apart_ms)) for index, one in enumerate(cases)]
    )
    for index, one in enumerate(cases):
        found.received_us[index] -= index * apart_ms * 1_000
        if one.oversized:
            found.oversized[index] = (10**9, bytes(32))
    return found


@given(st.lists(st.sampled_from(CASES), max_size=25))
@settings(max_examples=150, deadline=None)
def test_every_message_ends_in_one_place_and_the_balance_holds(cases: list[Case]) -> None:
    given_ = mixed(cases, apart_ms=10)
    flush = gather(given_, Routes(DEVICES), LIMITS)
    balances(flush)
    found = Counter(int(index) for block in flush.blocks for index in block.index)
    scopes: dict[int, list[Scope]] = {}
    for entry in flush.quarantined:
        if entry.reason is not Reason.CONFLICT:
            scopes.setdefault(entry.index, []).append(entry.scope)
    for index, one in enumerate(cases):
        assert found[index] <= one.rows
        assert Counter(scopes.get(index, [])) == Counter(one.scopes)
        assert sum(at == index for _, at, _ in flush.statuses) == one.statuses
        assert sum(at == index for _, at, _ in flush.events) == one.events
    assert flush.refused == sum(one.refused for one in cases)
    folded = flush.duplicates + len(flush.merged) + flush.conflicts
    assert rows(flush) == sum(one.rows for one in cases) - folded
    assert flush.readings == sum(one.rows + one.refused for one in cases)
    segment = unpack(flush.segment.body)
    assert segment.topics == given_.topics
    assert segment.payloads == given_.payloads


@given(st.lists(st.sampled_from(CASES), max_size=25))
@settings(max_examples=100, deadline=None)
def test_the_balance_holds_where_many_speak_of_one_time(cases: list[Case]) -> None:
    flush = gather(mixed(cases, apart_ms=0), Routes(DEVICES), LIMITS)
    balances(flush)
    assert flush.readings == sum(one.rows + one.refused for one in cases)
    keys = [
        key
        for block in flush.blocks
        for key in zip(
            block.device_id.tolist(), block.series.tolist(), block.observed_us.tolist(), strict=True
        )
    ]
    assert len(set(keys)) == len(keys)


SPOKEN = ("noise_db", "leq_db", "rain_mm_h")
few = st.dictionaries(st.sampled_from(SPOKEN), st.sampled_from([1.0, 2.0]), min_size=1)
spoken = st.tuples(st.sampled_from([DUST_TOPIC, FAR_TOPIC]), st.integers(0, 2), few)


@given(st.lists(spoken, max_size=12), st.booleans())
@settings(max_examples=150, deadline=None)
def test_the_first_word_on_a_time_stays_and_is_added_to(
    said: list[tuple[bytes, int, dict[str, float]]], hourly: bool
) -> None:
    series = {"series": "hour"} if hourly else {}
    flush = flush_of(
        *[(topic, reading(NOW_MS - ms, **values) | series) for topic, ms, values in said]
    )
    kept: dict[tuple[int, int], dict[str, float]] = {}
    became: Counter[str] = Counter()
    contradicted = 0
    for topic, ms, values in said:
        key = (DUST.id if topic == DUST_TOPIC else FAR.id, ms)
        first = kept.setdefault(key, {})
        wrong = sum(first.get(name, value) != value for name, value in values.items())
        new = values.keys() - first.keys()
        contradicted += wrong
        became[
            "stored" if not first else "merged" if new else "conflict" if wrong else "duplicate"
        ] += 1
        kept[key] = values | first
    found = {}
    for block in flush.blocks:
        names = [quantity.name for quantity in QUANTITIES[block.kind]]
        for row in range(len(block)):
            ms = (NOW_US - int(block.observed_us[row])) // 1_000
            found[int(block.device_id[row]), ms] = {
                name: value
                for name, value in zip(names, block.values[row].tolist(), strict=True)
                if not math.isnan(value)
            }
    assert found == kept
    assert rows(flush) == became["stored"]
    assert len(flush.merged) == became["merged"]
    assert flush.duplicates == became["duplicate"]
    assert (flush.refused, flush.conflicts) == (0, became["conflict"])
    assert len(flush.quarantined) == contradicted
    assert all(entry.reason is Reason.CONFLICT for entry in flush.quarantined)


def test_rows_hold_what_was_sent() -> None:
    flush = flush_of(
        (CRANE_TOPIC, reading(NOW_MS - 5, slew_deg=9.5, alarms=["wind"])),
        (DUST_TOPIC, reading(NOW_MS - 7, noise_db=60) | {"seq": 4, "series": "hour"}),
    )
    assert sorted((block.kind, len(block)) for block in flush.blocks) == [
        (Kind.CRANE, 1),
        (Kind.DUST, 1),
    ]
    by_kind = {block.kind: block for block in flush.blocks}
    crane, dust = by_kind[Kind.CRANE], by_kind[Kind.DUST]
    assert crane.device_id.tolist() == [CRANE.id]
    assert crane.index.tolist() == [0]
    assert crane.alarms == [("wind",)]
    assert crane.observed_us.tolist() == [NOW_US - 5_000]
    assert crane.received_us.tolist() == [NOW_US]
    assert crane.values[0, 0] == 9.5
    assert dust.series.tolist() == [2]
    assert dust.seq == [4]
    assert dust.index.tolist() == [1]


@pytest.mark.parametrize(
    ("topic", "reason", "device", "words"),
    [
        (b"site/s/dust/d9/telemetry", Reason.UNKNOWN_DEVICE, None, ["s/d9", "not registered"]),
        (b"site/x/dust/d1/telemetry", Reason.UNKNOWN_DEVICE, None, ["x/d1", "not registered"]),
        (b"site/s/crane/d1/telemetry", Reason.TOPIC, None, ["s/d1", "dust", "crane"]),
        (b"west/site/s/dust/d1/telemetry", Reason.TOPIC, None, ["s/d1", "west"]),
        (b"site/far/dust/d1/telemetry", Reason.TOPIC, None, ["far/d1", "east/2"]),
        (b"site/s/camera/cam/telemetry", Reason.TYPE, None, ["s/cam", "camera"]),
        (b"nowhere", Reason.TOPIC, None, ["nowhere"]),
        (b"site/s/dust/d 1/telemetry", Reason.TOPIC, None, ["d 1"]),
    ],
)
def test_a_topic_that_leads_nowhere_is_named(
    topic: bytes, reason: Reason, device: int | None, words: list[str]
) -> None:
    flush = flush_of((topic, reading()))
    entry = only(flush)
    assert (entry.scope, entry.reason, entry.device_id) == (Scope.MESSAGE, reason, device)
    for word in words:
        assert word in entry.detail
    assert flush.exceptions == {(hour_of(NOW_US), UNKNOWN_DEVICE, "quarantined"): 1}


def test_a_message_that_is_not_json_names_device_and_byte() -> None:
    entry = only(flush_of((DUST_TOPIC, b'{"ts": nope}')))
    assert entry.reason is Reason.SYNTAX
    assert entry.device_id == DUST.id
    assert entry.detail.startswith("s/d1: ")
    assert "(at byte 7)" in entry.detail


def test_an_oversized_message_says_its_true_size() -> None:
    start = b'{"ts":' + b" " * 60_000
    given_ = arrivals((DUST_TOPIC, start), (DUST_TOPIC, reading()))
    sha256 = hashlib.sha256(b"the whole of it").digest()
    given_.oversized[0] = (123_456_789, sha256)
    flush = gather(given_, Routes(DEVICES), LIMITS)
    balances(flush)
    entry = only(flush)
    assert (entry.index, entry.reason, entry.device_id) == (0, Reason.TOO_LARGE, DUST.id)
    assert "123456789" in entry.detail
    assert given_.payload_facts(0) == (123_456_789, sha256)
    assert given_.payload_facts(1)[0] == len(given_.payloads[1])
    assert rows(flush) == 1


def test_a_value_out_of_range_refuses_the_value_and_says_the_range() -> None:
    flush = flush_of((DUST_TOPIC, reading(noise_db=55.5, pm10_ug_m3=30_001, humidity_pct=-0.1)))
    by_field = {entry.field: entry for entry in flush.quarantined}
    assert by_field.keys() == {"pm10_ug_m3", "humidity_pct"}
    entry = by_field["pm10_ug_m3"]
    assert (entry.scope, entry.reason, entry.value) == (Scope.VALUE, Reason.RANGE, "30001.0")
    assert entry.detail == "s/d1: pm10_ug_m3 30001 is not within 0 to 30000 µg/m³"
    (block,) = flush.blocks
    names = [quantity.name for quantity in QUANTITIES[Kind.DUST]]
    left = {name for name, value in zip(names, block.values[0], strict=True) if not np.isnan(value)}
    assert left == {"noise_db"}
    assert flush.refused == 0
    assert flush.exceptions == {(hour_of(NOW_US), DUST.id, "refused_value"): 2}


@pytest.mark.parametrize("kind", [Kind.DUST, Kind.CRANE])
def test_the_ends_of_every_range_are_within_it(kind: Kind) -> None:
    topic = DUST_TOPIC if kind is Kind.DUST else CRANE_TOPIC
    low = {quantity.name: quantity.low for quantity in QUANTITIES[kind]}
    high = {quantity.name: quantity.high for quantity in QUANTITIES[kind]}
    flush = flush_of((topic, [reading(**low), reading(NOW_MS - 1, **high)]))
    assert flush.quarantined == []
    below = {name: math.nextafter(value, -math.inf) for name, value in low.items()}
    above = {name: math.nextafter(value, math.inf) for name, value in high.items()}
    flush = flush_of((topic, [reading(**below), reading(**above)]))
    assert rows(flush) == 0
    assert flush.refused == 2


@pytest.mark.parametrize(
    ("ts", "words"),
    [(NOW_MS + 3_600_000, "3600 s after"), (NOW_MS - 90_000_000, "90000 s before")],
)
def test_a_time_not_believed_says_how_far_off_it_is(ts: int, words: str) -> None:
    entry = only(flush_of((DUST_TOPIC, reading(ts))))
    assert (entry.scope, entry.reason, entry.device_id) == (Scope.READING, Reason.TIME, DUST.id)
    assert words in entry.detail


@given(reported=st.integers(0, 10**16 - 1), received=st.integers(0, 4 * 10**15))
@settings(deadline=None)
def test_any_time_is_believed_or_rejected(reported: int, received: int) -> None:
    ahead = (reported - received) / 1e6
    try:
        LIMITS.require(reported, received)
    except Rejected as fault:
        rejected = fault
    else:
        assert -86_400 <= ahead <= 300
        return
    assert rejected.reason is Reason.TIME
    assert not -86_400 <= ahead <= 300


def test_one_bad_element_of_a_hundred_leaves_the_others() -> None:
    batch: list[object] = [reading(NOW_MS + number) for number in range(100)]
    batch[41] = {"ts": "never", "values": {"noise_db": 1}}
    flush = flush_of((DUST_TOPIC, batch))
    assert rows(flush) == 99
    assert flush.refused == 1
    assert flush.readings == 100
    entry = only(flush)
    assert (entry.scope, entry.reason) == (Scope.READING, Reason.TIME)
    assert "reading 41" in entry.detail
    assert "never" in entry.detail


@pytest.mark.parametrize(
    ("element", "stored"),
    [
        (lambda _: None, 0),
        (lambda _: {"ts": 1, "values": {}}, 0),
        (lambda number: reading(NOW_MS - number, noise_db="loud", leq_db=1), 10_000),
        (lambda number: reading(NOW_MS - number, noise_db=-1, leq_db=1), 10_000),
        (lambda number: reading(NOW_MS - number, noise_db=-1), 0),
        (lambda number: reading(NOW_MS + 10**9 + number, noise_db=1), 0),
        (lambda number: reading(noise_db=number / 100), 1),
    ],
    ids=["null", "bad times", "bad types", "out of range", "nothing left", "future", "conflicts"],
)
def test_ten_thousand_bad_elements_leave_few_rows(
    element: Callable[[int], object], stored: int
) -> None:
    flush = flush_of((DUST_TOPIC, [element(number) for number in range(10_000)]))
    assert rows(flush) == stored
    assert flush.readings == 10_000
    assert flush.refused + flush.conflicts == 10_000 - stored
    by_scope = Counter(entry.scope for entry in flush.quarantined)
    assert max(by_scope.values()) <= MAX_FAULTS_SHOWN + 1
    last = [entry for entry in flush.quarantined if "more of this message" in entry.detail]
    assert len(last) == len(by_scope)


def test_faults_are_bounded_message_by_message() -> None:
    count = MAX_FAULTS_SHOWN + 5
    bad = [reading(NOW_MS - number, noise_db=-1, leq_db=1) for number in range(2 * count)]
    flush = flush_of((DUST_TOPIC, bad[:count]), (DUST_TOPIC, bad[count:]), (FAR_TOPIC, bad[:2]))
    of = Counter(entry.index for entry in flush.quarantined)
    assert of == {0: MAX_FAULTS_SHOWN + 1, 1: MAX_FAULTS_SHOWN + 1, 2: 2}
    assert {entry.device_id for entry in flush.quarantined if entry.index == 2} == {FAR.id}
    hour = hour_of(NOW_US)
    assert flush.exceptions[hour, DUST.id, "refused_value"] == 2 * count
    assert flush.exceptions[hour, FAR.id, "refused_value"] == 2


def test_status_and_event_are_no_readings() -> None:
    flush = flush_of(
        (b"site/s/dust/d1/status", {"online": False, "detail": "will"}),
        (b"site/s/crane/c1/event", {"key": "left"}),
        (b"site/s/dust/d1/status", b"offline"),
    )
    assert (flush.readings, flush.refused) == (0, 0)
    ((device, index, status),) = flush.statuses
    assert (device, index, status.online, status.detail) == (DUST.id, 0, False, "will")
    ((device, index, event),) = flush.events
    assert (device, index, json.loads(event)) == (CRANE.id, 1, {"key": "left"})
    assert only(flush).scope is Scope.STATUS
    assert flush.exceptions == {(hour_of(NOW_US), DUST.id, "quarantined_status"): 1}


def test_redeliveries_are_counted_by_the_brokers_word() -> None:
    given_ = arrivals(*[(DUST_TOPIC, reading())] * 3)
    given_.flags = [1, 1 | Flag.DUP, Flag.DUP | Flag.RETAIN | 2]
    assert gather(given_, Routes(DEVICES), LIMITS).redelivered == 2


def test_an_empty_flush() -> None:
    flush = flush_of()
    assert (flush.readings, flush.refused, flush.blocks, flush.quarantined) == (0, 0, [], [])


def test_strangers_topics_are_not_remembered() -> None:
    routes = Routes(DEVICES)
    messages = [(f"site/s/dust/x{number}/telemetry".encode(), reading()) for number in range(50)]
    frames = [(f"site/s/camera/cam/frame/{NOW_MS + number}".encode(), b"") for number in range(50)]
    gather(arrivals(*messages, *frames, (DUST_TOPIC, reading())), routes, LIMITS)
    assert set(routes.known) == {DUST_TOPIC}


@given(
    st.lists(
        st.tuples(
            st.sampled_from([DUST_TOPIC, CRANE_TOPIC]) | st.binary(max_size=30),
            st.binary(max_size=30),
        ),
        max_size=5,
    )
)
@settings(max_examples=100, deadline=None)
def test_no_bytes_stop_a_flush(messages: list[tuple[bytes, bytes]]) -> None:
    flush = flush_of(*messages)
    assert flush.readings >= len(messages)


def test_readings_of_one_time_become_one_row() -> None:
    flush = flush_of(
        (DUST_TOPIC, {"ts": NOW_MS, "values": {"pm10_ug_m3": 80}}),
        (DUST_TOPIC, {"ts": NOW_MS, "values": {"noise_db": 61}}),
        (DUST_TOPIC, {"ts": NOW_MS, "values": {"pm10_ug_m3": 80, "noise_db": 61}}),
        (DUST_TOPIC, {"ts": NOW_MS, "values": {"pm10_ug_m3": 81}}),
    )
    (block,) = flush.blocks
    names = [quantity.name for quantity in QUANTITIES[block.kind]]
    assert block.values[0, names.index("pm10_ug_m3")] == 80
    assert block.values[0, names.index("noise_db")] == 61
    assert [met.index for met in flush.merged] == [1]
    assert flush.duplicates == 1
    assert (flush.refused, flush.conflicts) == (0, 1)
    (conflict,) = flush.quarantined
    assert (conflict.index, conflict.reason, conflict.value) == (3, Reason.CONFLICT, "81.0")


def test_a_stuck_clock_costs_one_row_and_no_patience() -> None:
    batch = [{"ts": NOW_MS, "values": {"pm10_ug_m3": number % 3}} for number in range(10_000)]
    flush = flush_of((DUST_TOPIC, batch))
    assert rows(flush) == 1
    assert flush.duplicates + flush.conflicts == 9_999
