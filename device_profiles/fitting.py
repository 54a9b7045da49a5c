"""Which devices a profile is for: make, model, range of firmware, topics of its own."""

from __future__ import annotations

import fnmatch
import re

from pydantic import BaseModel, ConfigDict, Field, field_validator


class Entry(BaseModel):
    """What every table of a datasheet is: nothing unknown in it, no number that is none."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


_VERSION = re.compile(r"\d+(?:\.\d+){0,3}")
_CLAUSE = re.compile(r"(>=|<=|==|<|>)\s*(\d+(?:\.\d+){0,3})")


def version_of(text: str) -> tuple[int, ...] | None:
    """Read a firmware version: the first number with dots in it.

    Args:
        text: As the registry has it: "V2.1.3", "2.1-beta".

    Returns:
        Its numbers without trailing zeros; None where there are none.
    """
    found = _VERSION.search(text)
    return _numbers(found[0]) if found else None


def _numbers(text: str) -> tuple[int, ...]:
    numbers = [int(part) for part in text.split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


class Fits(Entry):
    """Which devices a profile is for."""

    make: str = Field(min_length=1, max_length=100)
    models: tuple[str, ...] = Field(("*",), min_length=1, description="shell patterns")
    firmware: str = Field("", description='range of versions: ">=2.0, <3"; default: any')
    topics: tuple[str, ...] = Field(
        (), description="topics outside the native contract; {device} is the device's external_id"
    )

    @field_validator("firmware")
    @classmethod
    def _is_range(cls, value: str) -> str:
        for clause in filter(None, (part.strip() for part in value.split(","))):
            if not _CLAUSE.fullmatch(clause):
                raise ValueError(f"{clause!r} is not like '>=2.0'")
        return value

    @field_validator("topics")
    @classmethod
    def _are_topics(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for topic in value:
            for level in topic.split("/"):
                if not re.fullmatch(r"[^{}+#\s]*|\{[a-z_]+\}", level):
                    raise ValueError(f"{topic!r}: {level!r} is neither plain nor one {{name}}")
        return value

    def bounds(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """The clauses of `firmware`: operator and version."""
        return tuple((sign, _numbers(number)) for sign, number in _CLAUSE.findall(self.firmware))

    def covers(self, make: str, model: str, firmware: str) -> bool:
        """Whether a device is one of these.

        Args:
            make: As registered.
            model: As registered.
            firmware: As registered; an unknown version fits only where none is asked for.

        Returns:
            Whether all three fit; letters' case does not count.
        """
        if make.casefold() != self.make.casefold():
            return False
        if not any(
            fnmatch.fnmatchcase(model.casefold(), pattern.casefold()) for pattern in self.models
        ):
            return False
        bounds = self.bounds()
        if not bounds:
            return True
        version = version_of(firmware)
        return version is not None and all(_holds(version, *bound) for bound in bounds)


def _holds(version: tuple[int, ...], sign: str, bound: tuple[int, ...]) -> bool:
    match sign:
        case ">=":
            return version >= bound
        case "<=":
            return version <= bound
        case ">":
            return version > bound
        case "<":
            return version < bound
        case _:
            return version == bound


def shared_devices(one: Fits, other: Fits) -> str | None:
    """Say whether two profiles of one kind could claim the same device.

    Args:
        one: Which devices a profile is for.
        other: And another.

    Returns:
        What they share, or None. Model patterns that could both fit one name count, and so do
        firmware ranges that meet.
    """
    if one.make.casefold() != other.make.casefold():
        return None
    for mine in one.models:
        for theirs in other.models:
            if _patterns_meet(mine.casefold(), theirs.casefold()) and _ranges_meet(
                one.bounds(), other.bounds()
            ):
                return f"make {one.make!r}, models {mine!r} and {theirs!r}"
    return None


def shared_topic(one: Fits, other: Fits) -> str | None:
    """Say whether two profiles could claim the same topic.

    Args:
        one: Which devices a profile is for.
        other: And another.

    Returns:
        The topic, or None.
    """
    for mine in one.topics:
        for theirs in other.topics:
            pairs = list(zip(mine.split("/"), theirs.split("/"), strict=False))
            if mine.count("/") == theirs.count("/") and all(
                a == b or "{" in (a[:1], b[:1]) for a, b in pairs
            ):
                return f"topic {mine!r}"
    return None


def topic_filter(topic: str) -> str:
    """Turn a datasheet's topic into an MQTT filter.

    Args:
        topic: With {names} for levels.

    Returns:
        The same with + in their place.
    """
    return re.sub(r"\{[a-z_]+\}", "+", topic)


def topic_pattern(topic: str) -> re.Pattern[str]:
    """Turn a datasheet's topic into a pattern whose groups are its names.

    Args:
        topic: With {names} for levels.

    Returns:
        The pattern; each name is one level of at most 128 characters.
    """
    levels = [
        f"(?P<{level[1:-1]}>[^/+#]{{1,128}})" if level.startswith("{") else re.escape(level)
        for level in topic.split("/")
    ]
    return re.compile("/".join(levels))


def _patterns_meet(one: str, other: str) -> bool:
    """Whether some name fits both shell patterns; `*` and `?` only, anything else is literal."""
    if "[" in one or "[" in other:
        return True  # cannot be told apart cheaply: refuse rather than guess
    reached: set[tuple[int, int]] = set()
    ahead = [(0, 0)]
    while ahead:
        at, to = ahead.pop()
        if (at, to) in reached:
            continue
        reached.add((at, to))
        mine = one[at] if at < len(one) else ""
        theirs = other[to] if to < len(other) else ""
        if not mine and not theirs:
            return True
        if mine == "*":
            ahead.append((at + 1, to))
            if theirs:
                ahead.append((at, to + 1))
        if theirs == "*":
            ahead.append((at, to + 1))
            if mine:
                ahead.append((at + 1, to))
        if mine and theirs and (mine == theirs or "?" in (mine, theirs)):
            ahead.append((at + 1, to + 1))
    return False


_Bounds = tuple[tuple[str, tuple[int, ...]], ...]


def _ranges_meet(one: _Bounds, other: _Bounds) -> bool:
    """Whether some version fits both: try the bounds themselves, and just beside them."""
    bounds = [bound for _, bound in (*one, *other)]
    tries = [(), *bounds, *((*bound, 1) for bound in bounds), (10**9,)]
    tries += [(*bound[:-1], bound[-1] - 1, 10**9) for bound in bounds if bound and bound[-1] > 0]
    return any(
        all(_holds(version, *bound) for bound in one)
        and all(_holds(version, *bound) for bound in other)
        for version in tries
    )
