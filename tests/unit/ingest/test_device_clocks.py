"""Clocks that are off: timelines of devices, what is repaired, and what keeps its place."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_profiles.errors import Reason
from device_profiles.vocabulary import Kind
from ingest import clocks as clocks_module
from ingest.clocks import (
    FIRST_US,
    FOREVER_US,
    NOT_BELIEVED,
    Clocks,
    ClockTerms,
    Envelope,
    Regime,
    Slots,
    Span,
    Used,
    horizon_of,
    overlay,
    plan,
)
from ingest.pipeline import Arrivals, TimeLimits, gather
from ingest.registry import RegisteredDevice, Routes
from ingest.segments import Flag

S = 1_000_000
MINUTE, HOUR, DAY = 60, 3_600, 86_400
NOW = 1_800_000_000
"""When the timelines begin, seconds since 1970 UTC."""

DEVICE = RegisteredDevice(7, "s", "d1", Kind.DUST, "")
OTHER = RegisteredDevice(9, "s", "d2", Kind.DUST, "")
TOPICS = {DEVICE.id: b"site/s/dust/d1/telemetry", OTHER.id: b"site/s/dust/d2/telemetry"}
LIMITS = TimeLimits(future_s=300, past_s=400 * DAY)

Readings = Sequence[tuple[float, float]]
"""Reported times (seconds since 1970) and values."""


@dataclass(frozen=True)
class Message:
    """One message: when it was received, whose it is, what it says."""

    received_s: float
    readings: Readings
    device: int = DEVICE.id
    flags: int = 1
    series: str = "instant"

    @property
    def payload(self) -> bytes:
        return json.dumps(
            [
                {
                    "ts": round(reported_s * 1_000),
                    "series": self.series,
                    "values": {"pm10_ug_m3": value},
                }
                for reported_s, value in self.readings
            ]
        ).encode()


class Store:
    """What is stored, and the spans: what several workers share."""

    def __init__(self) -> None:
        self.rows: dict[tuple[int, int], tuple[int, float]] = {}
        self.spans: dict[int, tuple[Span, ...]] = {}
        self.put_aside: list[Message] = []
        self.conflicts = 0

    def used(self, device: int, horizon_us: int) -> Used:
        times = sorted(reported for (of, _), (reported, _) in self.rows.items() if of == device)
        before = [time for time in times if time <= horizon_us]
        after = [time for time in times if time > horizon_us]
        return Used(
            before[-1] if before else None,
            after[0] if after else None,
            times[-1] if times else None,
        )

    def decide(self, regime: Regime) -> bool:
        if self.spans.get(regime.device_id, ()) != regime.known:
            return False
        spans = plan(regime, self.used(regime.device_id, horizon_of(regime)))
        ends = [FIRST_US, *(span.reported_to_us for span in spans)]
        assert all(a <= b.reported_from_us for a, b in zip(ends, spans, strict=False))
        assert all(span.reported_from_us < span.reported_to_us for span in spans)
        assert all(span.reported_from_us % S == 0 for span in spans)
        self.spans[regime.device_id] = tuple(spans)
        return True

    def offsets(self) -> list[float | None]:
        """Of the first device's spans, seconds."""
        return [
            None if span.offset_us is None else span.offset_us / S
            for span in self.spans.get(DEVICE.id, ())
        ]


class Worker:
    """A process that takes messages in; its snapshot of the spans is up to 5 s old."""

    def __init__(self, store: Store, terms: ClockTerms | None = None) -> None:
        self.store = store
        self.envelope = Envelope(terms or ClockTerms())
        self.routes = Routes((DEVICE, OTHER))
        self.read_at = 0.0

    def take(self, messages: Sequence[Message]) -> None:
        """Take a flush in."""
        now_s = messages[-1].received_s
        if now_s - self.read_at >= 5:
            self.reload(now_s)
        arrivals = Arrivals(
            [TOPICS[message.device] for message in messages],
            [message.payload for message in messages],
            [message.flags for message in messages],
            [round(message.received_s * S) for message in messages],
        )
        flush = gather(arrivals, self.routes, LIMITS)
        assert all(entry.reason is not Reason.TYPE for entry in flush.quarantined)
        repeated = flush.repeated
        for index in {entry.index for entry in flush.quarantined if entry.reason is Reason.TIME}:
            self.store.put_aside.append(messages[index])
        for block in flush.blocks:
            for row in range(len(block)):
                key = int(block.device_id[row]), int(block.observed_us[row])
                said = int(block.reported_us[row]), float(block.values[row, 1])
                known = self.store.rows.setdefault(key, said)
                if known is said:
                    continue
                assert known[0] == said[0] or known[1] != said[1]
                if known == said:
                    repeated[int(block.index[row])] += 1
                else:
                    self.store.conflicts += 1
        self.envelope.hear(flush.heard, arrivals.flags, repeated)
        for regime in self.envelope.step(self.routes.clocks, arrivals.received_us[-1]):
            self.store.decide(regime)
            self.envelope.forget(regime.device_id)
            self.reload(now_s)

    def reload(self, now_s: float) -> None:
        self.routes = Routes((DEVICE, OTHER), Clocks(self.store.spans))
        self.read_at = now_s


def flushes(messages: Sequence[Message], every_s: float = 1.0) -> Iterator[list[Message]]:
    """Messages in the order they were received, as a consumer writes them."""
    waiting: list[Message] = []
    for message in sorted(messages, key=lambda one: one.received_s):
        if waiting and message.received_s - waiting[0].received_s >= every_s:
            yield waiting
            waiting = []
        waiting.append(message)
    if waiting:
        yield waiting


def live(
    start_s: float,
    seconds: float,
    clock: Callable[[float], float] = lambda true_s: true_s,
    *,
    every_s: float = 1.0,
    latency: Callable[[], float] = lambda: 0.2,
) -> list[Message]:
    """A device that speaks: its clock is a function of the true time."""
    return [
        Message(true_s + latency(), [(clock(true_s), 10 + number % 997 / 10)])
        for number in range(int(seconds / every_s))
        for true_s in (start_s + number * every_s,)
    ]


def run(messages: Sequence[Message], store: Store | None = None) -> Store:
    store = store or Store()
    worker = Worker(store)
    for flush in flushes(messages, every_s=3):
        worker.take(flush)
    return store


def errors(store: Store, messages: Sequence[Message], lag_s: float = 0.2) -> list[float]:
    """How far rows lie from the true time, in the order they came; NaN for what was put aside."""
    by_bytes = {
        (reported, value): observed for (_, observed), (reported, value) in store.rows.items()
    }
    return [
        by_bytes[key] / S - (message.received_s - lag_s) if key in by_bytes else np.nan
        for message in messages
        for key in ((round(message.readings[0][0] * 1_000) * 1_000, message.readings[0][1]),)
    ]


def again(store: Store, messages: Sequence[Message], later_s: float = DAY) -> None:
    """The same bytes once more: no second row, whatever was decided meanwhile."""
    before = dict(store.rows)
    conflicts = store.conflicts
    worker = Worker(store)
    spans = dict(store.spans)
    for flush in flushes(
        [
            Message(one.received_s + later_s, one.readings, one.device, one.flags, one.series)
            for one in messages
        ],
        every_s=3,
    ):
        worker.take(flush)
    known = set(before.values())
    added = [said for key, said in store.rows.items() if key not in before]
    # What was put aside and is believed now is stored for the first time.
    assert not known & set(added)
    assert store.conflicts >= conflicts
    assert store.spans == spans


def test_a_clock_that_is_right_costs_nothing() -> None:
    store = run(live(NOW, 20 * MINUTE))
    assert store.spans == {}
    assert len(store.rows) == 20 * MINUTE


def test_eight_hours_ahead_from_the_start_is_put_aside_then_repaired() -> None:
    messages = live(NOW, 10 * MINUTE, lambda true_s: true_s + 8 * HOUR)
    store = run(messages)
    assert store.spans == {DEVICE.id: (Span(FIRST_US, FOREVER_US, -8 * HOUR * S),)}
    assert 120 <= len(store.put_aside) <= 130
    found = errors(store, messages)
    assert np.isnan(found[: len(store.put_aside)]).all()
    assert np.abs(found[len(store.put_aside) :]).max() < 1
    # What was put aside is read again with the span, as `ingest.retrying` does.
    arrivals = Arrivals(
        [TOPICS[one.device] for one in store.put_aside],
        [one.payload for one in store.put_aside],
        [Flag.RETRIED] * len(store.put_aside),
        [round(one.received_s * S) for one in store.put_aside],
    )
    flush = gather(arrivals, Routes((DEVICE,), Clocks(store.spans)), LIMITS)
    (block,) = flush.blocks
    assert (np.abs(block.observed_us + 200_000 - block.received_us) < S).all()
    again(store, messages, later_s=0)


def test_eight_hours_behind_from_the_start_is_repaired_beyond_what_is_used() -> None:
    messages = live(NOW, 10 * MINUTE, lambda true_s: true_s - 8 * HOUR)
    store = run(messages)
    assert store.offsets() == [8 * HOUR]
    assert store.put_aside == []
    found = errors(store, messages)
    wrong = [error for error in found if error < -HOUR]
    assert 130 <= len(wrong) <= 145
    assert found[: len(wrong)] == wrong
    assert np.abs(found[len(wrong) :]).max() < 1
    again(store, messages)


def test_four_minutes_ahead_is_believed_and_repaired() -> None:
    messages = live(NOW, 10 * MINUTE, lambda true_s: true_s + 240)
    store = run(messages)
    assert store.offsets() == [-240]
    assert store.put_aside == []
    found = np.array(errors(store, messages))
    assert np.nanmax(np.abs(found[150:])) < 1
    # The first readings lie where later ones belong, and the first word on a time stays.
    assert np.isnan(found).sum() == store.conflicts == (found > 239).sum() <= 135
    assert np.abs(found[240 + 135 :]).max() < 1
    again(store, messages)


@pytest.mark.parametrize("rate", [1 / 60, -1 / 60], ids=["fast", "slow"])
def test_drift_gives_a_span_an_hour(rate: float) -> None:
    messages = live(NOW, 4 * HOUR, lambda true_s: true_s + (true_s - NOW) * rate, every_s=20)
    store = run(messages)
    assert 3 <= len(store.offsets()) <= 4
    # Where a span brings a fast clock back, a reading may meet one that was stored too early.
    found = np.array(errors(store, messages))
    assert np.nanmax(np.abs(found)) < 70
    assert np.isnan(found).sum() == store.conflicts < 20
    signs = {np.sign(offset) for offset in store.offsets() if offset}
    assert signs == {-np.sign(rate)}
    again(store, messages)


def test_a_jump_forward_is_repaired_from_its_first_reading() -> None:
    jump_s = NOW + 10 * MINUTE
    messages = live(NOW, HOUR, lambda true_s: true_s + (2 * HOUR if true_s >= jump_s else 0))
    store = run(messages)
    (span,) = store.spans[DEVICE.id]
    assert span.offset_us == -2 * HOUR * S
    assert abs(span.reported_from_us / S - (jump_s + 2 * HOUR)) <= 1
    assert {one.readings[0][0] // 1 for one in store.put_aside} <= {
        jump_s + 2 * HOUR + number for number in range(135)
    }
    found = np.array(errors(store, messages))
    assert np.nanmax(np.abs(found)) < 1
    assert np.isnan(found).sum() == len(store.put_aside)
    again(store, messages, later_s=0)


def test_a_clock_put_right_again_is_followed() -> None:
    """Behind by two hours from the start, then put right: forward, into times never used."""
    fixed_s = NOW + 20 * MINUTE
    messages = live(NOW, HOUR, lambda true_s: true_s - (2 * HOUR if true_s < fixed_s else 0))
    store = run(messages)
    assert store.offsets() == [2 * HOUR, 0]
    assert np.abs(errors(store, messages)[-1000:]).max() < 1


def test_a_jump_back_into_used_times_is_not_believed_until_they_are_past() -> None:
    back_s = NOW + 30 * MINUTE
    messages = live(
        NOW, 60 * MINUTE, lambda true_s: true_s - (10 * MINUTE if true_s >= back_s else 0)
    )
    # Where the times are the same the values are not.
    messages = [
        Message(one.received_s, [(one.readings[0][0], one.readings[0][1] + number / 10_000)])
        for number, one in enumerate(messages)
    ]
    store = run(messages)
    first, second = store.spans[DEVICE.id]
    assert (first.offset_us, second.offset_us) == (None, 10 * MINUTE * S)
    assert back_s <= second.reported_from_us / S <= back_s + 12
    assert first.reported_to_us == second.reported_from_us
    # Until it was seen they contradicted what was stored; then they were put aside.
    assert 120 <= store.conflicts <= 155
    assert 440 <= len(store.put_aside) <= 490
    assert store.conflicts + len(store.put_aside) + len(store.rows) == len(messages)
    found = np.array(errors(store, messages))
    assert np.nanmax(np.abs(found)) < 11
    assert not np.isnan(found[-18 * MINUTE :]).any()
    again(store, messages)


@pytest.mark.parametrize("speed", [1.06, 1.2, 2, 10, 1_000])
def test_a_backlog_keeps_its_place(speed: float) -> None:
    """Three hours without a network; then what was kept, and at its end the device is live."""
    outage_s = NOW + 10 * MINUTE
    back_s = outage_s + 3 * HOUR
    caught_up_s = 3 * HOUR / (speed - 1)
    messages = live(NOW, 10 * MINUTE, every_s=10)
    kept_s = min(caught_up_s + 3 * HOUR, 5 * HOUR)
    for number in range(int(kept_s / 10)):
        true_s = outage_s + number * 10
        sent_s = max(true_s + 0.2, back_s + (true_s - outage_s) / speed)
        messages.append(Message(sent_s, [(true_s, 20 + number % 997 / 10)]))
    store = run(messages)
    assert store.spans == {}
    assert len(store.rows) == len(messages)
    assert all(observed == reported for (_, observed), (reported, _) in store.rows.items())


def test_live_readings_beside_a_backlog_show_that_the_clock_is_right() -> None:
    backlog = [
        Message(one.received_s + 6 * HOUR, one.readings) for one in live(NOW, HOUR, every_s=2)
    ]
    store = run([*backlog, *live(NOW + 6 * HOUR, HOUR, every_s=10)])
    assert store.spans == {}


def test_yesterday_again_at_its_own_pace_makes_no_second_rows() -> None:
    messages = live(NOW, 30 * MINUTE)
    store = run(messages)
    rows = dict(store.rows)
    again(store, messages)
    assert store.rows == rows
    assert store.spans == {}


def test_yesterday_again_with_a_hole_that_is_filled() -> None:
    messages = live(NOW, 40 * MINUTE)
    store = run([*messages[: 10 * MINUTE], *messages[30 * MINUTE :]])
    again(store, messages)
    assert len(store.rows) == len(messages)
    assert store.spans == {}


def test_a_device_that_says_everything_twice_is_repaired_all_the_same() -> None:
    messages = live(NOW, 10 * MINUTE, lambda true_s: true_s - 3 * HOUR)
    twice = [Message(one.received_s + 0.1, one.readings) for one in messages]
    assert run([*messages, *twice]).offsets() == [3 * HOUR]


def test_yesterday_again_of_a_clock_that_was_off() -> None:
    messages = live(NOW, 30 * MINUTE, lambda true_s: true_s - 3 * HOUR)
    store = run(messages)
    rows = dict(store.rows)
    again(store, messages)
    assert store.rows == rows
    assert store.offsets() == [3 * HOUR]


@pytest.mark.parametrize("off_s", [0, 2 * HOUR, -2 * HOUR, 200])
def test_jitter_is_no_clock(off_s: int) -> None:
    jitter = random.Random(5)
    messages = live(
        NOW,
        30 * MINUTE,
        lambda true_s: true_s - off_s,
        latency=lambda: jitter.expovariate(1) % 20,
    )
    store = run(messages)
    assert len(store.offsets()) == bool(off_s)
    assert all(abs((offset or 0) - off_s) <= 1 for offset in store.offsets())


def test_a_few_late_messages_are_no_clock() -> None:
    late = [Message(one.received_s + 500, one.readings) for one in live(NOW, HOUR, every_s=100)]
    assert run(late[:4]).spans == {}


def test_messages_sent_again_say_nothing_of_the_clock() -> None:
    for flag in (Flag.DUP, Flag.RETRIED):
        again_ = [
            Message(one.received_s + HOUR, one.readings, flags=1 | flag)
            for one in live(NOW, 10 * MINUTE)
        ]
        assert run(again_).spans == {}


def test_periods_are_repaired_and_say_nothing_of_the_clock() -> None:
    hours = [
        Message(NOW + number * 60, [(NOW + number * 60 - HOUR, 5.0)], series="hour")
        for number in range(60)
    ]
    assert run(hours).spans == {}
    store = Store()
    store.spans = {DEVICE.id: (Span(FIRST_US, FOREVER_US, 8 * HOUR * S),)}
    worker = Worker(store)
    worker.take([Message(NOW + 9 * HOUR, [(NOW, 5.0)], series="hour")])
    assert list(store.rows) == [(DEVICE.id, (NOW + 8 * HOUR) * S)]


def test_of_an_array_the_newest_reading_counts() -> None:
    """Ten minutes of readings in one message, every ten minutes, from a clock an hour behind."""
    messages = [
        Message(
            NOW + number * 600,
            [(NOW + number * 600 - HOUR - 60 * past, past + number / 10) for past in range(10)],
        )
        for number in range(30)
    ]
    assert run(messages).offsets() == [HOUR]


def test_a_clock_reset_to_its_factory_times_and_put_right() -> None:
    """Ten hours of it, far before anything that was used: repaired; then it goes on as before."""
    year_2010 = 1_262_304_000
    reset_s, fixed_s = NOW + 10 * MINUTE, NOW + 10 * HOUR

    def clock(true_s: float) -> float:
        return year_2010 + (true_s - reset_s) if reset_s <= true_s < fixed_s else true_s

    messages = live(NOW, 11 * HOUR, clock, every_s=20)
    store = run(messages)
    (span,) = store.spans[DEVICE.id]
    assert span.reported_from_us == FIRST_US
    assert span.reported_to_us <= NOW * S
    assert abs((span.offset_us or 0) / S - (reset_s - year_2010)) <= 1
    found = np.array(errors(store, messages))
    assert np.nanmax(np.abs(found)) < 1.1
    assert np.isnan(found).sum() == len(store.put_aside) <= 14


def test_a_reset_into_times_that_are_believed_moves_on_between_used_ones() -> None:
    """Set back 30 days, to before the device was there."""
    reset_s = NOW + 10 * MINUTE
    messages = live(
        NOW, HOUR, lambda true_s: true_s - (30 * DAY if true_s >= reset_s else 0), every_s=2
    )
    store = run(messages)
    assert store.offsets() == [30 * DAY]
    (span,) = store.spans[DEVICE.id]
    assert span.reported_to_us <= NOW * S
    assert store.put_aside == []
    assert np.abs(errors(store, messages)[-1000:]).max() < 1


def test_a_clock_off_within_times_not_believed_is_left_alone() -> None:
    store = Store()
    store.spans = {DEVICE.id: (Span(FIRST_US, FOREVER_US, None),)}
    before = dict(store.spans)
    run(live(NOW, 10 * MINUTE, lambda true_s: true_s - HOUR), store)
    assert store.spans == before
    assert store.rows == {}
    assert len(store.put_aside) == 10 * MINUTE


@pytest.mark.parametrize("off_s", [8 * HOUR, -8 * HOUR, 240, 100])
@pytest.mark.parametrize("seed", range(2))
def test_two_workers_never_give_the_same_bytes_two_keys(off_s: int, seed: int) -> None:
    """Each hears half, every tenth message comes to both, and neither knows of the other."""
    chance = random.Random(seed)
    store = Store()
    workers = (Worker(store), Worker(store))
    messages = live(NOW, 20 * MINUTE, lambda true_s: true_s + off_s)
    for flush in flushes(messages):
        for worker, part in zip(
            workers,
            zip(
                *[
                    (1, 1) if chance.random() < 0.1 else chance.choice([(1, 0), (0, 1)])
                    for _ in flush
                ],
                strict=True,
            ),
            strict=True,
        ):
            chosen = [message for message, is_mine in zip(flush, part, strict=True) if is_mine]
            if chosen:
                worker.take(chosen)
    assert store.offsets() == [-off_s]
    said = Counter(store.rows.values())
    assert max(said.values()) == 1
    assert np.abs(errors(store, messages)[-600:]).max() < 1


def test_devices_are_told_apart() -> None:
    store = Store()
    worker = Worker(store)
    right = live(NOW, 10 * MINUTE)
    behind = [
        Message(one.received_s, [(one.readings[0][0] - HOUR, 1.0)], OTHER.id)
        for one in live(NOW, 10 * MINUTE, every_s=3)
    ]
    for flush in flushes([*right, *behind]):
        worker.take(flush)
    assert set(store.spans) == {OTHER.id}


def test_a_decision_that_failed_is_made_later() -> None:
    store = Store()
    envelope = Envelope(ClockTerms())
    clocks = Clocks()
    found: list[Regime] = []
    routes = Routes((DEVICE,))
    for flush in flushes(live(NOW, 5 * MINUTE, lambda true_s: true_s - HOUR)):
        arrivals = Arrivals(
            [TOPICS[DEVICE.id]] * len(flush),
            [one.payload for one in flush],
            [1] * len(flush),
            [round(one.received_s * S) for one in flush],
        )
        envelope.hear(gather(arrivals, routes, LIMITS).heard, arrivals.flags, Counter())
        found += envelope.step(clocks, arrivals.received_us[-1])
    assert len(found) > 20
    assert {regime.offset_us for regime in found} == {HOUR * S}
    assert found[0].messages < found[-1].messages
    assert "after the time they reported" in found[0].reason
    assert store.decide(found[-1])
    assert not store.decide(found[-1])


def test_much_that_waits_is_looked_at_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clocks_module, "MOST_WAITING", 5)
    ahead = Message(NOW, [(NOW + 240, 1.0)])
    arrivals = Arrivals([TOPICS[DEVICE.id]], [ahead.payload], [1], [NOW * S])
    heard = gather(arrivals, Routes((DEVICE,)), LIMITS).heard
    envelope = Envelope(ClockTerms(window_s=-1))
    found = []
    for _ in range(10):
        envelope.hear(heard, [1], Counter())
        found.append(len(envelope.step(Clocks(), NOW * S)))
    assert found == [0, 0, 0, 0, 1, 0, 0, 0, 0, 1]


def test_where_a_clock_meets_what_is_used_at_once_nothing_is_doubted() -> None:
    regime = Regime(1, 60 * S, NOW * S, NOW * S, (), 5, 120, 60)
    used = Used(NOW * S, (NOW + 11) * S, (NOW + 11) * S)
    assert plan(regime, used) == [
        Span((NOW + 10) * S, (NOW + 21) * S, None),
        Span((NOW + 21) * S, FOREVER_US, 60 * S),
    ]


bounds = st.lists(st.integers(0, 60), min_size=2, max_size=6, unique=True).map(sorted)


@st.composite
def some_spans(draw: st.DrawFn) -> list[Span]:
    """Spans that do not overlap, in order."""
    edges = draw(bounds)
    return [
        Span((NOW + a) * S, (NOW + b) * S, draw(st.one_of(st.none(), st.integers(-9, 9))))
        for a, b in zip(edges[::2], edges[1::2], strict=False)
    ]


def offset_at(spans: Sequence[Span], us: int) -> int | None:
    for span in spans:
        if span.reported_from_us <= us < span.reported_to_us:
            return span.offset_us
    return 0


@given(
    st.dictionaries(st.sampled_from([1, 2, 5, 1_000]), some_spans()),
    st.lists(st.tuples(st.sampled_from([1, 2, 3, 5, 999, 1_000, 2_000]), st.integers(-5, 70))),
)
def test_offsets_are_looked_up_as_one_would_by_hand(
    spans: dict[int, list[Span]], asked: list[tuple[int, int]]
) -> None:
    devices = np.array([device for device, _ in asked], np.int64)
    times = np.array([(NOW + second) * S + 500_000 for _, second in asked], np.int64)
    found = Clocks(spans).offsets(devices, times)
    expected = [
        offset_at(spans.get(device, ()), time)
        for device, time in zip(devices.tolist(), times.tolist(), strict=True)
    ]
    if found is None:
        assert not {device for device, of in spans.items() if of} & set(devices.tolist())
        assert not any(expected)
    else:
        assert found.tolist() == [NOT_BELIEVED if x is None else x for x in expected]


@given(some_spans(), some_spans().filter(bool))
def test_spans_laid_over_others_hide_them(spans: list[Span], over: list[Span]) -> None:
    over = [Span(over[0].reported_from_us, over[-1].reported_to_us, 77)]
    found = overlay(spans, over)
    assert found == sorted(found)
    for second in range(-1, 62):
        us = (NOW + second) * S
        new = offset_at(over, us)
        assert offset_at(found, us) == (new or offset_at(spans, us))


@given(st.lists(st.lists(st.integers(0, 40), max_size=10, unique=True).map(sorted), max_size=8))
def test_slots_are_given_once_and_without_gaps(batches: list[list[int]]) -> None:
    slots = Slots()
    given_: dict[int, int] = {}
    for batch in batches:
        ids = np.array(batch, np.int64)
        assert slots.find(ids).tolist() == [given_.get(one, -1) for one in batch]
        for one, slot in zip(batch, slots.take(ids).tolist(), strict=True):
            assert given_.setdefault(one, slot) == slot
    assert sorted(given_.values()) == list(range(len(given_))) == list(range(len(slots)))
