"""Bodies of cranes and distances between them: by hand, by brute force, by invariance."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.geometry import (
    COUNTER_JIB,
    JIB,
    MAST,
    ROPE,
    Bodies,
    Segment,
    bodies,
    can_meet,
    nearest,
    segment_distance,
)
from device_profiles.sites import CraneGeometry

TOLERANCE_M = 1e-6
PARALLEL_M = 1e-4
"""What taking nearly parallel segments for parallel may cost, on segments of some 700 metres."""


def geometry(x: float = 0, y: float = 0, height: float = 40, **more: float) -> CraneGeometry:
    values = {"jib_m": 50.0, "counter_jib_m": 12.0} | more
    return CraneGeometry.model_validate({"x_m": x, "y_m": y, "jib_height_m": height, **values})


@pytest.mark.parametrize(
    ("p", "q", "expected"),
    [
        # They cross.
        ((0, 0, 0, 10, 0, 0), (5, -5, 0, 5, 5, 0), 0),
        # One passes over the other.
        ((0, 0, 0, 10, 0, 0), (5, -5, 3, 5, 5, 3), 3),
        # They would cross, were they longer: end against inside, end against end.
        ((0, 0, 0, 10, 0, 0), (5, 2, 0, 5, 9, 0), 2),
        ((0, 0, 0, 10, 0, 0), (13, 4, 0, 20, 4, 0), 5),
        # Parallel: side by side, shifted, in one line, overlapping.
        ((0, 0, 0, 10, 0, 0), (0, 4, 0, 10, 4, 0), 4),
        ((0, 0, 0, 10, 0, 0), (8, 4, 0, 18, 4, 0), 4),
        ((0, 0, 0, 10, 0, 0), (13, 0, 0, 18, 0, 0), 3),
        ((0, 0, 0, 10, 0, 0), (18, 0, 0, 13, 0, 0), 3),
        ((0, 0, 0, 10, 0, 0), (5, 0, 0, 15, 0, 0), 0),
        # Hardly not parallel, crossing.
        ((0, 0, 0, 100, 0, 0), (0, -1e-7, 0, 100, 1e-7, 0), 0),
        # Without length: a point on a line, beyond its end, and two points.
        ((5, 3, 4, 5, 3, 4), (0, 0, 0, 10, 0, 0), 5),
        ((13, 4, 0, 13, 4, 0), (0, 0, 0, 10, 0, 0), 5),
        ((1, 2, 3, 1, 2, 3), (1, 2, 10, 1, 2, 10), 7),
        ((1, 2, 3, 1, 2, 3), (1, 2, 3, 1, 2, 3), 0),
    ],
)
def test_distance_of_segments_by_hand(p: Segment, q: Segment, expected: float) -> None:
    assert segment_distance(p, q) == pytest.approx(expected, abs=TOLERANCE_M)
    assert segment_distance(q, p) == pytest.approx(expected, abs=TOLERANCE_M)


metres = st.floats(-200, 200) | st.integers(-5, 5).map(float)
points = st.tuples(metres, metres, metres)


@st.composite
def segments(draw: st.DrawFn) -> tuple[Segment, Segment]:
    """Two segments: any, parallel ones, nearly parallel ones, ones without length."""
    a, b, c, d = draw(points), draw(points), draw(points), draw(points)
    match draw(st.sampled_from(["any", "parallel", "nearly", "point", "same"])):
        case "parallel":
            k = draw(st.floats(-2, 2))
            d = (c[0] + k * (b[0] - a[0]), c[1] + k * (b[1] - a[1]), c[2] + k * (b[2] - a[2]))
        case "nearly":
            e = draw(st.sampled_from([1e-12, 1e-9, 1e-7, 1e-6, 1e-5, 1e-3]))
            c = (a[0] + e, a[1] - e, a[2] + e)
            d = (b[0] - e, b[1] + e, b[2])
        case "point":
            d = c
        case "same":
            c, d = b, a
    return (*a, *b), (*c, *d)


def turned(segment: Segment, angle: float, by: tuple[float, float, float]) -> Segment:
    """Turn about the vertical axis, then shift."""
    cos, sin = math.cos(angle), math.sin(angle)
    x, y, z, x2, y2, z2 = segment
    return (
        cos * x - sin * y + by[0],
        sin * x + cos * y + by[1],
        z + by[2],
        cos * x2 - sin * y2 + by[0],
        sin * x2 + cos * y2 + by[1],
        z2 + by[2],
    )


@settings(max_examples=300, deadline=None)
@given(segments())
def test_distance_agrees_with_sampling(pair: tuple[Segment, Segment]) -> None:
    p, q = np.array(pair[0]), np.array(pair[1])
    steps = np.linspace(0, 1, 101)[:, None]
    on_p = p[:3] + steps * (p[3:] - p[:3])
    on_q = q[:3] + steps * (q[3:] - q[:3])
    sampled = float(np.linalg.norm(on_p[:, None, :] - on_q[None, :, :], axis=2).min())
    # The nearest points lie within half a step of sampled ones.
    step = float(np.linalg.norm(p[3:] - p[:3]) + np.linalg.norm(q[3:] - q[:3])) / 200

    distance = segment_distance(*pair)

    assert distance <= sampled + PARALLEL_M
    assert distance >= sampled - step - TOLERANCE_M


@settings(max_examples=300, deadline=None)
@given(segments(), st.floats(-math.pi, math.pi), points)
def test_distance_does_not_depend_on_order_direction_place_or_bearing(
    pair: tuple[Segment, Segment], angle: float, by: tuple[float, float, float]
) -> None:
    p, q = pair
    distance = segment_distance(p, q)

    assert segment_distance(q, p) == pytest.approx(distance, abs=TOLERANCE_M)
    assert segment_distance((*p[3:], *p[:3]), q) == pytest.approx(distance, abs=TOLERANCE_M)
    moved = segment_distance(turned(p, angle, by), turned(q, angle, by))
    assert moved == pytest.approx(distance, abs=PARALLEL_M)


def test_bearings_are_a_compass() -> None:
    for slew_deg, tip in [(0, (0, 50)), (90, (50, 0)), (180, (0, -50)), (-90, (-50, 0))]:
        jib = bodies(geometry(), slew_deg, 20, 10).segments[JIB]
        assert jib is not None
        assert jib[3:5] == pytest.approx(tip, abs=1e-9)
    jib = bodies(geometry(slew_zero_deg=90), 450, 20, 10).segments[JIB]
    assert jib is not None
    assert jib[3:5] == pytest.approx((0, -50), abs=1e-9)


def test_bodies_by_hand() -> None:
    placed = bodies(geometry(10, 20, 40, base_m=5, top_height_m=48), 90, 30, 12)

    assert placed.fault is None
    mast, jib, counter_jib, rope = placed.segments
    assert mast == pytest.approx((10, 20, 5, 10, 20, 53))
    assert jib == pytest.approx((10, 20, 45, 60, 20, 45))
    assert counter_jib == pytest.approx((10, 20, 45, -2, 20, 45))
    assert rope == pytest.approx((40, 20, 45, 40, 20, 17))


def test_a_luffed_jib_rises_and_the_rope_hangs_from_it() -> None:
    placed = bodies(geometry(), 90, 20, 10, luff_deg=60)

    _, jib, counter_jib, rope = placed.segments
    assert jib == pytest.approx((0, 0, 40, 25, 0, 40 + 50 * math.sin(math.pi / 3)))
    assert counter_jib == pytest.approx((0, 0, 40, -12, 0, 40))
    assert rope == pytest.approx((20, 0, 40 + 20 * math.sqrt(3), 20, 0, 10))


@pytest.mark.parametrize(
    ("said", "known", "fault"),
    [
        ((None, 20, 10, None), 1, "missing_quantity"),
        ((math.nan, 20, 10, None), 1, "missing_quantity"),
        ((0, None, 10, None), 3, "missing_quantity"),
        ((0, 20, None, None), 3, "missing_quantity"),
        ((0, 20, math.inf, None), 3, "missing_quantity"),
        ((0, 53.7, 10, None), 3, "out_of_range"),
        ((0, 20, 45, None), 3, "out_of_range"),
        ((0, 40, 10, 60), 3, "out_of_range"),
        ((0, 51.9, 10, None), 4, None),
        ((0, 20, 41.9, None), 4, None),
        ((0, 20, 10, math.nan), 4, None),
        ((0, 0, 10, 95), 4, None),
    ],
)
def test_what_is_missing_or_cannot_be_leaves_a_body_unknown(
    said: tuple[float | None, float | None, float | None, float | None],
    known: int,
    fault: str | None,
) -> None:
    placed = bodies(geometry(), *said)

    assert sum(segment is not None for segment in placed.segments) == known
    assert placed.fault == fault
    assert all(math.isfinite(x) for segment in placed.segments for x in segment or ())


def test_the_rope_of_a_jib_past_the_vertical_hangs_at_the_mast() -> None:
    rope = bodies(geometry(), 0, 0, 10, luff_deg=95).segments[ROPE]

    assert rope == pytest.approx((0, 0, 40 + 50 * math.sin(math.radians(95)), 0, 0, 10))


def test_what_is_a_little_beyond_is_taken_to_be_at_the_end() -> None:
    rope = bodies(geometry(), 90, 51.9, 41.9).segments[ROPE]

    assert rope == pytest.approx((50, 0, 40, 50, 0, 40))


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        # x, y, height of the jib, slew, trolley, hook.
        # Jibs of equal height, tips towards each other: 50 + 50 of 103 metres.
        ((0, 0, 40, 90, 20, 10), (103, 0, 40, 270, 20, 10), (3, JIB, JIB)),
        # A jib's tip before the other's mast.
        ((0, 0, 40, 90, 20, 10), (52, 0, 44, 0, 20, 10), (2, JIB, MAST)),
        # The higher crane's rope beside the lower crane's jib.
        ((0, 0, 40, 90, 20, 10), (60, 1.5, 50, 270, 40, 10), (1.5, JIB, ROPE)),
        # Jibs over each other, 6 metres, the upper one's hook drawn up, 4 above the lower jib.
        ((0, 0, 40, 90, 20, 10), (60, 0, 46, 270, 30, 44), (4, JIB, ROPE)),
        # The hook let down: the rope crosses the jib.
        ((0, 0, 40, 90, 20, 10), (60, 0, 46, 270, 30, 10), (0, JIB, ROPE)),
        # A counter-jib under a jib.
        ((0, 0, 40, 270, 20, 10), (55, 0, 43, 270, 20, 41), (3, COUNTER_JIB, JIB)),
        # A rope beside the other's mast.
        ((0, 0, 50, 90, 48, 10), (50, 0, 40, 0, 20, 10), (2, ROPE, MAST)),
    ],
)
def test_distance_of_cranes_by_hand(
    one: tuple[float, ...], other: tuple[float, ...], expected: tuple[float, int, int]
) -> None:
    def placed(crane: tuple[float, ...]) -> Bodies:
        return bodies(geometry(*crane[:3]), *crane[3:])

    near, back = nearest(placed(one), placed(other)), nearest(placed(other), placed(one))

    assert near is not None
    assert back is not None
    distance, first, second = expected
    assert near.distance_m == pytest.approx(distance, abs=TOLERANCE_M)
    assert back.distance_m == pytest.approx(distance, abs=TOLERANCE_M)
    assert (near.one, near.other) == (first, second)


slews = st.floats(-720, 720)


@st.composite
def placed_cranes(draw: st.DrawFn) -> tuple[Bodies, Bodies]:
    placed = []
    for x in (0.0, draw(st.floats(5, 110))):
        crane = geometry(x, 0, draw(st.floats(20, 60)))
        placed.append(
            bodies(
                crane,
                draw(slews),
                draw(st.floats(0, 50)),
                draw(st.floats(-5, 20)),
                draw(st.none() | st.floats(-10, 90)),
            )
        )
    return placed[0], placed[1]


@settings(max_examples=200, deadline=None)
@given(placed_cranes(), st.floats(0.5, 60))
def test_looking_no_further_than_needed_finds_the_same(
    cranes: tuple[Bodies, Bodies], within_m: float
) -> None:
    one, other = cranes
    by_hand = min(
        segment_distance(p, q)
        for i, p in enumerate(one.segments)
        for j, q in enumerate(other.segments)
        if p is not None and q is not None and (i, j) != (MAST, MAST)
    )

    everywhere, within = nearest(one, other), nearest(one, other, within_m)

    assert everywhere is not None
    assert everywhere.distance_m == by_hand
    assert within == (everywhere if by_hand < within_m else None)


@settings(max_examples=200, deadline=None)
@given(placed_cranes())
def test_the_nearest_bodies_do_not_depend_on_the_order_of_the_cranes(
    cranes: tuple[Bodies, Bodies],
) -> None:
    one, other = cranes
    near, back = nearest(one, other), nearest(other, one)

    assert near is not None
    assert back is not None
    assert near.distance_m == pytest.approx(back.distance_m, abs=TOLERANCE_M)


def test_cranes_whose_circles_are_apart_can_never_meet() -> None:
    assert can_meet(geometry(0), geometry(102), 2.0)
    assert not can_meet(geometry(0), geometry(102.1), 2.0)
    assert can_meet(geometry(0, jib_m=10, counter_jib_m=50), geometry(102), 2.0)
