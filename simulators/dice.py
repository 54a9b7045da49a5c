"""Chance, the same for the same seed on every machine."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator


def bounded(dice: random.Random, sigma: float) -> float:
    """An instrument's error: Gaussian, but never beyond three sigma.

    Args:
        dice: Where chance comes from.
        sigma: Standard deviation before the cut.

    Returns:
        The error.
    """
    return min(max(dice.gauss(0.0, sigma), -3 * sigma), 3 * sigma)


def drift(dice: random.Random, sigma: float, memory_s: float) -> Iterator[float]:
    """A first-order autoregressive process, a value a second.

    Args:
        dice: Where chance comes from; used for this process alone or in a fixed order.
        sigma: Standard deviation of the values; they stay within three of it.
        memory_s: Seconds after which the correlation has fallen to 1/e.

    Yields:
        Values around 0, without end.
    """
    keep = math.exp(-1.0 / memory_s)
    step = sigma * math.sqrt(1 - keep * keep)
    value = dice.gauss(0.0, sigma)
    while True:
        value = min(max(keep * value + dice.gauss(0.0, step), -3 * sigma), 3 * sigma)
        yield value
