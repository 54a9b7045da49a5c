"""Paths: what they say, where they lead, and what is none."""

from typing import Any

import pytest

from device_profiles.paths import EACH, MISSING, finder, look_up, look_up_all, parse_path


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("pm10", ("pm10",)),
        ("a.b", ("a", "b")),
        ('data["pm2.5"]', ("data", "pm2.5")),
        ('["a b"].c[0][12]', ("a b", "c", 0, 12)),
        ("[3]", (3,)),
        ("风速.值", ("风速", "值")),
        ("a-b_c", ("a-b_c",)),
    ],
)
def test_a_path_is_its_steps(text: str, steps: tuple[Any, ...]) -> None:
    assert parse_path(text) == steps


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "0 steps"),
        (".a", "character 1"),
        ("a.", "character 2"),
        ("a..b", "character 2"),
        ("a[", "character 2"),
        ("a[-1]", "character 2"),
        ("a[x]", "character 2"),
        ('a["', "character 2"),
        ('a[""]', "character 2"),
        ("a b", "character 2"),
        ("a[*]", "one is wanted"),
        (".".join("abcdefghijklmnopq"), "17 steps"),
    ],
)
def test_what_is_no_path_is_told(text: str, said: str) -> None:
    with pytest.raises(ValueError, match="path") as caught:
        parse_path(text)
    assert said in str(caught.value)


def test_several_things_only_where_several_are_wanted() -> None:
    assert parse_path("result.items[*].x", each=True) == ("result", "items", EACH, "x")
    message = {"a": [{"x": 1}, {"y": 2}, 5, {"x": None}], "b": {"p": {"x": 3}, "q": {"x": 4}}}
    assert look_up_all(message, parse_path("a[*].x", each=True)) == [1, None]
    assert look_up_all(message, parse_path("b[*].x", each=True)) == [3, 4]
    assert look_up_all(message, parse_path("a[0].x[*]", each=True)) == []
    assert look_up_all(message, parse_path("c[*]", each=True)) == []


MESSAGE = {"a": {"b": [10, {"c": None}]}, "list": [[1, 2]], "text": "abc", "pm2.5": 7}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a.b[0]", 10),
        ("a.b[1].c", None),
        ("list[0][1]", 2),
        ('["pm2.5"]', 7),
        ("a.b[2]", MISSING),
        ("a.x", MISSING),
        ("x.y", MISSING),
        ("text.x", MISSING),
        ("text[0]", MISSING),
        ("a[0]", MISSING),
        ("list.x", MISSING),
        ("a.b.c.d", MISSING),
    ],
)
def test_what_lies_there(text: str, found: Any) -> None:
    assert look_up(MESSAGE, parse_path(text)) == found
    assert finder(text)(MESSAGE) == found


@pytest.mark.parametrize("text", ["x", "x.y", "x[0]", "[0]"])
@pytest.mark.parametrize("message", [None, 5, "x", [], [[]], {}, {"x": None}, {"x": "y"}])
def test_nothing_to_follow_is_missing(text: str, message: Any) -> None:
    assert finder(text)(message) in (MISSING, None, [], "y")
