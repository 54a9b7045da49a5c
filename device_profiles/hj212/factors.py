"""Which code means which quantity, by dialect, and in which unit.

A field of CP is named ``code-suffix``. The suffix says which statistic it is; the code, what was
measured. The standard's codes are those of HJ 212-2017; what vendors use in their place has a
name here and has to be chosen by it, except for the names that say themselves what they are.
The standard prints dust in ng/m³ with a format that cannot hold it; real devices send µg, mg or
ng: the unit is configuration of each device, µg/m³ where nothing is said.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from functools import cache
from types import MappingProxyType

from device_profiles.errors import shown
from device_profiles.vocabulary import DUST_QUANTITIES, Series


class Dialect(StrEnum):
    """A set of factor codes."""

    STANDARD = "standard"
    NAMES = "names"
    CODES_2005 = "codes_2005"
    KUNSHAN = "kunshan"


CODES: Mapping[Dialect, Mapping[str, str]] = MappingProxyType(
    {
        # HJ 212-2017, annex B.
        Dialect.STANDARD: {
            "a34001": "tsp_ug_m3",
            "a34002": "pm10_ug_m3",
            "a34004": "pm2_5_ug_m3",
            "a01001": "temperature_c",
            "a01002": "humidity_pct",
            "a01006": "pressure_kpa",
            "a01007": "wind_speed_m_s",
            "a01008": "wind_direction_deg",
            "LA": "noise_db",
            "Leq": "leq_db",
        },
        # Seen in the field.
        Dialect.NAMES: {
            "TSP": "tsp_ug_m3",
            "PM10": "pm10_ug_m3",
            "PM25": "pm2_5_ug_m3",
            "Voice": "noise_db",
            "TEM": "temperature_c",
            "TEMP": "temperature_c",
            "RH": "humidity_pct",
            "HUMI": "humidity_pct",
            "PA": "pressure_kpa",
            "WS": "wind_speed_m_s",
            "WD": "wind_direction_deg",
        },
        # Seen in the field; what exactly 126 to 130 are was read off the values.
        Dialect.CODES_2005: {
            "103": "tsp_ug_m3",
            "107": "pm10_ug_m3",
            "925": "pm2_5_ug_m3",
            "B03": "noise_db",
            "126": "temperature_c",
            "127": "pressure_kpa",
            "128": "humidity_pct",
            "129": "wind_speed_m_s",
            "130": "wind_direction_deg",
        },
        # Kunshan and Shanghai; mostly in mg/m³. In the standard a34005 is PM1.0.
        Dialect.KUNSHAN: {
            "a34005": "pm10_ug_m3",
            "a50001": "noise_db",
        },
    }
)

FIELD_PRACTICE = (Dialect.STANDARD, Dialect.NAMES)
"""What is understood where nothing else is chosen."""

POWERS: Mapping[str, Mapping[str, int]] = MappingProxyType(
    {
        "µg/m³": {"µg/m³": 0, "mg/m³": 3, "ng/m³": -3},
        "kPa": {"kPa": 0, "hPa": -1, "Pa": -3},
    }
)
"""By the unit of the vocabulary: what a device may send, as powers of ten."""

_UNIT_OF = {quantity.name: quantity.unit for quantity in DUST_QUANTITIES}
PLACES = {quantity.name: place for place, quantity in enumerate(DUST_QUANTITIES)}
DUST = tuple(name for name, unit in _UNIT_OF.items() if unit == "µg/m³")
"""The quantities of dust, whose unit is to be told by each device's configuration."""

_PRIMARY = {
    Series.INSTANT: ("Rtd", "Data"),
    Series.MINUTE: ("Avg", "Data"),
    Series.HOUR: ("Avg", "Data"),
    Series.DAY: ("Avg", "Data"),
}
_OTHER = {
    Series.INSTANT: ("Avg",),
    Series.MINUTE: ("Rtd",),
    Series.HOUR: ("Rtd",),
    Series.DAY: ("Rtd",),
}
STATISTICS = ("Rtd", "Avg", "Min", "Max", "Cou", "Data", "DayData", "NightData")

FLAG = 100
OTHER = 200
"""Added to the place of a quantity in a role: its data flag; a value of another statistic than
the series is made of, taken where there is no other."""

STATISTIC = 999
"""The role of a known code's minimum, maximum, sum and the like: kept beside the reading."""


def power_of(quantity: str, unit: str) -> int:
    """Find what a device's value is to be multiplied by.

    Args:
        quantity: Name in the vocabulary.
        unit: What the device sends.

    Returns:
        The power of ten from that unit to the vocabulary's.

    Raises:
        ValueError: No such quantity, or it is not sent in that unit.
    """
    if quantity not in _UNIT_OF:
        raise ValueError(f"{shown(quantity)} is no quantity of a dust monitor")
    own = _UNIT_OF[quantity]
    powers = POWERS.get(own, {own: 0})
    if unit not in powers:
        raise ValueError(f"{quantity} in {shown(unit)}: it is one of {', '.join(powers)}")
    return powers[unit]


@cache
def roles_of(dialects: tuple[Dialect, ...], series: Series) -> dict[str, int]:
    """Make the table of fields.

    Args:
        dialects: Later ones are stronger.
        series: What the reading is.

    Returns:
        By field name: the place of the quantity whose value it is, or that plus `FLAG` or
        `OTHER`, or `STATISTIC`.
    """
    roles: dict[str, int] = {}
    codes = {code: name for dialect in dialects for code, name in CODES[dialect].items()}
    for code, name in codes.items():
        place = PLACES[name]
        for suffix in STATISTICS:
            roles[f"{code}-{suffix}"] = STATISTIC
        for suffix in _PRIMARY[series]:
            roles[f"{code}-{suffix}"] = place
        for suffix in _OTHER[series]:
            roles[f"{code}-{suffix}"] = OTHER + place
        roles[f"{code}-Flag"] = FLAG + place
    return roles


def is_standard(field: str) -> bool:
    """Whether the code of a field is one of the standard's."""
    return field.rpartition("-")[0] in CODES[Dialect.STANDARD]
