"""The settings of the rules: limits, windows and what counts as enough data.

Limits differ from district to district in pollutant, averaging and counting, so they are
settings and not law. A default that could not be traced to an official text says "unverified".
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]


class _Rule(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DustRule(_Rule):
    """`dust.pm10_mean`: the mean PM10 of a sliding window is above the limit."""

    limit_ug_m3: float = Field(
        80.0,
        gt=0,
        le=30_000,
        allow_inf_nan=False,
        description="limit of the mean, µg/m³. Default: the figure quoted from Hebei"
        " DB13/2934-2019, unverified; there it applies to the site minus the district's mean,"
        " here to the site's own reading without background. Set the district's own.",
    )
    window_s: Seconds = Field(
        900.0,
        description="length of the averaging window, seconds. Default: 15 min, the averaging"
        " quoted from Shanghai DB31/964-2016; unverified.",
    )
    min_coverage: float = Field(
        0.75,
        gt=0,
        le=1,
        description="least share of the samples expected in a window for it to be judged."
        " Default: 75 %, the share HJ 212 asks of a valid minute, hour or day.",
    )
    clear_ratio: float = Field(
        1.0,
        gt=0,
        le=1,
        description="an episode closes when the mean is at or below this share of the limit."
        " Below 1 it is a hysteresis. Project choice.",
    )
    bridge_s: Seconds = Field(
        900.0,
        description="an episode lives through time that cannot be judged if it is shorter than"
        " this, seconds; after it, it closes at its last evidence. Project choice.",
    )


class CraneRule(_Rule):
    """`crane.min_distance`: bodies of two tower cranes are nearer than the limit."""

    limit_m: float = Field(
        2.0,
        gt=0,
        le=100,
        allow_inf_nan=False,
        description="least distance between the bodies' axes, metres. Default: the 2 m that"
        " GB 5144 is quoted to ask between jib tip and mast and vertically between cranes;"
        " unverified against the text. Widths of bodies, the load below the hook and its swing"
        " are not modelled: allow for them here.",
    )
    hysteresis_m: float = Field(
        0.2,
        ge=0,
        le=10,
        allow_inf_nan=False,
        description="an episode closes at the limit plus this, metres. Project choice.",
    )
    max_age_s: Seconds = Field(
        3.0,
        description="a crane's position holds for this long, seconds; an older one is not used."
        " Project choice: a slewing jib's tip moves some 5 m a second.",
    )
    slow_every_s: Seconds = Field(
        10.0,
        description="where a crane is registered to speak this seldom or seldomer, the silence"
        " that keeps the pair from being judged is called too slow, seconds. Project choice.",
    )
    bridge_s: Seconds = Field(
        30.0,
        description="an episode lives through time that cannot be judged if it is shorter than"
        " this, seconds; after it, it closes at its last evidence. Project choice.",
    )


class ConfirmedRule(_Rule):
    """What rules on a camera's people share; the defaults are project choices."""

    min_score: float = Field(
        0.5, ge=0, le=1, description="boxes with a lower score are not looked at"
    )
    sightings: int = Field(
        4, ge=1, le=100, description="sightings of a bare head that confirm it, of `looks`"
    )
    looks: int = Field(6, ge=1, le=100, description="the last looks at a head that count")
    window_s: Seconds = Field(5.0, description="older looks do not count, seconds")
    gone_s: Seconds = Field(3.0, description="a head unseen for this long is gone, seconds")
    cooldown_s: float = Field(
        10.0,
        ge=0,
        le=86_400,
        allow_inf_nan=False,
        description="a bare head near the place of one that went or was covered no longer ago"
        " than this is the same violation, seconds",
    )
    max_gap_s: Seconds = Field(
        5.0, description="without a look for this long nothing can be judged, seconds"
    )

    @model_validator(mode="after")
    def _can_be_confirmed(self) -> Self:
        if self.sightings > self.looks:
            raise ValueError("sightings lies above looks: nothing could ever be confirmed")
        return self


class HelmetRule(ConfirmedRule):
    """`helmet.bare_head`: a head without a helmet, seen on several looks of one camera.

    All of its defaults are project choices, to be set by measurement on the site's own pictures.
    """

    min_score: float = Field(
        0.44,
        ge=0,
        le=1,
        description="boxes with a lower score are not looked at. Default: the operating point of"
        " the shipped model for helmet and head.",
    )


class VestRule(ConfirmedRule):
    """`vest.missing`: a person without a hi-vis vest in a zone that demands one.

    As for heads; the boxes are of torsos. Its defaults are project choices.
    """


class PresenceRule(ConfirmedRule):
    """`zone.entry`: a person's feet in a zone where nobody may be, always or at this hour.

    As for heads; the boxes are of persons. Its defaults are project choices.
    """


class CameraRule(_Rule):
    """`device.camera`: a camera whose pictures let nobody judge: dark, blurred, blocked, moved."""

    bridge_s: Seconds = Field(
        60.0,
        description="a camera that falls silent while unfit, and is unfit when it is back within"
        " this, seconds, was so all the time. Project choice.",
    )


class ReportedRule(_Rule):
    """`device.reported`: what a device's own AI says, confirmed or contradicted by our model."""

    min_score: float = Field(
        0.44, ge=0, le=1, description="our own boxes with a lower score confirm nothing"
    )
    wait_s: Seconds = Field(
        30.0,
        description="a picture that was not looked at within this, seconds, counts as not looked"
        " at. Project choice.",
    )
    cooldown_s: Seconds = Field(
        60.0,
        description="the same said again within this, seconds, is the same violation. Project"
        " choice.",
    )


class SilenceRule(_Rule):
    """`device.silence`: a device that should speak does not. Its defaults are project choices.

    One reading missing is a dropout, two in a row happen on a weak mobile link, three are a device
    to look after. A device that speaks every second would be called offline after each change of
    antenna, so no silence under a minute counts.
    """

    periods: float = Field(
        3.0,
        ge=1,
        le=1_000,
        allow_inf_nan=False,
        description="a device is offline when it was silent for longer than so many times the"
        " interval it is registered to speak at",
    )
    at_least_s: Seconds = Field(
        60.0, description="and for longer than this, whatever its interval, seconds"
    )
    grace_s: float = Field(
        5.0,
        ge=0,
        le=3_600,
        allow_inf_nan=False,
        description="a device that was said to be offline and is heard again within this, seconds,"
        " was not: a change of antenna, or a clock a little ahead",
    )


class ClockRule(_Rule):
    """`device.clock`: a device's clock is off; the times of its readings are repaired."""

    jump_s: Seconds = Field(
        60.0,
        description="a change of the offset by this or more, seconds, is a jump: it ends one"
        " finding and opens the next; a smaller one is drift and amends it. Project choice.",
    )


class Rules(_Rule):
    """The settings of all rules."""

    dust: DustRule = DustRule()
    crane: CraneRule = CraneRule()
    helmet: HelmetRule = HelmetRule()
    vest: VestRule = VestRule()
    presence: PresenceRule = PresenceRule()
    camera: CameraRule = CameraRule()
    reported: ReportedRule = ReportedRule()
    silence: SilenceRule = SilenceRule()
    clock: ClockRule = ClockRule()
