"""Timelines of what a device says: words and statuses in, who is offline since when out."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.detector import Said
from detectors.rules import SilenceRule
from detectors.silence import SilenceDetector, spoken_at
from device_profiles.findings import Finding, Severity
from device_profiles.readings import DeviceStatus, Reading
from device_profiles.vocabulary import Kind, Series
from tests.unit.detectors.timelines import (
    SITE,
    at,
    bytes_of,
    coverage_of,
    dust,
    episodes,
    findings_of,
    frame,
    run,
    seconds,
    spans,
    status,
)

RULE = SilenceRule()
# A device that speaks each second is offline after 60 s, one that speaks each minute after 180 s.


def detector(
    every_s: float = 1.0,
    registered: float | None = None,
    since: float | None = None,
    online: bool | None = None,
) -> SilenceDetector:
    return SilenceDetector(
        SITE,
        "dust-1",
        RULE,
        every_s,
        None if since is None else at(since),
        timezone="Asia/Shanghai",
        registered_at=None if registered is None else at(registered),
        online=online,
    )


def words(*times: float) -> list[Reading]:
    return [dust(t, 50) for t in times]


@pytest.mark.parametrize(("every_s", "longest_s"), [(1, 60), (20, 60), (60, 180), (3_600, 10_800)])
def test_a_device_is_offline_after_three_of_its_intervals_and_a_minute(
    every_s: float, longest_s: float
) -> None:
    watch = detector(every_s)
    watch.observe(dust(5, 50))

    assert watch.due_at == at(5 + longest_s)
    assert watch.advance(at(5 + longest_s)) == []
    (opened,) = findings_of(watch.advance(at(5 + longest_s + 0.001)))
    assert (opened.opened_at, opened.closed_at) == (at(5), None)
    assert watch.advance(at(9_999_999)) == []
    (closed,) = findings_of(watch.observe(dust(20_000, 50)))
    assert (closed.identity, closed.closed_at) == (opened.identity, at(20_000))


def test_a_finding_says_since_when_and_points_at_the_last_reading() -> None:
    findings, _ = run(detector(), words(0, 1, 200))

    opened, closed = findings
    assert (opened.rule, opened.kind, opened.site, opened.subject, opened.severity) == (
        "device.silence",
        "device_health",
        SITE,
        "dust-1",
        Severity.INFO,
    )
    assert opened.measured == {"expected_every_s": 1.0, "silent_after_s": 60.0}
    assert closed.measured["silent_s"] == 199
    assert [(one.role, seconds(one.observed_at)) for one in opened.evidence] == [("last", 1)]
    assert [(one.role, seconds(one.observed_at)) for one in closed.evidence] == [
        ("last", 1),
        ("next", 200),
    ]
    assert opened.evidence[0].source == dust(1, 50).source
    assert opened.message_zh == "扬尘监测点 dust-1 自 2026-11-21 16:00 起离线"
    assert opened.message_en == "Dust monitor dust-1 offline since 2026-11-21 16:00"
    assert closed.message_zh.endswith("，持续 3 分 19 秒，已恢复")
    assert closed.message_en.endswith(", for 3 min 19 s, then heard again")


def test_a_device_never_heard_is_silent_since_it_was_registered() -> None:
    watch = detector(registered=10)

    assert watch.advance(at(70)) == []
    (opened,) = findings_of(watch.advance(at(71)))
    assert (opened.opened_at, opened.evidence) == (at(10), ())
    assert "登记起从未上线" in opened.message_zh
    assert "not heard since it was registered" in opened.message_en
    (closed,) = findings_of(watch.observe(dust(500, 50)))
    assert closed.identity == opened.identity
    assert episodes([closed]) == [(10, 500)]


def test_what_was_said_before_the_registration_is_passed_over() -> None:
    watch = detector(registered=1_000)

    assert not any(watch.late(word) for word in words(10, 500))
    findings, _ = run(watch, words(10, 500, 1_010, 1_020))
    assert findings == []


@pytest.mark.parametrize(("back_after_s", "expected"), [(5, []), (5.1, [(10, 25.1)])])
def test_said_to_be_offline_it_is_offline_at_once_unless_it_is_heard_again(
    back_after_s: float, expected: list[tuple[float, float]]
) -> None:
    readings = [*words(9, 10), status(20, online=False), *words(20 + back_after_s, 30)]

    findings, _ = run(detector(), readings, end=30)

    assert episodes(findings) == expected


def test_a_last_will_opens_and_a_status_closes() -> None:
    watch = detector()
    run(watch, [status(0, online=True), *words(1, 2), status(2.5, online=False)])

    assert watch.said_offline
    assert watch.open
    assert watch.advance(at(7.5)) == []
    (opened,) = findings_of(watch.advance(at(7.6)))
    assert opened.opened_at == at(2)
    assert [(one.role, seconds(one.observed_at)) for one in opened.evidence] == [
        ("last", 2),
        ("status", 2.5),
    ]
    assert opened.message_en.endswith("(the device or its broker said so)")
    (closed,) = findings_of(watch.observe(status(40, online=True)))
    assert episodes([closed]) == [(2, 40)]
    assert not watch.open
    # It says that it is there, and nothing else: it is silent from then on.
    (again,) = findings_of(watch.advance(at(101)))
    assert again.opened_at == at(40)


def test_a_status_said_again_neither_opens_nor_closes() -> None:
    watch = detector()
    run(watch, [status(0, online=True), *words(1), status(2, online=False), *words(3, 4)])
    for t in range(5, 50):  # what a broker retained, at every subscription
        said = watch.observe(status(t, online=False)) + watch.observe(dust(t + 0.5, 50))
        assert said + watch.advance(at(t + 0.9)) == []

    (opened,) = findings_of(watch.advance(at(200)))
    assert opened.opened_at == at(49.5)
    assert watch.observe(status(210, online=False)) == []
    (closed,) = findings_of(watch.observe(status(220, online=True)))
    assert closed.closed_at == at(220)
    (again,) = findings_of(watch.advance(at(290)))
    assert watch.observe(status(300, online=True)) == []
    assert again.opened_at == at(220)


def test_the_silence_that_came_first_is_the_one_that_is_told() -> None:
    watch = detector()
    run(watch, words(0))
    watch.observe(status(58, online=False))

    (opened,) = findings_of(watch.advance(at(100)))

    assert [one.role for one in opened.evidence] == ["last"]


def test_a_pictures_hash_is_in_the_evidence() -> None:
    watch = SilenceDetector(SITE, "cam-1", RULE, 0.5, kind=Kind.CAMERA)

    findings, _ = run(watch, [frame(0), frame(0.5), frame(100)])

    assert findings[-1].evidence[0].frame_sha256 == frame(0.5).frame_sha256
    assert findings[-1].message_zh.startswith("摄像头 cam-1 自")


def test_a_mean_is_said_at_the_end_of_its_period() -> None:
    assert spoken_at(dust(0, 50, Series.HOUR)) == at(3_600)
    hourly = [dust(hour * 3_600, 50, Series.HOUR) for hour in (0, 1, 2, 6)]

    findings, _ = run(detector(every_s=3_600), hourly)

    assert episodes(findings) == [(3 * 3_600, 7 * 3_600)]


def test_silence_can_be_judged_all_the_time() -> None:
    watch = detector(registered=0)
    findings, coverage = run(watch, words(5, 6, 500), end=600)

    assert spans(coverage) == [(0, 600, None)]
    assert episodes(findings) == [(6, 500), (500, 600)]
    assert findings[-1].message_en.endswith("then the data end")
    assert watch.pending == ()


def test_mistakes_of_the_caller_are_refused() -> None:
    watch = detector()
    run(watch, words(0, 100))
    with pytest.raises(ValueError, match="crane-9"):
        watch.observe(dust(200, 50, device="crane-9"))
    with pytest.raises(ValueError, match="settled"):
        watch.observe(dust(50, 50))
    with pytest.raises(ValueError, match="settled"):
        watch.observe(status(50, online=True))


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize("offline_at", [None, 3, 8])
def test_a_restored_detector_goes_on(is_open: bool, offline_at: float | None) -> None:
    said = words(1, 5)
    heard = said[-1]
    last = status(0, online=True)
    if offline_at is not None:
        last = status(offline_at, online=False)
    history = sorted([status(0, online=True), last, *said], key=lambda one: one.observed_at)
    first = detector(registered=-5)
    run(first, history)
    if is_open:
        first.advance(at(70))
    second = detector(registered=-5)
    second.restore(heard, last, is_open=is_open)

    assert second.due_at == first.due_at
    assert second.settled_at is not None
    for further in (status(90, online=False), dust(100, 50), status(110, online=True)):
        assert bytes_of(first.observe(further)) == bytes_of(second.observe(further))


# Everything that can happen, against the definition.


def _sorted(said: list[Reading]) -> list[Reading]:
    return sorted(said, key=lambda one: (spoken_at(one), isinstance(one, DeviceStatus)))


def expected_episodes(said: list[Reading], end: datetime) -> list[tuple[float, float]]:
    """The definition, word for word: spans between words that are too long, or said to be so."""
    told: bool | None = None
    times: list[datetime] = []
    offline: list[datetime] = []
    for one in _sorted(said):
        if not isinstance(one, DeviceStatus):
            times.append(spoken_at(one))
        elif one.online != told:
            told = one.online
            (times if told else offline).append(one.observed_at)
            if not times:
                times.append(one.observed_at)  # nothing was known before
    found = []
    for one_at, next_at in itertools.pairwise(sorted({*times, end})):
        too_long = (next_at - one_at).total_seconds() > RULE.at_least_s
        said_so = any(
            one_at <= off < next_at and (next_at - off).total_seconds() > RULE.grace_s
            for off in offline
        )
        if too_long or said_so:
            found.append((seconds(one_at), seconds(next_at)))
    return found


@st.composite
def histories(draw: st.DrawFn) -> list[Reading]:
    pauses = st.sampled_from([0.0, 0.5, 1.0, 1.0, 2.0, 4.5, 5.0, 5.5, 30.0, 60.0, 60.5, 200.0])
    what = st.sampled_from(["word", "word", "word", "online", "offline"])
    said: list[Reading] = []
    t = 0.0
    for pause, one in draw(st.lists(st.tuples(pauses, what), min_size=1, max_size=30)):
        t += pause if one == "word" else max(pause, 0.25)  # no two are received at once
        said.append(dust(t, 50) if one == "word" else status(t, online=one == "online"))
    return said


@settings(max_examples=400, deadline=None)
@given(histories(), st.floats(0, 100), st.lists(st.floats(0, 2_000), max_size=15))
def test_what_is_found_is_what_is_defined(
    said: list[Reading], rest: float, ticks: list[float]
) -> None:
    said = _sorted(said)
    end = spoken_at(said[-1]).timestamp() + rest
    watch = detector()
    found: list[Said] = []
    pending = sorted(tick for tick in ticks if at(tick).timestamp() < end)
    for one in said:
        while pending and at(pending[0]) <= spoken_at(one):
            found += watch.advance(at(pending.pop(0)))
        assert not watch.late(one)
        found += watch.observe(one)
    for tick in pending:
        found += watch.advance(at(tick))
    finish = datetime.fromtimestamp(end, UTC)
    found += watch.finish(finish)

    assert episodes(findings_of(found)) == expected_episodes(said, finish)
    assert len(coverage_of(found)) == (said[0].observed_at < finish)


@settings(max_examples=400, deadline=None)
@given(histories(), st.data())
def test_what_comes_in_disorder_changes_nothing_or_is_called_late(
    said: list[Reading], data: st.DataObject
) -> None:
    """Every arrival that is not called late may be taken as it comes."""
    delays = data.draw(
        st.lists(
            st.sampled_from([0.0, 0.0, 0.0, 1.0, 6.0, 70.0]),
            min_size=len(said),
            max_size=len(said),
        )
    )
    arrivals = sorted(
        zip(said, delays, strict=True), key=lambda one: spoken_at(one[0]).timestamp() + one[1]
    )
    end = at(seconds(spoken_at(_sorted(said)[-1])) + 300)

    def make() -> SilenceDetector:
        return detector(registered=0)

    watch, found, came = make(), dict[str, Finding](), list[Reading]()
    for one, delay in arrivals:
        came.append(one)
        if watch.late(one):
            watch, found = make(), {}
            news = [item for known in _sorted(came) for item in watch.observe(known)]
        else:
            news = watch.observe(one)
        news += watch.advance(at(seconds(spoken_at(one)) + delay))
        found |= {item.identity: item for item in findings_of(news)}
    found |= {item.identity: item for item in findings_of(watch.finish(end))}

    straight = make()
    whole = [item for one in _sorted(said) for item in straight.observe(one)]
    expected = episodes(findings_of(whole + straight.finish(end)))
    assert sorted(episodes(found.values())) == sorted(expected)


@settings(max_examples=200, deadline=None)
@given(histories(), st.data())
def test_resumed_at_a_word_with_the_status_of_then_it_says_the_same(
    said: list[Reading], data: st.DataObject
) -> None:
    said = _sorted(said)
    end = at(seconds(spoken_at(said[-1])) + 100)
    first = detector()
    found: list[Said] = []
    calm: list[tuple[datetime, bool | None]] = []
    for one, following in itertools.zip_longest(said, said[1:]):
        found += first.observe(one)
        if not first.open and (following is None or following.observed_at > one.observed_at):
            before = [
                other.online
                for other in said
                if isinstance(other, DeviceStatus) and other.observed_at < one.observed_at
            ]
            if not isinstance(one, DeviceStatus):
                calm.append((one.observed_at, before[-1] if before else None))
    found += first.finish(end)
    if not calm:
        return
    instant, online = data.draw(st.sampled_from(calm))

    second = detector(since=seconds(instant), online=online)
    again: list[Said] = []
    for one in said:
        if one.observed_at >= instant:
            again += second.observe(one)
    again += second.finish(end)

    later = [item for item in findings_of(found) if item.opened_at >= instant]
    assert bytes_of(findings_of(again)) == bytes_of(later)
