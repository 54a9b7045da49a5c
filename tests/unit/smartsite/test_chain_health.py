"""The chain and the devices' own health: who is heard, when silence counts, and what that costs."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

import msgspec
import pytest

from detectors.detector import Said
from detectors.rules import Rules
from device_profiles.findings import Coverage, Finding
from device_profiles.readings import DeviceStatus, FrameSeen, Source
from device_profiles.vocabulary import Kind, Series
from ingest.store.readings import StoredDevice
from smartsite.chain import CROWD, DEAF_CROWD, MOST_LAG, Chain, Subject
from tests.unit.smartsite.test_chain_wiring import T0, at, bare_head, dust

# A device that speaks every second is offline after a minute.


def device(
    name: str, kind: Kind = Kind.DUST, registered: float | None = None, every_s: float = 1.0
) -> StoredDevice:
    since = None if registered is None else at(registered)
    return StoredDevice(1, "s", name, kind, every_s, None, since, "Asia/Shanghai")


def status(seconds: float, name: str, *, online: bool) -> DeviceStatus:
    return DeviceStatus(
        site="s",
        device=name,
        observed_at=at(seconds),
        received_at=at(seconds),
        source=Source(1, 1, 0),
        online=online,
    )


def frame(seconds: float) -> FrameSeen:
    return FrameSeen(
        site="s",
        device="cam",
        observed_at=at(seconds),
        received_at=at(seconds),
        source=Source(2, 1, 0),
        frame_sha256="00" * 32,
    )


def health(said: Iterable[Said]) -> list[tuple[str, str, datetime, datetime | None]]:
    return [
        (item.rule, item.subject, item.opened_at, item.closed_at)
        for item in said
        if isinstance(item, Finding) and item.kind == "device_health"
    ]


def silent(said: Iterable[Said]) -> set[str]:
    return {subject for _, subject, _, closed_at in health(said) if closed_at is None}


def test_pictures_are_a_cameras_words_and_detections_are_not() -> None:
    chain = Chain(Rules(), [device("cam", Kind.CAMERA, registered=0)])
    chain.observe([frame(second) for second in range(50)])
    chain.observe([bare_head(100)])  # somebody looked at it late
    assert health(chain.advance(at(109))) == []
    assert silent(chain.advance(at(110))) == {"cam"}
    judged = chain.observe([frame(200)])
    assert health(judged.said) == [("device.silence", "cam", at(49), at(200))]
    assert silent(chain.advance(at(261))) == {"cam"}


def test_a_will_is_heard_and_its_refutation() -> None:
    chain = Chain(Rules(), [device("d1"), device("d2")])
    chain.observe([dust(0, 5), dust(0, 5, "d2")])
    chain.observe([status(1, "d1", online=False), status(1, "d2", online=False)])
    chain.observe([dust(3, 5, "d2")])
    assert silent(chain.advance(at(6))) == set()
    assert silent(chain.advance(at(7))) == {"d1"}
    assert silent(chain.advance(at(8))) == set()  # it is said once
    assert silent(chain.advance(at(64))) == {"d2"}
    judged = chain.observe([status(70, "d1", online=True)])
    assert health(judged.said) == [("device.silence", "d1", at(0), at(70))]
    assert silent(chain.advance(at(131))) == {"d1"}


def test_a_clock_that_jumps_is_told_of_any_telemetry() -> None:
    chain = Chain(Rules(), [device("d1")])
    off = [msgspec.structs.replace(dust(t, 5), clock_offset_s=-3_600.0) for t in range(5, 9)]
    judged = chain.observe([dust(0, 5), *off, dust(9, 5)])
    assert health(judged.said) == [
        ("device.clock", "d1", at(5), None),
        ("device.clock", "d1", at(5), at(9)),
    ]


def test_means_keep_a_device_alive() -> None:
    chain = Chain(Rules(), [device("d1", registered=0, every_s=60)])
    for minute in range(60):
        mean = msgspec.structs.replace(dust(60 * minute, 5), series=Series.MINUTE)
        judged = chain.observe([mean], at(60 * minute + 61))
        assert (judged.said, judged.late) == ([], {})
        assert health(chain.advance(at(60 * minute + 61))) == []
    assert silent(chain.advance(at(3_600 + 181))) == {"d1"}


def test_a_word_that_falls_into_an_episode_is_late_and_no_other() -> None:
    chain = Chain(Rules(), [device("d1", registered=0)])
    subject = Subject("device.silence", "s", ("d1",))
    chain.observe([dust(0, 5), dust(10, 5), dust(100, 5), dust(130, 5)])
    assert subject not in chain.observe([dust(120, 5)]).late
    judged = chain.observe([dust(50, 5), dust(140, 5), dust(40, 5)])
    assert judged.late[subject] == at(40)
    assert silent(chain.advance(at(189))) == set()


def test_who_is_silent_is_told_once_whatever_was_put_aside_to_look_at() -> None:
    chain = Chain(Rules(), [device(f"d{n}", registered=0) for n in range(30)])
    told: list[str] = []
    for second in range(0, 300, 7):
        chain.observe(
            dust(second, 5, f"d{n}") for n in range(30) if n % 3 or second < 100 or second > 200
        )
        told += [subject for _, subject, _, end in health(chain.advance(at(second))) if end is None]
    assert sorted(told) == sorted(f"d{n}" for n in range(0, 30, 3))


def test_batches_are_waited_for_and_a_silence_after_them_is_seen() -> None:
    chain = Chain(Rules(), [device("d1", registered=0)])
    said: list[Said] = []
    for batch in range(1, 20):  # a hundred readings at once, every hundred seconds
        now = at(100 * batch)
        said += chain.observe([dust(100 * (batch - 1) + n, 5) for n in range(100)], now).said
        said += [one for t in range(100) for one in chain.advance(at(100 * batch + t))]
    assert health(said) == []
    assert silent(chain.advance(at(1_900 + 260))) == {"d1"}


def test_what_waited_for_hours_is_no_measure_of_how_long_to_wait() -> None:
    chain = Chain(Rules(), [device("d1", registered=0)])
    chain.observe([dust(n, 5) for n in range(100)], at(40_000))
    assert at(160) + MOST_LAG < at(40_061) < at(159 + 40_000)
    assert silent(chain.advance(at(40_061))) == {"d1"}


@pytest.mark.parametrize("devices", [CROWD - 1, CROWD])
def test_while_nobody_is_heard_a_crowd_is_not_called_silent(devices: int) -> None:
    """It is more likely that nothing reaches us: the broker is away, or the network."""
    chain = Chain(Rules(), [device(f"d{n}", registered=0) for n in range(devices)])
    chain.listen(at(0))
    chain.observe([dust(10, 5, f"d{n}") for n in range(devices)], at(10))
    called = devices if devices < CROWD else 0
    assert len(silent(chain.advance(at(100)))) == called
    assert len(silent(chain.advance(at(11) + DEAF_CROWD))) == devices - called


def test_while_a_backlog_comes_in_silence_counts_only_up_to_what_was_heard() -> None:
    chain = Chain(Rules(), [device("d1", registered=0), device("d2", registered=0)])
    chain.listen(at(3_600))  # after an hour away
    said = chain.advance(at(3_601))
    for second in range(0, 3_600, 20):  # what d1 said comes first, what d2 said behind it
        now = at(3_602 + second / 1_000)
        said += chain.observe([dust(second, 5)], now).said
        said += chain.observe([dust(second, 5, "d2")] if second < 1_000 else [], now).said
        said += chain.advance(now)
    assert health(said) == [("device.silence", "d2", at(980), None)]


def test_a_restart_is_given_a_minute_to_hear_somebody() -> None:
    chain = Chain(Rules(), [device("d1", registered=0)])
    chain.listen(at(5_000))
    assert health(chain.advance(at(5_059))) == []
    assert silent(chain.advance(at(5_061))) == {"d1"}


def test_what_stayed_the_same_goes_on_in_another_chain() -> None:
    before = Chain(Rules(), [device("d1", registered=0), device("d2", registered=0)])
    before.observe([dust(n, 5, name) for n in range(100) for name in ("d1", "d2")])
    changed = device("d2", registered=0, every_s=600.0)
    after = Chain(Rules(), [device("d1", registered=0), changed, device("d3", registered=50)])
    kept = after.take_over(before)
    assert {(subject.rule, subject.text) for subject in kept} == {
        ("device.silence", "d1"),
        ("device.clock", "d1"),
        ("device.unit", "d1"),
        ("dust.pm10_mean", "d1"),
    }
    assert sorted(health(after.advance(at(170)))) == [
        ("device.silence", "d1", at(99), None),
        ("device.silence", "d3", at(50), None),
    ]


def test_no_coverage_is_said_of_health() -> None:
    chain = Chain(Rules(), [device("d1", registered=0)])
    chain.observe(dust(n, 5) for n in range(2_000))
    said = [*chain.pending(), *chain.advance(T0 + timedelta(days=1))]
    assert {item.rule for item in said if isinstance(item, Coverage)} == {"dust.pm10_mean"}


def test_milligrams_taken_for_micrograms_are_found_by_the_chain() -> None:
    chain = Chain(Rules(), [device("d1", registered=0)])
    said = chain.observe(dust(60 * n, 0.081) for n in range(70)).said
    assert ("device.unit", "d1", at(0), None) in health(said)
