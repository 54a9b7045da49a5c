"""The shape all detectors share, and the two ledgers they keep: coverage and the open episode.

A decision taken on the readings up to an instant holds until the next reading, unless that is too
long in coming: then the time from the last reading on is not evaluable. So every span of coverage
and every finding begins and ends at the time of a reading, never at the time of a tick, and ticks
change when something is said but not what is said.

Resuming a detector at an instant R, its `settled_at` or the time of a tick when it was not `open`:
build it with ``since=R - lookback`` (or where the first one began, if that is later), feed it the
readings observed from there on, and take from what it says only what `concerning(said, R)`
leaves. From R on it says what the uninterrupted one says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

import msgspec

from device_profiles.findings import Coverage, Finding
from device_profiles.readings import Reading

Said: TypeAlias = Finding | Coverage


class Detector(Protocol):
    """A pure state machine that judges one rule for one subject."""

    @property
    def rule(self) -> str:
        """Name of the rule it judges."""

    @property
    def site(self) -> str:
        """Site of the subject."""

    @property
    def subject(self) -> str:
        """What its coverage is about; its findings may name a part of it."""

    @property
    def lookback(self) -> timedelta:
        """How far before an instant without an open episode a fresh detector must start."""

    @property
    def open(self) -> bool:
        """Whether an episode is open or may yet be found to have begun before now."""

    @property
    def settled_at(self) -> datetime | None:
        """Readings older than this come too late; the caller rebuilds the detector."""

    @property
    def pending(self) -> tuple[Coverage, ...]:
        """The coverage that still grows, for people who look now."""

    def observe(self, reading: Any) -> list[Said]:
        """Take the next reading, in order of `observed_at`; equal times are allowed.

        Args:
            reading: A reading of the subject, of the type its kind of device gives.

        Returns:
            Findings that opened, grew worse or closed, complete, and spans of coverage that ended.

        Raises:
            ValueError: If the reading is another subject's or older than `settled_at`.
        """

    def advance(self, now: datetime) -> list[Said]:
        """Notice silence: say what is settled if no reading older than `now` comes any more.

        Args:
            now: An instant up to which all readings were handed in; aware, UTC.

        Returns:
            As `observe`.
        """

    def finish(self, at: datetime) -> list[Said]:
        """End what is pending: open episodes close at their last evidence.

        Args:
            at: Where the readings end; aware, UTC.

        Returns:
            As `observe`.
        """


def concerning(said: Iterable[Said], instant: datetime) -> list[Said]:
    """Leave of what a resumed detector says only what is about the time from an instant on.

    Args:
        said: What the detector said.
        instant: Where it was resumed.

    Returns:
        Findings opened at the instant or later, and coverage clipped to begin there.
    """
    kept: list[Said] = []
    for item in said:
        if isinstance(item, Finding):
            if item.opened_at >= instant:
                kept.append(item)
        elif item.from_at >= instant:
            kept.append(item)
        elif item.to_at > instant:
            kept.append(msgspec.structs.replace(item, from_at=instant))
    return kept


def check(detector: Detector, reading: Reading, devices: tuple[str, ...]) -> None:
    """Refuse a reading that a detector must not be given.

    Args:
        detector: The detector.
        reading: What it was given.
        devices: The devices it judges.

    Raises:
        ValueError: If the reading is another subject's or older than what is settled.
    """
    if reading.device not in devices or reading.site != detector.site:
        raise ValueError(
            f"{detector.rule} of {detector.site}/{detector.subject} was given a reading of "
            f"{reading.site}/{reading.device}"
        )
    settled_at = detector.settled_at
    if settled_at is not None and reading.observed_at < settled_at:
        raise ValueError(
            f"{detector.rule} of {detector.site}/{detector.subject}: the reading of "
            f"{reading.device} at {reading.observed_at.isoformat()} is older than "
            f"{settled_at.isoformat()}, which is settled"
        )


class Spans:
    """The coverage of one subject: spans without gaps or overlaps, joined while the reason stays.

    Attributes:
        at: Up to where time is accounted for; None before anything is known.
    """

    def __init__(self, rule: str, site: str, subject: str, since: datetime | None) -> None:
        self._rule, self._site, self._subject = rule, site, subject
        self._from = since
        self._reason: str | None = None
        self.at = since

    def mark(self, until: datetime, reason: str | None) -> list[Said]:
        """Account for the time up to an instant.

        Args:
            until: Its end; nothing happens if that time is accounted for already.
            reason: Why it was not evaluable; None where it was evaluated.

        Returns:
            The span this one ended, if it did.
        """
        if self.at is None:
            self.at = self._from = until
        if until <= self.at:
            return []
        ended: list[Said] = []
        if reason != self._reason:
            ended = self.flush()
            self._reason = reason
        self.at = until
        return ended

    def flush(self) -> list[Said]:
        """End the span that grows.

        Returns:
            The span, if it is longer than nothing.
        """
        ended: list[Said] = list(self.pending)
        self._from = self.at
        return ended

    @property
    def pending(self) -> tuple[Coverage, ...]:
        """The span that grows, if it is longer than nothing."""
        if self._from is None or self.at is None or self.at <= self._from:
            return ()
        return (
            Coverage(
                rule=self._rule,
                site=self._site,
                subject=self._subject,
                from_at=self._from,
                to_at=self.at,
                reason=self._reason,
            ),
        )


class Sight(Protocol):
    """What a detector saw at one instant that was against the rule."""

    @property
    def at(self) -> datetime:
        """The instant."""


S = TypeVar("S", bound=Sight)


@dataclass(slots=True)
class Episode(Generic[S]):
    """A violation that lasts.

    Attributes:
        first: What opened it.
        peak: The worst so far.
        last: The last that was against the rule.
        said: The peak as it was last said.
    """

    first: S
    peak: S
    last: S
    said: S


class Episodes(Generic[S]):
    """Opens, carries on and closes the episodes of one subject, one at a time.

    An episode lives through gaps shorter than the bridge, so that a dropout does not make two
    violations of one; when more is missing, it ends where the last evidence was.
    """

    def __init__(
        self,
        bridge: timedelta,
        worse: Callable[[S, S], bool],
        notable: Callable[[S, S], bool],
        finding: Callable[[Episode[S], datetime | None, bool], Finding],
    ) -> None:
        """Start without an episode.

        Args:
            bridge: How long an episode waits for the next evidence.
            worse: Whether the first sight is worse than the second.
            notable: Whether the first is so much worse than the second that it is said.
            finding: Words an episode, given when it closed, and whether for want of data.
        """
        self._bridge = bridge
        self._worse, self._notable, self._finding = worse, notable, finding
        self._episode: Episode[S] | None = None
        self._interrupted = False

    @property
    def open(self) -> bool:
        """Whether an episode lasts."""
        return self._episode is not None

    def violated(self, sight: S) -> list[Said]:
        """The rule is broken at the instant of a sight."""
        self._interrupted = False
        episode = self._episode
        if episode is None:
            self._episode = episode = Episode(sight, sight, sight, sight)
            return [self._finding(episode, None, False)]
        episode.last = sight
        if self._worse(sight, episode.peak):
            episode.peak = sight
            if self._notable(sight, episode.said):
                episode.said = sight
                return [self._finding(episode, None, False)]
        return []

    def kept(self, at: datetime) -> list[Said]:
        """The rule is kept at an instant: what is open ends there.

        After a gap nobody knows when it ended, so it ends at the last evidence.
        """
        if self._episode is None:
            return []
        if self._interrupted:
            return self.cut()
        ended = self._finding(self._episode, at, False)
        self._episode = None
        return [ended]

    def interrupted(self) -> None:
        """For a while the rule could not be judged."""
        self._interrupted = True

    def lapsed_at(self, now: datetime) -> datetime | None:
        """When the open episode ran out of evidence, if it did by now."""
        if self._episode is None:
            return None
        lapse = self._episode.last.at + self._bridge
        return lapse if now >= lapse else None

    def cut(self) -> list[Said]:
        """End what is open at its last evidence, for want of data."""
        if self._episode is None:
            return []
        ended = self._finding(self._episode, self._episode.last.at, True)
        self._episode = None
        self._interrupted = False
        return [ended]
