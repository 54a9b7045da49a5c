"""Values as devices write them, turned into the vocabulary's unit, or refused by name. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from device_profiles.datasheets import Scalar, Value, word_table
from device_profiles.errors import Reason, Rejected, shown
from device_profiles.units import conversion
from device_profiles.vocabulary import Quantity

_NAN = math.nan

TINIEST = 1e-20
"""No quantity here is smaller and not zero: what is, are bytes read as a float by mistake."""

MOST_DIGITS = 64
"""Longest number taken from text, in characters."""

ReadValue = Callable[[Any], float]


def name_in(raw: object, most: int) -> str:
    """Read the name of something as a device wrote it.

    Args:
        raw: A JSON string, perhaps with escapes that are no characters, or an integer.
        most: Characters kept.

    Returns:
        It without blanks around it; lone surrogates, which no text can hold, are ``?``.
    """
    return str(raw).strip()[:most].encode("utf-8", "replace").decode()


def number_in(raw: Any) -> float:
    """Read a number a device wrote, be it as a number or as text.

    Args:
        raw: A JSON scalar; text may be padded, may carry a sign and an exponent.

    Returns:
        A finite number.

    Raises:
        Rejected: `type` where it is no number, `range` where it is none that can be measured.
    """
    if type(raw) is float:
        number = raw
    elif type(raw) is int:
        try:
            number = float(raw)
        except OverflowError:
            number = math.inf
    elif type(raw) is str:
        text = raw.strip()
        # float() takes "nan", "1_0" and Arabic digits too: a device's number has none of them.
        if not text or len(text) > MOST_DIGITS or text.strip("+-.0123456789eE"):
            raise Rejected(Reason.TYPE, f"{shown(raw)} is not a number")
        try:
            number = float(text)
        except ValueError:  # as of "1-2"
            raise Rejected(Reason.TYPE, f"{shown(raw)} is not a number") from None
    else:
        raise Rejected(Reason.TYPE, f"{shown(raw)} is not a number")
    if not math.isfinite(number):
        raise Rejected(Reason.RANGE, f"{shown(raw)} is no finite number")
    if number != 0 and abs(number) < TINIEST:
        raise Rejected(Reason.RANGE, f"{shown(raw)} is too small to be a measurement")
    return number


def value_reader(
    value: Value,
    quantity: Quantity,
    unit: str | None = None,
    limits: tuple[float, float] | None = None,
) -> ReadValue:
    """Build the reader of one quantity.

    Args:
        value: The datasheet's line.
        quantity: What it becomes.
        unit: This one device's unit, where it differs from the datasheet's.
        limits: What this one device can reach, in the vocabulary's unit.

    Returns:
        A function from the raw value to the vocabulary's unit; NaN where nothing was measured.
        It raises `Rejected` with reason `type` or `range`.

    Raises:
        ValueError: The unit is not one of the quantity.
    """
    shown_unit = unit or value.unit or quantity.unit
    factor, shift = conversion(shown_unit, quantity.unit)
    scaled = _linear(value.scale, value.offset)
    converted = _linear(factor, shift)
    low, high = value.range or (-math.inf, math.inf)
    name = quantity.name
    least, most = quantity.low, quantity.high
    if limits is not None:
        least, most = max(least, limits[0]), min(most, limits[1])
    is_missing = missing_test(value.missing)
    words = {word.strip(): number for word, number in word_table(value.words).items()}
    if is_missing is None and scaled is None and converted is None:
        plain_low, plain_high = max(low, least), min(high, most)
    else:
        plain_low, plain_high = math.inf, -math.inf  # nothing is plain

    def read(raw: Any) -> float:
        if type(raw) is float and plain_low <= raw <= plain_high and (raw > TINIEST or raw == 0):
            return raw  # the common case, a third of the time of what follows
        if raw is None or (is_missing is not None and is_missing(raw)):
            return _NAN
        if words and type(raw) is str:
            word = words.get(raw.strip())
            if word is not None:
                return word
        number = number_in(raw)
        if scaled is not None:
            number = scaled(number)
        if not low <= number <= high:
            raise Rejected(
                Reason.RANGE,
                f"{name} {number:g} is not within the datasheet's {low:g} to {high:g} {shown_unit}",
            )
        if converted is not None:
            number = converted(number)
        if not least <= number <= most:
            raise Rejected(
                Reason.RANGE,
                f"{name} {number:g} is not within {least:g} to {most:g} {quantity.unit}",
            )
        return number

    return read


def missing_test(missing: tuple[Scalar, ...]) -> Callable[[Any], bool] | None:
    """Build the test of what a device says where nothing was measured.

    Args:
        missing: As the datasheet lists it. Numbers match numbers, words match text without its
            padding, and true is not 1.

    Returns:
        The test; None where the list is empty.
    """
    words = frozenset(said.strip() for said in missing if isinstance(said, str))
    truths = frozenset(said for said in missing if isinstance(said, bool))
    numbers = frozenset(
        said for said in missing if isinstance(said, int | float) and not isinstance(said, bool)
    )
    if not missing:
        return None

    def is_missing(raw: Any) -> bool:
        kind = type(raw)
        if kind is str:
            return raw.strip() in words
        if kind is float or kind is int:
            return raw in numbers
        return kind is bool and raw in truths

    return is_missing


def _linear(factor: float, shift: float) -> Callable[[float], float] | None:
    """``number × factor + shift``; divides where that is the exact way (1013.2 hPa: 101.32 kPa)."""
    if factor == 1 and shift == 0:
        return None
    inverse = 1 / factor
    if abs(factor) < 1 and abs(inverse - round(inverse)) < 1e-9 * abs(inverse):
        divisor = float(round(inverse))
        if shift == 0:
            return lambda number: number / divisor
        return lambda number: number / divisor + shift
    if shift == 0:
        return lambda number: number * factor
    return lambda number: number * factor + shift
