"""Whom the second look is asked about, look by look, and what is made of its answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.vision.opinions import (
    ASKED,
    BELIEVED,
    HEAD_SCORE,
    LATELY,
    MOST,
    REMEMBERED,
    Opinions,
    believed,
    logit,
    mean_logit,
)
from device_profiles.readings import Box

T0 = datetime(1970, 1, 1, tzinfo=UTC)


def helmet(x: float = 100.0, y: float = 100.0, score: float = 0.8, label: str = "helmet") -> Box:
    return Box(label, score, (x, y, x + 40, y + 40))


def asked(
    opinions: Opinions, times: Iterable[float], said: Callable[[float], float], box: Box
) -> list[float]:
    """When it was asked about one head, in seconds, and answered."""
    found = []
    for t in times:
        if opinions.to_ask([box], T0 + timedelta(seconds=t)):
            opinions.take({0: said(t)})
            found.append(t)
    return found


def half_seconds(until: float) -> list[float]:
    return [t / 2 for t in range(int(2 * until))]


def test_a_helmet_is_asked_about_until_it_is_believed_and_now_and_then_after() -> None:
    opinions = Opinions()
    assert asked(opinions, half_seconds(30), lambda _: 0.9, helmet()) == [
        *(0, 0.5, 1, 1.5),
        11.5,
        21.5,
    ]
    assert opinions.heard(helmet()) == pytest.approx(0.9)


def test_a_cap_is_asked_about_on_every_look() -> None:
    opinions = Opinions()
    assert asked(opinions, half_seconds(20), lambda _: 0.2, helmet()) == half_seconds(20)
    assert opinions.heard(helmet()) == pytest.approx(0.2)


def test_one_bad_answer_is_asked_about_again_at_once() -> None:
    opinions = Opinions()
    times = asked(opinions, half_seconds(30), lambda t: 0.1 if t == 11.5 else 0.9, helmet())
    assert times == [0, 0.5, 1, 1.5, 11.5, 12, 12.5, 13, 23]
    heard = opinions.heard(helmet())
    assert heard is not None
    assert 0.5 < heard < 0.9


def test_a_cap_changed_for_a_helmet_is_believed_soon() -> None:
    opinions = Opinions()
    times = asked(opinions, half_seconds(60), lambda t: 0.1 if t < 30 else 0.9, helmet())
    assert times[:60] == half_seconds(30)
    assert len(times[60:]) <= REMEMBERED + 3


def test_a_head_whose_answers_waver_is_asked_about_on_every_look() -> None:
    """Else the rule would hear nothing more of it, and take silence for belief."""

    def said(t: float) -> float:
        return 0.9 if t >= 30 else 0.4 if t % 1.5 == 0 else 0.7

    opinions = Opinions()
    times = asked(opinions, half_seconds(60), said, helmet())
    assert times[:60] == half_seconds(30)
    assert len(times[60:]) <= LATELY + 2


@pytest.mark.parametrize(
    ("answers", "clear"),
    [
        ([], False),
        ([0.6], True),
        ([0.6] * 8, True),
        ([0.4, 0.6, 0.6, 0.6], False),
        ([0.6, 0.4, 0.9, 0.9], True),
        ([0.9, 0.9, 0.4, 0.9], True),
        ([0.9, 0.9, 0.1, 0.9], False),
        # Clear at last, but not taken together.
        ([0.01, 0.01, 0.01, 0.01, 0.8, 0.8, 0.8, 0.8], False),
        ([0.1, 0.1, 0.1, 0.95, 0.95, 0.95], True),
        # Clear once, and no more.
        ([0.95, 0.95, 0.95, 0.95, 0.4, 0.6, 0.6, 0.6], False),
    ],
)
def test_answers_among_which_one_doubts_have_to_be_clear(answers: list[float], clear: bool) -> None:
    assert believed(answers) == clear


def test_sure_answers_weigh_more_and_none_without_bound() -> None:
    opinions = Opinions()
    asked(opinions, [0, 1, 2], lambda t: 0.0 if t == 0 else 0.8, helmet())
    heard = opinions.heard(helmet())
    assert heard is not None
    assert heard < 0.5
    assert logit(0.0) == logit(0.01) == pytest.approx(-logit(1.0))
    assert logit(0.5) == 0
    assert mean_logit([]) is None


def test_only_helmets_seen_well_are_asked_about() -> None:
    boxes = [
        helmet(0, label="head"),
        helmet(100, score=HEAD_SCORE - 0.01),
        helmet(200, label="person"),
        helmet(300, score=HEAD_SCORE),
    ]
    opinions = Opinions()
    assert opinions.to_ask(boxes, T0) == [3]
    assert [opinions.heard(box) for box in boxes] == [None] * 4
    opinions.take({3: 0.9})
    assert [opinions.heard(box) is None for box in boxes] == [True, True, True, False]


def test_neighbours_keep_their_own_opinions_while_they_move() -> None:
    opinions = Opinions()
    for t in range(12):
        boxes = [helmet(100 + 15 * t), helmet(145 + 15 * t)]
        if t % 2:
            boxes.reverse()
        places = opinions.to_ask(boxes, T0 + timedelta(seconds=t / 2))
        cap = 1 - t % 2
        assert cap in places
        opinions.take({place: 0.1 if place == cap else 0.9 for place in places})
        assert opinions.heard(boxes[cap]) == pytest.approx(0.1)
        assert opinions.heard(boxes[1 - cap]) == pytest.approx(0.9)


def test_what_was_not_seen_for_long_is_forgotten() -> None:
    def known_after(pause: timedelta) -> bool:
        opinions = Opinions()
        asked(opinions, half_seconds(10), lambda _: 0.9, helmet())
        last = T0 + timedelta(seconds=9.5)
        assert opinions.to_ask([], last + pause / 2) == []
        opinions.to_ask([helmet()], last + pause)
        return opinions.heard(helmet()) is not None

    assert known_after(BELIEVED)
    assert not known_after(BELIEVED + timedelta(seconds=1))


def test_a_time_before_the_last_begins_anew() -> None:
    opinions = Opinions()
    assert asked(opinions, [1_000 + t for t in range(ASKED + 1)], lambda _: 0.9, helmet()) == [
        1_000 + t for t in range(ASKED)
    ]
    assert asked(opinions, range(ASKED + 1), lambda _: 0.9, helmet()) == list(range(ASKED))


def test_an_answer_that_could_not_be_had_is_asked_for_again() -> None:
    opinions = Opinions()
    for t in range(20):
        assert opinions.to_ask([helmet()], T0 + timedelta(seconds=t)) == [0]
    assert opinions.heard(helmet()) is None


def test_memory_is_bounded() -> None:
    opinions = Opinions()
    crowd = [helmet(50.0 * column, 50.0 * row) for row in range(20) for column in range(20)]
    assert opinions.to_ask(crowd, T0) == list(range(len(crowd)))
    opinions.take(dict.fromkeys(range(len(crowd)), 0.9))
    assert sum(opinions.heard(box) is not None for box in crowd) == MOST


@given(st.lists(st.floats(0, 1), min_size=1, max_size=REMEMBERED))
def test_what_was_heard_is_a_probability_on_the_side_of_the_mean(answers: list[float]) -> None:
    opinions = Opinions()
    for t, answer in enumerate(answers):
        opinions.to_ask([helmet()], T0 + timedelta(seconds=t))
        opinions.take({0: answer})
    heard, mean = opinions.heard(helmet()), mean_logit(answers)
    assert heard is not None
    assert mean is not None
    assert math.isclose(logit(heard), mean, abs_tol=1e-9)
