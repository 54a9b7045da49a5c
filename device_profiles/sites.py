"""Who and what stands on a site, as people write it down in TOML.

A site file holds organisations, sites, devices and recipients. `smartsite site import` puts it
into the registry; `smartsite check` says every fault with file and key.
"""

from __future__ import annotations

import zoneinfo
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from device_profiles.hj212.frames import Tolerance
from device_profiles.topics import ID, PREFIX
from device_profiles.units import conversion
from device_profiles.vocabulary import QUANTITIES, Kind

Id = Annotated[str, Field(pattern=f"^{ID.pattern}$")]
ExternalId = Annotated[
    str, Field(min_length=1, max_length=128, pattern=r"^[^\s/+#]([^/+#]*[^\s/+#])?$")
]
SecretRef = Annotated[str, Field(pattern=r"^(env:[A-Za-z_][A-Za-z0-9_]*|file:.+)$")]


def _iana(name: str) -> str:
    if name not in zoneinfo.available_timezones():
        raise ValueError(f"{name!r} is not an IANA time zone")
    return name


class _Model(BaseModel):
    @field_validator("*", mode="after")
    @classmethod
    def _is_printable(cls, value: object) -> object:
        if isinstance(value, str) and not value.isprintable():
            raise ValueError("holds control characters")
        return value

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, allow_inf_nan=False)


class Organisation(_Model):
    """A contractor or a regulator."""

    id: Id
    name: str = Field(min_length=1, max_length=200)


class Site(_Model):
    """A construction site, the contractor who builds and the regulator who supervises."""

    id: Id
    name: str = Field(min_length=1, max_length=200)
    timezone: str = "Asia/Shanghai"
    district: str = Field("", description="topic prefix the site's devices publish under")
    contractor: Id
    regulator: Id

    @field_validator("timezone")
    @classmethod
    def _is_iana(cls, value: str) -> str:
        return _iana(value)

    @field_validator("district")
    @classmethod
    def _is_prefix(cls, value: str) -> str:
        if not PREFIX.fullmatch(value):
            raise ValueError(f"{value!r} is not a topic prefix: ids joined by '/'")
        return value


class CraneGeometry(_Model):
    """A tower crane's place and bodies, in site metres: x east, y north, heights above datum.

    Slewing angle 0 looks along `slew_zero_deg`, a compass bearing (clockwise from north), and
    grows clockwise.
    """

    x_m: float
    y_m: float
    base_m: float = Field(0.0, description="height of the mast's foot above the site's datum")
    jib_height_m: float = Field(gt=0, le=700, description="height of the jib above the mast's foot")
    jib_m: float = Field(gt=0, le=120, description="length of the jib from the mast's axis")
    counter_jib_m: float = Field(ge=0, le=60)
    top_height_m: float | None = Field(
        None, description="height of the highest part above the foot; default: the jib"
    )
    slew_zero_deg: float = Field(0.0, ge=-360, le=360)

    @model_validator(mode="after")
    def _top_is_above_jib(self) -> Self:
        if self.top_height_m is not None and self.top_height_m < self.jib_height_m:
            raise ValueError("top_height_m lies below jib_height_m")
        return self


_SHARE = Field(ge=0, le=1)
Point = tuple[Annotated[float, _SHARE], Annotated[float, _SHARE]]
Hours = Annotated[str, Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d$")]


def _encloses(polygon: tuple[Point, ...]) -> tuple[Point, ...]:
    doubled = sum(
        polygon[i - 1][0] * polygon[i][1] - polygon[i][0] * polygon[i - 1][1]
        for i in range(len(polygon))
    )
    if abs(doubled) < 1e-6:
        raise ValueError("the polygon encloses nothing")
    return polygon


Polygon = Annotated[
    tuple[Point, ...],
    Field(
        min_length=3,
        max_length=64,
        description="corners as shares of the picture's width and height, from its top left",
    ),
    AfterValidator(_encloses),
]


class Zone(_Model):
    """A part of a camera's picture, and what it demands of people whose feet stand in it."""

    name: str = Field(min_length=1, max_length=50)
    polygon: Polygon
    vest: bool = Field(False, description="a hi-vis vest has to be worn")
    no_entry: bool = Field(False, description="nobody may be there at any hour")
    no_entry_hours: tuple[Hours, ...] = Field(
        (),
        max_length=10,
        description='hours in which nobody may be there, "22:00-06:00" in the site\'s time zone',
    )

    @field_validator("no_entry_hours")
    @classmethod
    def _last(cls, hours: tuple[str, ...]) -> tuple[str, ...]:
        for span in hours:
            if span[:5] == span[6:]:
                raise ValueError(f"{span} is no time at all; all day is no_entry")
        return hours

    @model_validator(mode="after")
    def _demands_something(self) -> Self:
        if not (self.vest or self.no_entry or self.no_entry_hours):
            raise ValueError(f"zone {self.name!r} demands nothing: vest, no_entry, no_entry_hours")
        return self


class CameraSettings(_Model):
    """What a camera looks at."""

    fixed: bool = Field(
        True, description="it always looks at the same scene; false: it patrols or is turned"
    )
    areas: tuple[Polygon, ...] = Field(
        (), max_length=32, description="where heads and people count; default: everywhere"
    )
    masks: tuple[Polygon, ...] = Field(
        (), max_length=32, description="where they do not: a screen, a poster, the road outside"
    )
    min_head_px: float = Field(
        0.0, ge=0, le=1_000, description="smaller heads are left out, pixels of the picture"
    )
    tiles: Literal["auto", "off", "2x2", "3x2"] = Field(
        "auto", description="a large picture is looked at in parts too where heads are small"
    )
    zone: tuple[Zone, ...] = Field((), max_length=32)

    @model_validator(mode="after")
    def _zones_are_told_apart(self) -> Self:
        names = [zone.name for zone in self.zone]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"zone stands twice: {', '.join(twice)}")
        if self.zone and not self.fixed:
            raise ValueError("zones hold for one scene: a camera that is not fixed has none")
        return self


class Device(_Model):
    """An instrument on a site."""

    site: Id
    id: Id
    kind: Kind
    make: str = Field("", max_length=100)
    model: str = Field("", max_length=100)
    firmware: str = Field("", max_length=100)
    expected_every_s: float = Field(60.0, gt=0, le=86_400)
    profile: Id | None = Field(
        None, description="id of the profile it is read by; default: by make, model and firmware"
    )
    external_id: ExternalId | None = Field(
        None,
        description="how its make's topics, a gateway's payloads or HJ 212 (MN) name it; one of"
        " its own among all devices",
    )
    units: dict[str, str] = Field(
        {}, description="the unit it really sends a quantity in, where that is not its profile's"
    )
    zone: str | None = Field(
        None, description="IANA name of the zone its clock is set to, where not its profile's"
    )
    alarm_bits: Literal["right", "left"] | None = Field(
        None, description="which end of its alarm bits is bit 0, where not its profile's"
    )
    tolerate: tuple[Tolerance, ...] = Field(
        (), description="deviations from HJ 212 taken beyond its profile's, and counted"
    )
    password: SecretRef | None = Field(
        None, description="env:NAME or file:PATH of the PW it sends by HJ 212 over TCP"
    )
    geometry: CraneGeometry | None = None
    camera: CameraSettings | None = None

    @field_validator("zone")
    @classmethod
    def _zone_is_iana(cls, value: str | None) -> str | None:
        return value if value is None else _iana(value)

    @model_validator(mode="after")
    def _geometry_is_a_cranes(self) -> Self:
        if self.geometry is not None and self.kind is not Kind.CRANE:
            raise ValueError(f"a {self.kind} has no geometry")
        if self.camera is not None and self.kind is not Kind.CAMERA:
            raise ValueError(f"a {self.kind} is no camera")
        return self

    @model_validator(mode="after")
    def _units_are_of_its_quantities(self) -> Self:
        quantities = {quantity.name: quantity for quantity in QUANTITIES.get(self.kind, ())}
        for name, unit in self.units.items():
            if name not in quantities:
                raise ValueError(f"units: a {self.kind} has no quantity {name!r}")
            try:
                conversion(unit, quantities[name].unit)
            except ValueError as fault:
                raise ValueError(f"units.{name}: {fault}") from None
        return self


class Recipient(_Model):
    """Where an organisation is told: a signed webhook."""

    id: Id
    organisation: Id
    kind: Literal["webhook"] = "webhook"
    url: str = Field(pattern=r"^https?://[^\s]+$", max_length=2_000)
    secret: SecretRef = Field(description="env:NAME or file:PATH of a whsec_ secret")


class SiteFile(_Model):
    """What one TOML file registers."""

    organisation: tuple[Organisation, ...] = ()
    site: tuple[Site, ...] = ()
    device: tuple[Device, ...] = ()
    recipient: tuple[Recipient, ...] = ()

    @model_validator(mode="after")
    def _ids_are_unique(self) -> Self:
        for name, ids in (
            ("organisation", [entry.id for entry in self.organisation]),
            ("site", [entry.id for entry in self.site]),
            ("device", [f"{entry.site}/{entry.id}" for entry in self.device]),
            ("external_id", [one.external_id for one in self.device if one.external_id]),
            ("recipient", [entry.id for entry in self.recipient]),
        ):
            twice = sorted({id_ for id_ in ids if ids.count(id_) > 1})
            if twice:
                raise ValueError(f"{name} stands twice: {', '.join(twice)}")
        return self
