"""`crane.min_distance`: bodies of two tower cranes are nearer to each other than the limit.

The readings of both cranes come merged by time, and the pair is judged at every instant at which
either spoke, with the other where it was last heard to be. An instant is judged when it is over,
so that readings with equal times count together whatever their order.

What is known may prove that the bodies are too near: a jib, where the hook is not known; the
mast of a crane that is silent. That they are far enough apart only both cranes' complete and
fresh positions prove.

This is a record and a warning far from the crane, never the safety function: that is the
crane's own, and acts within a fraction of a second.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple

import msgspec

from detectors.detector import Episode, Episodes, Said, Spans, check
from detectors.geometry import BODY_NAMES, Bodies, bodies, known, nearest
from detectors.messages import beyond, figure, lasting
from detectors.rules import CraneRule
from device_profiles.findings import Coverage, Evidence, Finding, Severity
from device_profiles.readings import CraneReading
from device_profiles.sites import CraneGeometry
from device_profiles.vocabulary import Series

RULE = "crane.min_distance"

NO_DATA = "no_data"
STALE_PARTNER = "stale_partner"
TOO_SLOW = "too_slow"

_NOTABLE_M = 0.25
"""A distance this much below the last one said is said again."""

_MOMENT = timedelta(microseconds=1)
_POSITION = ("slew_deg", "trolley_m", "hook_height_m", "luff_deg")


class _Position(NamedTuple):
    """Where a crane was."""

    reading: CraneReading
    bodies: Bodies

    @property
    def at(self) -> datetime:
        return self.reading.observed_at


class _Sight(NamedTuple):
    """An instant at which the bodies were too near."""

    at: datetime
    distance_m: float
    bodies: tuple[int, int]
    readings: tuple[CraneReading, ...]


class _Crane:
    """One crane of the pair."""

    def __init__(self, device: str, geometry: CraneGeometry, max_age: timedelta) -> None:
        self.id = device
        self._geometry = geometry
        self._max_age = max_age
        self._position: _Position | None = None
        self._beside_position: _Position | None = None  # spoke of other things: load, cycle
        self.mast_alone = bodies(geometry)

    def take(self, reading: CraneReading) -> None:
        """Take a reading; one with the same time completes the one before, as in the store."""
        if not any(known(getattr(reading, name)) for name in _POSITION):
            self._beside_position = _Position(reading, self.mast_alone)
            return
        before = self._position
        if before is not None and before.at == reading.observed_at:
            missing = {
                name: getattr(reading, name)
                for name in _POSITION
                if not known(getattr(before.reading, name))
            }
            reading = msgspec.structs.replace(before.reading, **missing)
        placed = bodies(
            self._geometry,
            reading.slew_deg,
            reading.trolley_m,
            reading.hook_height_m,
            reading.luff_deg,
        )
        self._position = _Position(reading, placed)

    def fresh(self, at: datetime) -> _Position | None:
        """Return the last position if it still holds, else whatever was said as lately."""
        for position in (self._position, self._beside_position):
            if position is not None and at - position.at <= self._max_age:
                return position
        return None


class CraneDetector:
    """Judges two cranes of one site.

    Attributes:
        rule: Name of the rule.
        site: Site id.
        subject: The cranes' ids in order, joined by "+".
        lookback: Twice the time a position holds.
        settled_at: Readings older than this come too late.
    """

    def __init__(
        self,
        site: str,
        one: tuple[str, CraneGeometry],
        other: tuple[str, CraneGeometry],
        rule: CraneRule,
        expected_every_s: float = 0.0,
        since: datetime | None = None,
    ) -> None:
        """Start knowing nothing but where the masts stand.

        Args:
            site: Site id.
            one: Device id and geometry of a crane.
            other: The same of another; `detectors.geometry.can_meet` says whether it is worth
                judging the two.
            rule: The settings.
            expected_every_s: How often the one that speaks more seldom ought to: says only what
                its silence is called.
            since: From when on all readings are handed in; default: from the first one.

        Raises:
            ValueError: If the two are one.
        """
        if one[0] == other[0]:
            raise ValueError(f"crane {site}/{one[0]} makes no pair with itself")
        self._max_age = timedelta(seconds=rule.max_age_s)
        self._one, self._other = (
            _Crane(device, geometry, self._max_age)
            for device, geometry in sorted((one, other), key=lambda crane: crane[0])
        )
        self._ids = (self._one.id, self._other.id)
        self.rule = RULE
        self.site = site
        self.subject = "+".join(self._ids)
        self.settled_at = since
        self._settings = rule
        self.lookback = 2 * self._max_age
        self._spoken_at: datetime | None = None  # the instant that is not over yet
        self._judged_at = since
        slow = expected_every_s >= rule.slow_every_s
        self._silence = TOO_SLOW if slow else NO_DATA  # why not, while neither speaks
        self._partners_silence = TOO_SLOW if slow else STALE_PARTNER  # while only one does
        self._held: str | None = self._silence  # what the last instant decided, until the next
        self._holds_to: datetime | None = None  # until when that was good, if it was judged
        self._spans = Spans(RULE, self.site, self.subject, since)
        self._episodes: Episodes[_Sight] = Episodes(
            max(timedelta(seconds=rule.bridge_s), self._max_age),
            worse=lambda one, other: one.distance_m < other.distance_m,
            notable=lambda one, other: one.distance_m <= other.distance_m - _NOTABLE_M,
            finding=self._finding,
        )

    @property
    def open(self) -> bool:
        """Whether an episode is open."""
        return self._episodes.open

    @property
    def pending(self) -> tuple[Coverage, ...]:
        """The coverage that still grows."""
        return self._spans.pending

    def observe(self, reading: CraneReading) -> list[Said]:
        """Take the next reading of either crane; see `detectors.detector.Detector`."""
        if reading.series != Series.INSTANT:
            return []
        check(self, reading, self._ids)
        at = reading.observed_at
        said = self._judge() if self._spoken_at is not None and at > self._spoken_at else []
        self.settled_at = self._spoken_at = at
        (self._one if reading.device == self._one.id else self._other).take(reading)
        return said

    def advance(self, now: datetime) -> list[Said]:
        """Notice silence; see `detectors.detector.Detector`."""
        said: list[Said] = []
        if self._spoken_at is not None and now > self._spoken_at:
            self._settle(self._spoken_at + _MOMENT)
            said += self._judge()
        said += self._lapse(now)
        if self._judged_at is not None and now > self._judged_at + self._max_age:
            silent_at = self._judged_at + self._max_age
            self._settle(silent_at + _MOMENT)
            said += self._spans.mark(silent_at, self._silence)
        return said

    def finish(self, at: datetime) -> list[Said]:
        """End what is pending; see `detectors.detector.Detector`."""
        if self.settled_at is None:
            return []
        said = self._judge()
        self.settled_at = max(at, self.settled_at)
        said += self._pass(self.settled_at)
        return said + self._episodes.cut() + self._spans.flush()

    def _settle(self, instant: datetime) -> None:
        if self.settled_at is None or instant > self.settled_at:
            self.settled_at = instant

    def _lapse(self, now: datetime) -> list[Said]:
        """Close the episode whose evidence ran out."""
        lapsed_at = self._episodes.lapsed_at(now)
        if lapsed_at is None:
            return []
        self._settle(lapsed_at)
        return self._episodes.cut()

    def _pass(self, at: datetime) -> list[Said]:
        """Account for the time up to an instant at which a crane spoke."""
        said = self._lapse(at)
        if self._judged_at is None:
            return said + self._spans.mark(at, None)
        if at > self._judged_at + self._max_age:
            reason: str | None = self._silence
        elif self._holds_to is not None and at > self._holds_to:
            reason = self._partners_silence
        else:
            reason = self._held
        if reason is not None:
            self._episodes.interrupted()
        return said + self._spans.mark(at, reason)

    def _judge(self) -> list[Said]:
        """Decide on the instant that is over."""
        at = self._spoken_at
        if at is None:
            return []
        self._spoken_at = None
        said = self._pass(at)
        self._judged_at = at
        one = self._one.fresh(at)
        other = self._other.fresh(at)
        fresh = [position for position in (one, other) if position is not None]
        older_at = min(position.at for position in fresh)
        limit_m = self._settings.limit_m + (self._settings.hysteresis_m if self.open else 0.0)
        near = nearest(
            one.bodies if one else self._one.mast_alone,
            other.bodies if other else self._other.mast_alone,
            limit_m,
        )
        self._held, self._holds_to = None, older_at + self._max_age
        if near is not None and round(near.distance_m, 3) < limit_m:
            readings = tuple(position.reading for position in fresh)
            sight = _Sight(at, round(near.distance_m, 3), (near.one, near.other), readings)
            return said + self._episodes.violated(sight)
        fault = next((position.bodies.fault for position in fresh if position.bodies.fault), None)
        if len(fresh) == 2 and fault is None:
            return said + self._episodes.kept(at)
        self._held = self._partners_silence if len(fresh) < 2 else fault
        self._holds_to = None
        self._episodes.interrupted()
        return said

    def _finding(self, episode: Episode[_Sight], closed_at: datetime | None, cut: bool) -> Finding:
        peak, opened_at = episode.peak, episode.first.at
        limit_m = self._settings.limit_m
        distance, limit = beyond(peak.distance_m, limit_m, 2), figure(limit_m, 3)
        (one_zh, one_en), (other_zh, other_en) = (BODY_NAMES[body] for body in peak.bodies)
        apart_zh, apart_en = ("相距", "") if closed_at is None else ("最近", "down to ")
        zh = (
            f"塔吊 {self._ids[0]} 的{one_zh}与塔吊 {self._ids[1]} 的{other_zh}"
            f"{apart_zh} {distance} m，限值 {limit} m"
        )
        en = (
            f"The {one_en} of crane {self._ids[0]} and the {other_en} of crane {self._ids[1]}:"
            f" {apart_en}{distance} m apart, limit {limit} m"
        )
        if closed_at is not None:
            lasting_zh, lasting_en = lasting(closed_at - opened_at)
            zh += f"，持续 {lasting_zh}，" + ("其后数据中断" if cut else "已脱离")
            en += f", for {lasting_en}, then " + ("no data" if cut else "clear")
        evidence = [
            _evidence(role, sight, reading)
            for role, sight in (("first", episode.first), ("peak", peak), ("last", episode.last))
            for reading in sight.readings
        ]
        return Finding(
            rule=RULE,
            kind="crane",
            site=self.site,
            subject=self.subject,
            opened_at=opened_at,
            closed_at=closed_at,
            severity=Severity.CRITICAL,
            measured={"distance_m": peak.distance_m, "limit_m": limit_m},
            message_zh=zh,
            message_en=en,
            evidence=tuple(sorted(evidence, key=lambda pointer: pointer.observed_at)),
        )


def _evidence(role: str, sight: _Sight, reading: CraneReading) -> Evidence:
    values = {name: getattr(reading, name) for name in _POSITION}
    return Evidence(
        device=reading.device,
        observed_at=reading.observed_at,
        source=reading.source,
        role=role,
        values={name: round(value, 3) for name, value in values.items() if known(value)}
        | {"distance_m": sight.distance_m},
    )
