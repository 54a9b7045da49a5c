"""Who and what stands on a site, as people write it down in TOML.

A site file holds organisations, sites, devices and recipients. `smartsite site import` puts it
into the registry; `smartsite check` says every fault with file and key.
"""

from __future__ import annotations

import zoneinfo
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from device_profiles.topics import ID, PREFIX
from device_profiles.vocabulary import Kind

Id = Annotated[str, Field(pattern=f"^{ID.pattern}$")]
SecretRef = Annotated[str, Field(pattern=r"^(env:[A-Za-z_][A-Za-z0-9_]*|file:.+)$")]


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
        if value not in zoneinfo.available_timezones():
            raise ValueError(f"{value!r} is not an IANA time zone")
        return value

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


class Device(_Model):
    """An instrument on a site."""

    site: Id
    id: Id
    kind: Kind
    make: str = Field("", max_length=100)
    model: str = Field("", max_length=100)
    firmware: str = Field("", max_length=100)
    expected_every_s: float = Field(60.0, gt=0, le=86_400)
    geometry: CraneGeometry | None = None

    @model_validator(mode="after")
    def _geometry_is_a_cranes(self) -> Self:
        if self.geometry is not None and self.kind is not Kind.CRANE:
            raise ValueError(f"a {self.kind} has no geometry")
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
            ("recipient", [entry.id for entry in self.recipient]),
        ):
            twice = sorted({id_ for id_ in ids if ids.count(id_) > 1})
            if twice:
                raise ValueError(f"{name} stands twice: {', '.join(twice)}")
        return self
