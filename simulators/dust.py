"""A dust-and-noise monitor: the air of a site, its episodes, and what an instrument makes of it.

PM10 is the district's background, with the day's course and a slow drift, plus the site's own
episodes: a lorry or a cutter raises dust within seconds, it stays for a while and settles. The
background stays far below the limit that a demo applies and an episode rises far above it, so
that violations open and close. Construction dust is coarse: an episode adds much to TSP and
little to PM2.5, and PM2.5 < PM10 < TSP always.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from simulators.dice import bounded, drift
from simulators.weather import Sky

LEQ_WINDOW_S = 60
"""What the monitors average their Leq over."""

_RISE_S = 4.0
_SETTLE_S = 4.0


@dataclass(frozen=True, slots=True)
class Episodes:
    """When a monitor's surroundings raise dust.

    Attributes:
        first_s: Start of the first episode, seconds since the site's start.
        every_s: From start to start; each but the first starts up to 1.5 s early or late.
        low_ug_m3: Least PM10 an episode adds at its height.
        high_ug_m3: Most PM10 an episode adds at its height.
    """

    first_s: float
    every_s: float
    low_ug_m3: float = 200.0
    high_ug_m3: float = 260.0

    def strength(self, seed: str, seconds: float) -> float:
        """How much PM10 the episodes add.

        Args:
            seed: What makes one monitor differ from another.
            seconds: Since the site's start; may be negative.

        Returns:
            µg/m³.
        """
        latest = math.floor((seconds - self.first_s + 2.0) / self.every_s)
        # What an episode left behind after a whole period is nothing.
        return sum(self._one(seed, number, seconds) for number in (latest - 1, latest))

    def _one(self, seed: str, number: int, seconds: float) -> float:
        if number < 0:
            return 0.0
        dice = random.Random(f"{seed}/episode/{number}")
        height = dice.uniform(self.low_ug_m3, self.high_ug_m3)
        hold_s = dice.uniform(8.0, 11.0)
        late_s = dice.uniform(-1.5, 1.5) if number else 0.0
        since = seconds - (self.first_s + number * self.every_s + late_s)
        if since <= 0.0:
            return 0.0
        if since < _RISE_S:
            part = since / _RISE_S
            return height * part * part * (3 - 2 * part)
        if since < _RISE_S + hold_s:
            return height
        return height * math.exp(-(since - _RISE_S - hold_s) / _SETTLE_S)


class DustSample(NamedTuple):
    """One second of a monitor.

    Attributes:
        second: Whole seconds since the site's start; negative before it.
        pm10_ug_m3: The truth, free of the instrument's error.
        values: What the instrument says, by the names of the vocabulary.
    """

    second: int
    pm10_ug_m3: float
    values: dict[str, float]


def dust_samples(
    seed: int, device: str, episodes: Episodes, start_hour: float, before_s: int = 0
) -> Iterator[DustSample]:
    """What a monitor measures, a sample a second, without end.

    Args:
        seed: What makes one run differ from another.
        device: Device id; each monitor has its own air and its own errors.
        episodes: When dust is raised around it.
        start_hour: Local hour of the day at the site's start, 0 to 24.
        before_s: How many seconds before the start to begin with; that air was there too.

    Yields:
        Samples, the first at ``-before_s``; those from 0 on do not depend on `before_s`.
    """
    name = f"{seed}/{device}"
    dice = random.Random(f"{name}/instrument")
    air = drift(random.Random(f"{name}/air"), sigma=5.0, memory_s=90.0)
    coarse = drift(random.Random(f"{name}/coarse"), sigma=0.05, memory_s=120.0)
    sound = drift(random.Random(f"{name}/sound"), sigma=2.0, memory_s=8.0)
    sky = Sky(seed)
    powers: deque[float] = deque(maxlen=LEQ_WINDOW_S)
    # The processes run from the longest time before the start that anyone asks for.
    for second in range(-_BEFORE_S, 1 << 60):
        hour = (start_hour + second / 3600.0) % 24.0
        morning = math.cos(2 * math.pi * (hour - 8.0) / 24.0)
        background = max(15.0, 60.0 * (1 + 0.2 * morning) + next(air))
        raised = episodes.strength(name, float(second))
        weather = sky.at(second + _BEFORE_S, hour)
        by_day = 6.0 <= hour < 22.0
        noise = (61.0 if by_day else 47.0) + 6.0 * min(1.0, raised / 200.0) + next(sound)
        powers.append(10.0 ** (noise / 10.0))

        pm10 = background + raised
        tsp_ratio = 1.6 + next(coarse)
        error = 1.0 + bounded(dice, 0.012)
        sample = {
            "pm2_5_ug_m3": (0.45 * background + 0.12 * raised) * (1.0 + bounded(dice, 0.012)),
            "pm10_ug_m3": pm10 * error,
            "tsp_ug_m3": pm10 * tsp_ratio * error,
            "noise_db": noise + bounded(dice, 0.5),
            "leq_db": 10.0 * math.log10(sum(powers) / len(powers)),
            "temperature_c": weather.temperature_c + bounded(dice, 0.05),
            "humidity_pct": weather.humidity_pct + bounded(dice, 0.2),
            "pressure_kpa": weather.pressure_kpa,
            "wind_speed_m_s": max(0.0, weather.wind_speed_m_s + bounded(dice, 0.3)),
            "wind_direction_deg": (weather.wind_direction_deg + bounded(dice, 3.0)) % 360.0,
            "rain_mm_h": 0.0,
        }
        if second >= -before_s:
            yield DustSample(
                second,
                pm10,
                {
                    quantity: round(value, _DECIMALS.get(quantity, 1))
                    for quantity, value in sample.items()
                },
            )


_BEFORE_S = 60
_DECIMALS = {"pressure_kpa": 2}
