"""Boxes as they are stored: with what the second look said, and without."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_profiles.readings import Box

CORNERS = (1.0, 2.5, 3.0, 4.0)


@given(st.none() | st.floats(0, 1))
def test_a_box_comes_back_from_its_row(second_look: float | None) -> None:
    box = Box("helmet", 0.9, CORNERS, second_look)
    assert Box.of_row(json.loads(json.dumps(box.as_row()))) == box


def test_a_row_says_no_more_than_was_heard() -> None:
    assert Box("helmet", 0.9, CORNERS).as_row() == ["helmet", 0.9, *CORNERS]
    assert Box("helmet", 0.9, CORNERS, 0.0).as_row() == ["helmet", 0.9, *CORNERS, 0.0]


@pytest.mark.parametrize(
    "more", [[1.001], [-0.1], [None], ["0.5"], [True], [float("nan")], [0.5, 0.5]]
)
def test_what_is_no_probability_is_refused(more: list[Any]) -> None:
    with pytest.raises(ValueError, match="no probability"):
        Box.of_row(["helmet", 0.9, *CORNERS, *more])


@pytest.mark.parametrize(
    "row",
    [
        [7, 0.9, *CORNERS],
        ["helmet", "0.9", *CORNERS],
        ["helmet", None, *CORNERS],
        ["helmet", True, *CORNERS],
        ["helmet", 0.9, 1.0, 2.0, [3.0], 4.0],
        ["helmet", 0.9, 1.0, 2.0, float("inf"), 4.0],
        "helmet",
        {"label": 1, "score": 2, "x1": 3, "y1": 4, "x2": 5, "y2": 6},
        None,
        7,
    ],
)
def test_what_holds_no_numbers_is_refused(row: Any) -> None:
    with pytest.raises(ValueError, match=r"no name and five numbers|no row"):
        Box.of_row(row)


@pytest.mark.parametrize("row", [[], ["helmet", 0.9, 1.0, 2.0, 3.0]])
def test_what_is_no_box_is_refused(row: list[Any]) -> None:
    with pytest.raises(ValueError, match="values to unpack"):
        Box.of_row(row)
