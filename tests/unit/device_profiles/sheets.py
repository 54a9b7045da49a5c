"""Datasheets for tests: written as the difference from one that is right."""

from typing import Any

from device_profiles.catalogue import Profile, load_profile
from device_profiles.datasheets import Datasheet
from device_profiles.decoding.build import payload_decoder
from device_profiles.decoding.terms import NO_TERMS, Terms
from device_profiles.native import Decoder
from device_profiles.readings import Decoded
from device_profiles.vocabulary import QUANTITIES

__all__ = ["Profile", "decoder", "load_profile", "sheet", "values_of"]

DUST: dict[str, Any] = {
    "id": "test-dust",
    "title": "a test",
    "kind": "dust",
    "format": "json",
    "time": {"at": "t", "format": "epoch_s"},
    "values": {"pm10_ug_m3": {"at": "pm10"}},
}
CRANE: dict[str, Any] = DUST | {"kind": "crane", "values": {"load_t": {"at": "load"}}}
AT = 1_772_326_923


def sheet(base: dict[str, Any] = DUST, **changes: Any) -> Datasheet:
    """The datasheet with some keys changed; None takes one out."""
    given = {name: value for name, value in (base | changes).items() if value is not None}
    return Datasheet.model_validate(given)


def decoder(base: dict[str, Any] = DUST, terms: Terms = NO_TERMS, **changes: Any) -> Decoder:
    """The decoder of such a datasheet."""
    return payload_decoder(sheet(base, **changes), terms)


def values_of(decoded: Decoded, kind: str = "dust", place: int = 0) -> dict[str, float]:
    """The values of one of the readings by name, without those it lacks."""
    quantities = QUANTITIES[kind]  # type: ignore[index]  # a Kind is its text
    named = zip(quantities, decoded.readings[place].values, strict=True)
    return {quantity.name: value for quantity, value in named if value == value}
