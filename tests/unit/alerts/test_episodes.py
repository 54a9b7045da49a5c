"""Which violation a finding speaks of. Figures are minutes."""

from datetime import datetime

import msgspec
import pytest

from alerts.episodes import Match, amendment, latest, match, require_sound
from alerts.errors import UnsoundFinding
from alerts.life import Event, State
from device_profiles.findings import Finding, Severity
from tests.unit.alerts.samples import T0, at, evidence, finding, violation


@pytest.mark.parametrize(
    ("booked", "said", "same"),
    [
        ((0, 10), (0, 10), True),
        ((0, 10), (2, 8), True),
        ((2, 8), (0, 10), True),
        ((0, 10), (-5, 1), True),
        ((0, 10), (9, 20), True),
        ((0, 10), (10, 20), False),
        ((0, 10), (-5, 0), False),
        ((0, 10), (12, 20), False),
        ((0, 10), (5, 5), True),
        ((5, 5), (0, 10), True),
        ((5, 5), (5, 5), True),
        ((0, None), (30, 40), True),
        ((0, None), (-5, -1), False),
        ((0, None), (30, None), True),
        ((10, None), (5, None), True),
        ((0, 10), (5, None), True),
        ((0, 10), (0, None), True),
        ((10, 20), (5, None), False),
    ],
)
def test_overlap(
    booked: tuple[float, float | None], said: tuple[float, float | None], same: bool
) -> None:
    there, finding_ = violation(finding(*booked)), finding(*said)
    assert match(finding_, [there]) == (Match(there) if same else Match(None))


def test_what_lasts_reaches_as_far_as_its_evidence() -> None:
    there = violation(finding(10, 20))
    assert match(finding(5, None, known=9), [there]).same is None
    assert match(finding(5, None, known=11), [there]).same == there


def test_the_same_id_goes_before_an_earlier_one() -> None:
    early, same = violation(finding(0, 10)), violation(finding(5, 20))
    assert match(finding(5, 30), [early, same]) == Match(same, (early,))


def test_parts_of_one_episode_are_merged_into_the_earliest() -> None:
    parts = [violation(finding(*span)) for span in ((0, 10), (12, 20), (40, 50))]
    assert match(finding(-1, 25), parts) == Match(parts[0], (parts[1],))


def test_what_people_withdrew_does_not_come_back() -> None:
    withdrawn = violation(finding(0, 10), State.WITHDRAWN)
    assert match(finding(0, None), [withdrawn]).same == withdrawn
    moved = msgspec.structs.replace(withdrawn, id="of an opening that was amended")
    assert match(finding(0, 12), [moved]).same == moved


def test_another_episode_near_a_withdrawn_one_is_new() -> None:
    withdrawn = violation(finding(0, 10), State.WITHDRAWN)
    assert match(finding(5, 12), [withdrawn]).same is None


def test_nothing_new() -> None:
    for said in (finding(0), finding(0, known=5), finding(0, 10)):
        assert amendment(violation(said), said) is None


def test_wording_alone_is_nothing_new() -> None:
    said = finding(0, 10)
    assert amendment(violation(said), msgspec.structs.replace(said, message_en="other")) is None


def test_it_ends() -> None:
    amended = amendment(violation(finding(0, known=5)), finding(0, 10))
    assert amended is not None
    assert amended.event is Event.CLOSED
    assert amended.changed == {"closed_at": [None, at(10)], "evidence": "changed"}
    assert not amended.reopened


def test_it_grows_worse() -> None:
    there = violation(finding(0))
    amended = amendment(there, finding(0, known=5, severity=Severity.CRITICAL, mean=200))
    assert amended is not None
    assert amended.event is Event.AMENDED
    assert amended.severity_rose
    assert amended.changed == {
        "severity": [Severity.WARNING, Severity.CRITICAL],
        "measured": "changed",
        "evidence": "changed",
    }


def test_it_was_less_bad_after_all() -> None:
    amended = amendment(violation(finding(0, 10)), finding(0, 10, severity=Severity.INFO))
    assert amended is not None
    assert not amended.severity_rose


def test_a_replay_that_knows_less_changes_nothing() -> None:
    there = violation(finding(0, known=9, severity=Severity.CRITICAL))
    for minutes in range(9):
        assert amendment(there, finding(0, known=minutes)) is None
    closed = violation(finding(0, 10, severity=Severity.CRITICAL))
    for minutes in range(11):
        assert amendment(closed, finding(0, known=minutes)) is None


def test_it_goes_on_after_all() -> None:
    amended = amendment(violation(finding(0, 10)), finding(0, known=11))
    assert amended is not None
    assert (amended.event, amended.reopened) == (Event.AMENDED, True)


def test_its_end_was_earlier() -> None:
    amended = amendment(violation(finding(0, 10)), finding(0, 8))
    assert amended is not None
    assert amended.event is Event.AMENDED
    assert not amended.reopened
    assert amended.changed["closed_at"] == [at(10), at(8)]


def test_only_the_last_saying_counts() -> None:
    opened, other, closed = finding(0), finding(1, subject="dust-2"), finding(0, 10)
    assert latest([opened, other, closed]) == [other, closed]


def changed(**fields: object) -> Finding:
    return msgspec.structs.replace(finding(0, 10), **fields)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (changed(rule=""), "rule is empty"),
        (changed(subject=""), "subject is empty"),
        (changed(closed_at=at(-1)), "lies before"),
        (changed(opened_at=datetime(2026, 1, 1)), "has no zone"),  # noqa: DTZ001
        (changed(measured={"mean": float("nan")}), "mean is nan"),
        (changed(measured={"mean": float("inf")}), "mean is inf"),
        (changed(evidence=(evidence(0, value=float("nan")),)), "pm10_ug_m3 is nan"),
        (changed(message_zh="a\0b"), "cannot be stored"),
        (changed(subject="\udc00"), "cannot be stored"),
        (
            changed(evidence=(msgspec.structs.replace(evidence(0), role="\0"),)),
            "cannot be stored",
        ),
        (
            changed(
                evidence=(
                    msgspec.structs.replace(
                        evidence(0), boxes=(("head", float("nan"), 0.0, 0.0, 1.0, 1.0),)
                    ),
                )
            ),
            "head is nan",
        ),
    ],
)
def test_an_unsound_finding_is_refused(said: Finding, message: str) -> None:
    with pytest.raises(UnsoundFinding, match=message):
        require_sound(said)


def test_a_sound_finding_passes() -> None:
    require_sound(finding(0, 10))
    require_sound(finding(0, 0))
    assert T0.utcoffset() is not None
