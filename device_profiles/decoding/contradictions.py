"""What cannot be true together: noted, and both values kept as the device said them. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from device_profiles.datasheets import Contradiction, word_table
from device_profiles.decoding.values import number_in
from device_profiles.errors import Rejected, shown
from device_profiles.paths import MISSING, finder
from device_profiles.vocabulary import Quantity

FindContradiction = Callable[[list[float], Any], str | None]


def contradiction_finder(
    entry: Contradiction, quantities: tuple[Quantity, ...]
) -> FindContradiction:
    """Build the check of one line.

    Args:
        entry: The datasheet's line.
        quantities: Of the kind, in the order of a reading's values.

    Returns:
        A function from values and message to a note, or None where they agree or something is
        missing.
    """
    places = {quantity.name: place for place, quantity in enumerate(quantities)}
    if entry.not_above is not None:
        return _above(*entry.not_above, places)
    assert entry.says is not None  # noqa: S101 - the datasheet was checked
    if entry.percent_of is not None:
        return _percent(entry.says, entry.percent_of, entry.within, places)
    return _twice(entry, quantities[places[entry.says]], places[entry.says])


def _above(lesser: str, greater: str, places: dict[str, int]) -> FindContradiction:
    small, large = places[lesser], places[greater]

    def find(values: list[float], _: Any) -> str | None:
        if values[small] > values[large]:
            return f"{lesser} {values[small]:g} is above {greater} {values[large]:g}"
        return None

    return find


def _percent(
    says: str, percent_of: tuple[str, str], within: float, places: dict[str, int]
) -> FindContradiction:
    part, whole = percent_of
    said, numerator, denominator = places[says], places[part], places[whole]

    def find(values: list[float], _: Any) -> str | None:
        if not values[denominator] > 0:
            return None
        percent = 100 * values[numerator] / values[denominator]
        if abs(percent - values[said]) > within:
            return (
                f"{says} {values[said]:g} contradicts {part} {values[numerator]:g} of"
                f" {whole} {values[denominator]:g}, which is {percent:.0f} %"
            )
        return None

    return find


def _twice(entry: Contradiction, quantity: Quantity, place: int) -> FindContradiction:
    find_again = finder(str(entry.also_at))
    words = {word.strip(): number for word, number in word_table(entry.words).items()}
    round_trip = 360.0 if quantity.unit == "°" else None

    def find(values: list[float], message: Any) -> str | None:
        value = values[place]
        raw = find_again(message)
        if raw is MISSING or value != value:
            return None
        again = words.get(raw.strip()) if type(raw) is str else None
        if again is None:
            try:
                again = number_in(raw)
            except Rejected:
                return None
        apart = abs(again - value)
        if round_trip is not None:
            apart = min(apart % round_trip, round_trip - apart % round_trip)
        if apart > entry.within:
            return (
                f"{quantity.name} {value:g} contradicts {shown(raw)} at {entry.also_at},"
                f" which is {again:g}"
            )
        return None

    return find
