"""Written times: the part of strptime that devices use, as one regular expression.

`datetime.strptime` takes ten times as long, reads names of months by the locale, and takes forms
a datasheet does not mean. Read here are %Y %y %m %d %H %M %S %f %z and %%; days, hours and so on
may have one digit where something stands between them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone

_DIGITS = {
    "Y": ("year", 4, 4),
    "y": ("year", 2, 2),
    "m": ("month", 1, 2),
    "d": ("day", 1, 2),
    "H": ("hour", 1, 2),
    "M": ("minute", 1, 2),
    "S": ("second", 1, 2),
    "f": ("microsecond", 1, 6),
}
_ORDER = ("year", "month", "day", "hour", "minute", "second")
_ZONE = r"(?P<zone>Z|[+-]\d\d:?\d\d)"

ReadWritten = Callable[[str], datetime]


def compile_time_format(form: str) -> ReadWritten:
    """Turn a datasheet's format into a function.

    Args:
        form: As "%Y-%m-%d %H:%M:%S".

    Returns:
        From text to a time, aware where the format has %z; it raises ValueError.

    Raises:
        ValueError: The format is not of those read, or says too little.
    """
    pattern, names = _pattern(form)
    match = re.compile(pattern, re.ASCII).fullmatch
    two_digits = "%y" in form
    in_order = tuple(names) == _ORDER and not two_digits
    with_fraction = tuple(names) == (*_ORDER, "microsecond") and not two_digits

    def read_plain(text: str) -> datetime:
        found = match(text)
        if found is None:
            raise ValueError(form)
        return datetime(*map(int, found.groups()))  # type: ignore[arg-type]  # noqa: DTZ001

    def read(text: str) -> datetime:
        found = match(text)
        if found is None:
            raise ValueError(form)
        said = found.groupdict()
        zone = said.pop("zone", None)
        fraction = said.pop("microsecond", None)
        parts = {name: int(digits) for name, digits in said.items()}
        if two_digits:
            parts["year"] += 2000
        moment = datetime(**parts)  # type: ignore[arg-type]  # noqa: DTZ001 - placed by the caller
        if fraction is not None:
            moment = moment.replace(microsecond=int(fraction.ljust(6, "0")))
        return moment if zone is None else moment.replace(tzinfo=_zone(zone))

    def read_fraction(text: str) -> datetime:
        found = match(text)
        if found is None:
            raise ValueError(form)
        *parts, fraction = found.groups()
        return datetime(*map(int, (*parts, fraction.ljust(6, "0"))))  # type: ignore[arg-type]  # noqa: DTZ001

    if with_fraction:
        return read_fraction
    return read_plain if in_order else read


def _pattern(form: str) -> tuple[str, list[str]]:
    names: list[str] = []
    parts: list[str] = []
    at = 0
    while at < len(form):
        if form[at] != "%":
            parts.append(re.escape(form[at]))
            at += 1
            continue
        letter = form[at + 1 : at + 2]
        at += 2
        if letter == "%":
            parts.append("%")
        elif letter == "z":
            names.append("zone")
            parts.append(_ZONE)
        elif letter in _DIGITS and letter:
            name, least, most = _DIGITS[letter]
            beside = form[at : at + 1] == "%" or (at > 3 and form[at - 4] == "%")
            if beside and name != "microsecond":
                least = most  # nothing stands between: only the width tells them apart
            names.append(name)
            parts.append(rf"(?P<{name}>\d{{{least},{most}}})")
        else:
            raise ValueError(f"format {form!r}: %{letter} is not among %Y %y %m %d %H %M %S %f %z")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"format {form!r} says the {twice[0]} twice")
    for name in ("year", "month", "day"):
        if name not in names:
            raise ValueError(f"format {form!r} does not say the {name}")
    return "".join(parts), names


def _zone(text: str) -> timezone:
    if text == "Z":
        return UTC
    shift = timedelta(hours=int(text[1:3]), minutes=int(text[-2:]))
    return timezone(-shift if text[0] == "-" else shift)
