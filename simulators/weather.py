"""The weather over a simulated site: what its dust monitors and cranes share."""

from __future__ import annotations

import math
import random
from typing import NamedTuple

from simulators.dice import drift


class Weather(NamedTuple):
    """The air at one instant, at 10 m.

    Attributes:
        temperature_c: Air temperature.
        humidity_pct: Relative humidity.
        pressure_kpa: Air pressure.
        wind_speed_m_s: Mean wind.
        wind_direction_deg: Where it comes from.
    """

    temperature_c: float
    humidity_pct: float
    pressure_kpa: float
    wind_speed_m_s: float
    wind_direction_deg: float


class Sky:
    """Weather second by second, with the day's course and a slow drift.

    Args:
        seed: What makes one run differ from another.
    """

    def __init__(self, seed: int) -> None:
        dice = random.Random(f"{seed}/sky")
        self._second = -1
        self._wind = drift(dice, sigma=0.7, memory_s=60.0)
        self._turn = drift(dice, sigma=12.0, memory_s=120.0)
        self._warmth = drift(dice, sigma=0.4, memory_s=600.0)
        self._now = (0.0, 0.0, 0.0)

    def at(self, second: int, hour: float) -> Weather:
        """The weather of one second; seconds must not go backwards.

        Args:
            second: Whole seconds since the start, not negative.
            hour: The local hour, 0 to 24.

        Returns:
            The weather.
        """
        while self._second < second:
            self._now = (next(self._wind), next(self._turn), next(self._warmth))
            self._second += 1
        gust, turn, warmth = self._now
        day = math.cos(2 * math.pi * (hour - 14.5) / 24)  # warmest in the early afternoon
        temperature = 21.0 + 5.0 * day + warmth
        return Weather(
            temperature_c=temperature,
            humidity_pct=min(max(62.0 - 14.0 * day - 2.0 * warmth, 5.0), 100.0),
            pressure_kpa=101.2 + 0.1 * math.cos(4 * math.pi * (hour - 10) / 24),
            wind_speed_m_s=max(0.2, 3.2 + 0.8 * day + gust),
            wind_direction_deg=(135.0 + turn) % 360.0,
        )
