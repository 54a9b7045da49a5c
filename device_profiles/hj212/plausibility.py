"""Does a unit look wrong by 10³?

HJ 212 does not say in a frame in which unit dust is sent, and devices send ng, µg and mg. Air
settles it: over an hour the median of dust at a site lies between a few and a few thousand
µg/m³, so a median that lies there only when multiplied by 1,000, or divided, was sent in
another unit than configured. Loads settle it too, on one side: no tower crane carries hundreds of
tonnes for an hour, but a few hundred kilograms it does. The limits are project choices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from types import MappingProxyType
from typing import NamedTuple

from device_profiles.hj212.factors import DUST

LEAST_VALUES = 10
"""Fewer values than this say nothing."""

LOWEST_MEDIAN_UG_M3 = 1.0
"""Cleaner air than this for an hour is not found at a building site."""

HIGHEST_MEDIAN_UG_M3 = 5_000.0
"""Nor is dirtier: visibility would be some tens of metres."""

HIGHEST_MEDIAN_T = 150.0
"""No tower crane lifts more all hour long; a hook without a load says nothing on the other side."""

BANDS: Mapping[str, tuple[float, float]] = MappingProxyType(
    dict.fromkeys(DUST, (LOWEST_MEDIAN_UG_M3, HIGHEST_MEDIAN_UG_M3))
    | {"load_t": (0.0, HIGHEST_MEDIAN_T)}
)
"""Between which an hour's median lies, in the vocabulary's unit, by quantity."""


class Suspicion(NamedTuple):
    """A unit that looks wrong.

    Attributes:
        quantity: Which.
        median: What the configured unit makes of it, in the vocabulary's.
        factor: What it would have to be multiplied by: 1,000 where the device sends mg and µg
            (or µg and ng) is configured, 0.001 for the reverse.
        detail: One line.
    """

    quantity: str
    median: float
    factor: float
    detail: str


def suspect_unit(quantity: str, values: Sequence[float]) -> Suspicion | None:
    """Judge the values of about an hour.

    Args:
        quantity: One of `BANDS`; others have units that are not in doubt.
        values: As stored, in the vocabulary's unit. Zeros are left out: a dead channel is another
            matter.

    Returns:
        The suspicion; None where there is none, or too little to tell.
    """
    if quantity not in BANDS:
        return None
    lowest, highest = BANDS[quantity]
    positive = [value for value in values if value > 0]
    if len(positive) < LEAST_VALUES:
        return None
    middle = median(positive)
    for factor in (1_000.0, 0.001):
        outside = middle < lowest if factor > 1 else middle > highest
        if outside and lowest <= middle * factor <= highest:
            side = "smaller" if factor > 1 else "larger"
            detail = (
                f"{quantity}: a median of {middle:g} over {len(positive)} values; the device seems"
                f" to send a unit that makes numbers 1000 times {side}"
            )
            return Suspicion(quantity, middle, factor, detail)
    return None
