"""Units: what datasheets write, turned once at the door into the unit of the vocabulary.

A conversion is ``value × factor + offset``. The table is small on purpose: it holds what
instruments of a construction site send. Factors follow from the SI's definitions (knot: 1,852 m
an hour; mmHg: 133.322387415 Pa); the tests check every entry against pint.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Unit:
    """How a unit becomes the base unit of its dimension.

    Attributes:
        dimension: What is measured; only units of one dimension convert into each other.
        factor: Multiplies a value in this unit.
        offset: Is added afterwards.
    """

    dimension: str
    factor: float
    offset: float = 0.0


UNITS: dict[str, Unit] = {
    # base: µg/m³
    "ug/m3": Unit("mass concentration", 1.0),
    "mg/m3": Unit("mass concentration", 1e3),
    "ng/m3": Unit("mass concentration", 1e-3),
    "g/m3": Unit("mass concentration", 1e6),
    # base: dB(A); a level has no other unit
    "dB": Unit("level", 1.0),
    # base: °C
    "degC": Unit("temperature", 1.0),
    "K": Unit("temperature", 1.0, -273.15),
    "degF": Unit("temperature", 5 / 9, -160 / 9),
    # base: %
    "%": Unit("ratio", 1.0),
    "1": Unit("ratio", 100.0),
    # base: kPa
    "kPa": Unit("pressure", 1.0),
    "hPa": Unit("pressure", 0.1),
    "mbar": Unit("pressure", 0.1),
    "Pa": Unit("pressure", 1e-3),
    "bar": Unit("pressure", 100.0),
    "mmHg": Unit("pressure", 0.133322387415),
    # base: m/s
    "m/s": Unit("speed", 1.0),
    "km/h": Unit("speed", 1 / 3.6),
    "kn": Unit("speed", 1852 / 3600),
    # base: degree of arc
    "deg": Unit("angle", 1.0),
    "rad": Unit("angle", 180 / math.pi),
    "mrad": Unit("angle", 0.18 / math.pi),
    # base: mm/h
    "mm/h": Unit("rain intensity", 1.0),
    "mm/min": Unit("rain intensity", 60.0),
    # base: m
    "m": Unit("length", 1.0),
    "dm": Unit("length", 0.1),
    "cm": Unit("length", 1e-2),
    "mm": Unit("length", 1e-3),
    # base: tonne
    "t": Unit("mass", 1.0),
    "kg": Unit("mass", 1e-3),
    # a weight cell that counts force; 1 t weighs 9.80665 kN
    "kN": Unit("mass", 1 / 9.80665),
    # a count
    "count": Unit("count", 1.0),
}

SPELLINGS: dict[str, str] = {
    "µg/m³": "ug/m3",
    "μg/m³": "ug/m3",
    "ug/m³": "ug/m3",
    "µg/m3": "ug/m3",
    "mg/m³": "mg/m3",
    "ng/m³": "ng/m3",
    "dB(A)": "dB",
    "°C": "degC",
    "℃": "degC",
    "°F": "degF",
    "%RH": "%",
    "°": "deg",
    "knot": "kn",
    "knots": "kn",
}
"""Other ways datasheets write them."""

BASES: dict[str, str] = {
    "µg/m³": "ug/m3",
    "dB(A)": "dB",
    "°C": "degC",
    "%": "%",
    "kPa": "kPa",
    "m/s": "m/s",
    "°": "deg",
    "mm/h": "mm/h",
    "m": "m",
    "t": "t",
    "1": "count",
}
"""The vocabulary's units, by the name each has here."""


_PRINTED = {"ug/m3": "µg/m³", "mg/m3": "mg/m³", "ng/m3": "ng/m³", "g/m3": "g/m³"}


def printed(unit: str) -> str:
    """Write a unit of mass concentration as people print it; others as they are.

    Args:
        unit: In any spelling.

    Returns:
        "mg/m³" for "mg/m3".
    """
    plain = SPELLINGS.get(unit, unit)
    return _PRINTED.get(plain, unit)


def conversion(unit: str, quantity_unit: str) -> tuple[float, float]:
    """Say how a value in a datasheet's unit becomes the vocabulary's.

    Args:
        unit: As the datasheet writes it.
        quantity_unit: Of the quantity, as the vocabulary writes it.

    Returns:
        Factor and offset: ``value × factor + offset``.

    Raises:
        ValueError: The unit is not known, or measures something else.
    """
    if unit == quantity_unit:
        return 1.0, 0.0  # also of a count, whose "1" is not the 1 of 100 %
    found = UNITS.get(SPELLINGS.get(unit, unit))
    target = UNITS[BASES[quantity_unit]]
    if found is None:
        raise ValueError(f"unit {unit!r} is not known: one of {', '.join(sorted(UNITS))}")
    if found.dimension != target.dimension:
        raise ValueError(
            f"unit {unit!r} measures {found.dimension}, the quantity is in {quantity_unit}"
        )
    return found.factor / target.factor, (found.offset - target.offset) / target.factor
