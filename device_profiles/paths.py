"""Paths: where in a parsed message something lies.

``a.b``, ``a["pm2.5"]`` for keys with dots or blanks, ``a[0]`` for places in a list, and ``[*]``
for every element of a list or every value of an object (only where several readings are named).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

Step = str | int

EACH: Final = -1
"""The step that stands for every element."""

MAX_STEPS = 16

MISSING: Final = object()
"""What `look_up` gives where there is nothing: JSON's null is something."""

_TOKEN = re.compile(
    r"""(?:^|(?<=.)\.)(?P<key>[^.\[\]"'\s]+)        # a or .a
      | \[(?P<index>\d{1,6})\]                       # [0]
      | \[(?P<each>\*)\]                             # [*]
      | \["(?P<quoted>[^"]+)"\]                      # ["pm2.5"]
    """,
    re.VERBOSE,
)


def parse_path(text: str, *, each: bool = False) -> tuple[Step, ...]:
    """Read a path.

    Args:
        text: As a datasheet writes it.
        each: Whether `[*]` may occur.

    Returns:
        Its steps: keys, places, `EACH`.

    Raises:
        ValueError: It is no path.
    """
    steps: list[Step] = []
    at = 0
    while at < len(text):
        token = _TOKEN.match(text, at)
        if token is None:
            raise ValueError(f"path {text!r} cannot be read from its character {at + 1} on")
        at = token.end()
        if token["key"] is not None:
            steps.append(token["key"])
        elif token["quoted"] is not None:
            steps.append(token["quoted"])
        elif token["index"] is not None:
            steps.append(int(token["index"]))
        elif each:
            steps.append(EACH)
        else:
            raise ValueError(f"path {text!r}: [*] names several things, here one is wanted")
    if not 0 < len(steps) <= MAX_STEPS:
        raise ValueError(f"path {text!r} has {len(steps)} steps: 1 to {MAX_STEPS} are read")
    return tuple(steps)


def look_up(value: Any, steps: tuple[Step, ...]) -> Any:
    """Follow a path without `EACH`.

    Args:
        value: Parsed JSON.
        steps: From `parse_path`.

    Returns:
        What lies there, or `MISSING`.
    """
    for step in steps:
        if isinstance(step, str):
            if type(value) is not dict:
                return MISSING
            value = value.get(step, MISSING)
            if value is MISSING:
                return MISSING
        elif type(value) is list and step < len(value):
            value = value[step]
        else:
            return MISSING
    return value


Find = Callable[[Any], Any]


def finder(path: str) -> Find:
    """Build the function that follows a path; one key, or a key in a key, the quick way.

    Args:
        path: Of a datasheet, without `[*]`.

    Returns:
        From a parsed message to what lies there, or `MISSING`.

    Raises:
        ValueError: It is no path.
    """
    steps = parse_path(path)
    match steps:
        case (str(key),):
            return lambda message: message.get(key, MISSING) if type(message) is dict else MISSING
        case (str(outer), str(inner)):

            def find_within(message: Any) -> Any:
                within = message.get(outer) if type(message) is dict else None
                return within.get(inner, MISSING) if type(within) is dict else MISSING

            return find_within
        case _:
            return lambda message: look_up(message, steps)


def look_up_all(value: Any, steps: tuple[Step, ...]) -> list[Any]:
    """Follow a path that may hold `EACH`.

    Args:
        value: Parsed JSON.
        steps: From `parse_path`.

    Returns:
        Everything it leads to, in the order of the message; what is missing is left out.
    """
    found = [value]
    for step in steps:
        if step == EACH:
            found = [
                inner
                for one in found
                for inner in (
                    one if type(one) is list else one.values() if type(one) is dict else ()
                )
            ]
        else:
            found = [inner for one in found if (inner := look_up(one, (step,))) is not MISSING]
    return found
