"""The quantities: their names, units, plausible ranges and what people call them.

A unit stands in the name of every quantity. The range is what the quantity can physically or
instrumentally be, not what it may be: a value outside it is garbage and is refused, a value
inside it may still be a violation. Sources: instrument ranges of common site equipment; they
are project choices, not law.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum


class Kind(StrEnum):
    """What sort of device speaks."""

    DUST = "dust"
    CRANE = "crane"
    CAMERA = "camera"


class Channel(StrEnum):
    """What a device says on a topic."""

    TELEMETRY = "telemetry"
    EVENT = "event"
    STATUS = "status"
    FRAME = "frame"


class Series(IntEnum):
    """What the time of a reading means: an instant, or the start of a period.

    HJ 212 sends all of them with equal DataTime, so the series is part of a reading's key.
    """

    INSTANT = 0
    MINUTE = 1
    HOUR = 2
    DAY = 3


SERIES_BY_NAME = {series.name.lower(): series for series in Series}


@dataclass(frozen=True, slots=True)
class Quantity:
    """One measured quantity.

    Attributes:
        name: Field name, unit included, as in payloads, tables and code.
        unit: UCUM-like unit for people.
        low: Smallest value that can be real, in `unit`.
        high: Largest value that can be real, in `unit`.
        zh: What site people call it.
        en: The same in English.
    """

    name: str
    unit: str
    low: float
    high: float
    zh: str
    en: str


DUST_QUANTITIES: tuple[Quantity, ...] = (
    Quantity("pm2_5_ug_m3", "µg/m³", 0, 30_000, "PM2.5", "PM2.5"),
    Quantity("pm10_ug_m3", "µg/m³", 0, 30_000, "PM10", "PM10"),
    Quantity("tsp_ug_m3", "µg/m³", 0, 60_000, "总悬浮颗粒物", "TSP"),
    Quantity("noise_db", "dB(A)", 0, 160, "噪声", "noise, A-weighted, instantaneous"),
    Quantity("leq_db", "dB(A)", 0, 160, "等效声级", "equivalent continuous sound level"),
    Quantity("temperature_c", "°C", -60, 80, "温度", "air temperature"),
    Quantity("humidity_pct", "%", 0, 100, "相对湿度", "relative humidity"),
    Quantity("pressure_kpa", "kPa", 40, 115, "气压", "air pressure"),
    Quantity("wind_speed_m_s", "m/s", 0, 90, "风速", "wind speed"),
    Quantity("wind_direction_deg", "°", 0, 360, "风向", "wind direction, where it comes from"),
    Quantity("rain_mm_h", "mm/h", 0, 500, "雨强", "rain intensity"),
)

CRANE_QUANTITIES: tuple[Quantity, ...] = (
    Quantity("slew_deg", "°", -720, 720, "回转角度", "slewing angle"),
    Quantity("trolley_m", "m", 0, 150, "幅度", "trolley radius"),
    Quantity("hook_height_m", "m", -150, 700, "吊钩高度", "height of the hook"),
    Quantity("luff_deg", "°", -10, 95, "俯仰角", "luffing angle of the jib"),
    Quantity("load_t", "t", -5, 2_000, "载荷", "load on the hook"),
    Quantity("rated_load_t", "t", 0, 2_000, "额定载荷", "rated load at this radius"),
    Quantity("moment_pct", "%", 0, 300, "力矩百分比", "load moment of rated"),
    Quantity("wind_speed_m_s", "m/s", 0, 90, "风速", "wind speed"),
    Quantity("tilt_deg", "°", -45, 45, "倾角", "tilt of the mast"),
    Quantity("falls", "1", 1, 16, "倍率", "rope falls"),
)

QUANTITIES: dict[Kind, tuple[Quantity, ...]] = {
    Kind.DUST: DUST_QUANTITIES,
    Kind.CRANE: CRANE_QUANTITIES,
}

MAX_ALARMS = 64
"""Most alarm names one crane reading may carry."""

MAX_NAME_CHARS = 64
"""Longest name of an alarm or of an unknown quantity kept in ``extra``."""

MAX_EXTRA = 64
"""Most unknown quantities one reading may carry."""
