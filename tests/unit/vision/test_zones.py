"""Where things count: polygons, and what a site file may say of a camera."""

from __future__ import annotations

from datetime import time

import pytest
from pydantic import ValidationError

from detectors.vision.zones import Plan, Span, inside
from device_profiles.sites import CameraSettings, Device, Point

SQUARE: list[Point] = [(0.2, 0.2), (0.8, 0.2), (0.8, 0.8), (0.2, 0.8)]
# An L whose notch is the lower right.
NOTCHED: list[Point] = [(0, 0), (1, 0), (1, 0.5), (0.5, 0.5), (0.5, 1), (0, 1)]


@pytest.mark.parametrize(
    ("point", "polygon", "expected"),
    [
        ((0.5, 0.5), SQUARE, True),
        ((0.1, 0.5), SQUARE, False),
        ((0.9, 0.5), SQUARE, False),
        ((0.5, 0.9), SQUARE, False),
        ((0.75, 0.25), NOTCHED, True),
        ((0.75, 0.75), NOTCHED, False),
        ((0.25, 0.75), NOTCHED, True),
    ],
)
def test_a_point_lies_in_a_polygon_or_not(
    point: Point, polygon: list[Point], expected: bool
) -> None:
    assert inside(point, polygon) == expected
    assert inside(point, polygon[::-1]) == expected


def test_neighbours_share_no_point() -> None:
    left: list[Point] = [(0, 0), (0.5, 0), (0.5, 1), (0, 1)]
    right: list[Point] = [(0.5, 0), (1, 0), (1, 1), (0.5, 1)]
    for y in (0.0, 0.3, 0.999):
        assert inside((0.5, y), left) + inside((0.5, y), right) == 1


def test_the_edge_of_the_picture_belongs_to_it() -> None:
    plan = Plan(
        CameraSettings.model_validate(
            {"areas": [[[0, 0], [1, 0], [1, 1], [0, 1]]], "masks": [SQUARE]}
        )
    )
    assert plan.counts(0, 0, 1280, 720)
    assert plan.counts(1280, 720, 1280, 720)
    assert plan.counts(1300, -20, 1280, 720)
    assert not plan.counts(640, 360, 1280, 720)


@pytest.mark.parametrize(
    ("text", "inside_", "outside"),
    [
        ("08:00-12:00", ["08:00", "11:59"], ["07:59", "12:00"]),
        ("22:00-06:00", ["22:00", "23:59", "00:00", "05:59"], ["06:00", "21:59"]),
    ],
)
def test_hours_are_half_open_and_may_pass_midnight(
    text: str, inside_: list[str], outside: list[str]
) -> None:
    span = Span.parse(text)
    assert all(span.holds(time.fromisoformat(wall)) for wall in inside_)
    assert not any(span.holds(time.fromisoformat(wall)) for wall in outside)


ZONE = {"name": "pit", "polygon": SQUARE, "no_entry": True}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"zone": [{"name": "pit", "polygon": SQUARE}]}, "demands nothing"),
        ({"zone": [ZONE, ZONE]}, "stands twice"),
        ({"zone": [ZONE], "fixed": False}, "not fixed"),
        ({"zone": [ZONE | {"polygon": SQUARE[:2]}]}, "at least 3"),
        ({"zone": [ZONE | {"polygon": [[0, 0], [0.5, 0.5], [1, 1]]}]}, "encloses nothing"),
        ({"zone": [ZONE | {"polygon": [[0, 0], [2, 0], [1, 1]]}]}, "less than or equal to 1"),
        ({"zone": [ZONE | {"no_entry_hours": ["22:00-24:00"]}]}, "pattern"),
        ({"zone": [ZONE | {"no_entry_hours": ["06:00-06:00"]}]}, "no time at all"),
        ({"masks": [[[0, 0], [float("nan"), 0], [1, 1]]]}, "finite"),
        ({"tiles": "9x9"}, "tiles"),
        ({"min_head_px": -1}, "min_head_px"),
    ],
)
def test_what_cannot_be_meant_is_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        CameraSettings.model_validate(settings)


def test_only_cameras_have_a_plan() -> None:
    with pytest.raises(ValidationError, match="a dust is no camera"):
        Device.model_validate({"site": "s", "id": "d", "kind": "dust", "camera": {}})
    assert Device.model_validate({"site": "s", "id": "d", "kind": "camera", "camera": {}}).camera


def test_a_plan_survives_the_registry() -> None:
    settings = CameraSettings.model_validate({"zone": [ZONE], "masks": [SQUARE]})
    assert CameraSettings.model_validate(settings.model_dump(mode="json")) == settings
