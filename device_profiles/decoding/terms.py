"""What is known of one single device beyond its make's datasheet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Terms:
    """One device's own terms.

    Attributes:
        units: The unit it really sends a quantity in, where that is not the datasheet's.
        limits: What it can reach, by quantity, in the vocabulary's unit: no trolley runs beyond
            the jib.
        zone: The zone its clock is set to, where that is not the datasheet's.
        alarm_bits: Which end of a bit field is bit 0, where it is not the datasheet's: "right"
            or "left".
        tolerate: Named tolerances of HJ 212 beyond the profile's.
    """

    units: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    zone: str | None = None
    alarm_bits: str | None = None
    tolerate: tuple[str, ...] = ()


NO_TERMS = Terms()
