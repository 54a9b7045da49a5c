"""The lean table of units agrees with pint, entry by entry."""

import math

import pint
import pytest

from device_profiles.units import BASES, SPELLINGS, UNITS, conversion, printed
from device_profiles.vocabulary import QUANTITIES

REGISTRY: pint.UnitRegistry[float] = pint.UnitRegistry()
PINT_NAMES = {
    "ug/m3": "microgram / meter ** 3",
    "mg/m3": "milligram / meter ** 3",
    "ng/m3": "nanogram / meter ** 3",
    "g/m3": "gram / meter ** 3",
    "degC": "degC",
    "K": "kelvin",
    "degF": "degF",
    "%": "percent",
    "1": "dimensionless",
    "kPa": "kilopascal",
    "hPa": "hectopascal",
    "mbar": "millibar",
    "Pa": "pascal",
    "bar": "bar",
    "mmHg": "mmHg",
    "m/s": "meter / second",
    "km/h": "kilometer / hour",
    "kn": "knot",
    "deg": "degree",
    "rad": "radian",
    "mrad": "milliradian",
    "mm/h": "millimeter / hour",
    "mm/min": "millimeter / minute",
    "m": "meter",
    "dm": "decimeter",
    "cm": "centimeter",
    "mm": "millimeter",
    "t": "metric_ton",
    "kg": "kilogram",
}
NOT_PINTS = {"dB", "kN", "count"}
"""A level has no other unit, a count none; a weight cell's force is mass by standard gravity."""


def test_every_unit_is_looked_up_somewhere() -> None:
    assert {*PINT_NAMES, *NOT_PINTS} == set(UNITS)
    assert set(SPELLINGS.values()) <= set(UNITS)
    assert set(BASES.values()) <= set(UNITS)
    spoken = {quantity.unit for quantities in QUANTITIES.values() for quantity in quantities}
    assert spoken == set(BASES)


@pytest.mark.parametrize("value", [0.0, 1.0, 37.5, -12.25])
@pytest.mark.parametrize("name", PINT_NAMES)
def test_a_unit_is_what_pint_makes_of_it(name: str, value: float) -> None:
    for target, base in BASES.items():
        if base not in PINT_NAMES or UNITS[name].dimension != UNITS[base].dimension:
            continue
        quantity = REGISTRY.Quantity(value, PINT_NAMES[name])
        wanted = quantity.to(PINT_NAMES[base]).magnitude
        factor, shift = conversion(name, target)
        assert value * factor + shift == pytest.approx(wanted, rel=1e-12, abs=1e-9)


@pytest.mark.parametrize("name", PINT_NAMES)
def test_what_pint_cannot_convert_neither_can_we(name: str) -> None:
    for target, base in BASES.items():
        if base not in PINT_NAMES:
            continue
        compatible = REGISTRY.Unit(PINT_NAMES[name]).is_compatible_with(PINT_NAMES[base])
        if UNITS[name].dimension != UNITS[base].dimension and {"ratio", "rain intensity"} & {
            UNITS[name].dimension,
            UNITS[base].dimension,
        }:
            compatible = False  # to pint a share is an angle, and rain a speed
        if compatible:
            conversion(name, target)
        else:
            with pytest.raises(ValueError, match="measures"):
                conversion(name, target)


def test_force_counts_as_mass_by_standard_gravity() -> None:
    newtons = REGISTRY.Quantity(1.0, "metric_ton * standard_gravity").to("kilonewton").magnitude
    assert conversion("kN", "t")[0] == pytest.approx(1 / newtons, rel=1e-12)


@pytest.mark.parametrize(("spelling", "unit"), SPELLINGS.items())
def test_spellings_mean_the_same(spelling: str, unit: str) -> None:
    for target, base in BASES.items():
        if UNITS[unit].dimension == UNITS[base].dimension:
            assert conversion(spelling, target) == conversion(unit, target)
    assert printed(spelling) == printed(unit) or unit not in {"ug/m3", "mg/m3", "ng/m3"}


def test_unknown_units_name_the_known() -> None:
    with pytest.raises(ValueError, match=r"'ppm' is not known: one of .*ug/m3"):
        conversion("ppm", "µg/m³")
    assert conversion("1", "1") == (1.0, 0.0)
    assert conversion("1", "%") == (100.0, 0.0)
    assert printed("mg/m3") == "mg/m³"
    assert printed("kPa") == "kPa"
    assert math.isclose(conversion("knots", "m/s")[0], 0.514444, rel_tol=1e-5)
