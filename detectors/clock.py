"""`device.clock`: a device's clock is off; by how much, which way and since when.

The offset is what was added to a reading's reported time to repair it (`clock_offset_s`); it was
decided when the reading was taken in, this rule only tells. An episode lasts while the offset is
not zero, and is told from the first reading that had it. An offset that differs by `jump_s` or more
from the one before ends it and opens the next; a smaller change is drift and amends it.

Only instantaneous readings count: of the others the time is the start of a period. Where no
readings come nothing is known of a clock, and nothing is said.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from detectors.detector import Said
from detectors.messages import KINDS, lasting
from detectors.rules import ClockRule
from detectors.silence import KIND, refuse_others
from device_profiles.findings import Coverage, Evidence, Finding, Severity
from device_profiles.readings import Reading
from device_profiles.vocabulary import Kind, Series

RULE = "device.clock"


@dataclass(slots=True)
class _Episode:
    """A clock that is off: the reading that showed it, and the one that showed its last offset."""

    first: Reading
    newest: Reading


class ClockDetector:
    """Judges one device.

    Attributes:
        rule: Name of the rule.
        site: Site id.
        subject: Device id.
        lookback: Nothing: while no episode is open, nothing older matters.
        settled_at: The time of the last reading. Older ones come too late if they have another
            offset, or are older than the one that first had the offset of now; see `late`.
    """

    # There are as many of them as devices: the less of each has to be fetched, the better.
    __slots__ = (
        "_begin",
        "_changed_at",
        "_episode",
        "_jump_s",
        "_kind",
        "_offset_s",
        "rule",
        "settled_at",
        "site",
        "subject",
    )

    lookback = timedelta()

    def __init__(
        self,
        site: str,
        device: str,
        rule: ClockRule,
        since: datetime | None = None,
        *,
        kind: Kind = Kind.DUST,
    ) -> None:
        """Start without a reading.

        Args:
            site: Site id.
            device: Device id.
            rule: The settings.
            since: From when on all readings are handed in; default: from the first one.
            kind: What it is, for the message.
        """
        self.rule = RULE
        self.site = site
        self.subject = device
        self.settled_at = since
        self._jump_s = rule.jump_s
        self._kind = kind
        self._begin = since
        self._changed_at = since
        self._offset_s = 0.0
        self._episode: _Episode | None = None

    @property
    def open(self) -> bool:
        """Whether the clock is off."""
        return self._episode is not None

    @property
    def pending(self) -> tuple[Coverage, ...]:
        """The one span of coverage."""
        if self._begin is None or self.settled_at is None or self.settled_at <= self._begin:
            return ()
        return (
            Coverage(
                rule=RULE,
                site=self.site,
                subject=self.subject,
                from_at=self._begin,
                to_at=self.settled_at,
            ),
        )

    def late(self, reading: Reading) -> bool:
        """Whether a reading falls into a time that is settled, and may change it.

        Args:
            reading: Of the device.

        Returns:
            True where the caller has to rebuild the detector.
        """
        if reading.series is not Series.INSTANT or self.settled_at is None:
            return False
        same = reading.clock_offset_s == self._offset_s
        bound = self._changed_at if same else self.settled_at
        return bound is not None and reading.observed_at < bound

    def absorbs(self, reading: Reading) -> bool:
        """Take a reading that changes nothing but up to when the offset is known, as nearly all do.

        Args:
            reading: The next reading.

        Returns:
            False where it was not taken: then `late` and `observe` say what it means.
        """
        at, settled_at = reading.observed_at, self.settled_at
        if (
            reading.clock_offset_s == self._offset_s
            and settled_at is not None
            and at >= settled_at
            and reading.series is Series.INSTANT
            and reading.device == self.subject
            and reading.site == self.site
        ):
            self.settled_at = at
            return True
        return False

    def observe(self, reading: Reading) -> list[Said]:
        """Take the next reading; see `detectors.detector.Detector`.

        Raises:
            ValueError: If it is another device's, or `late`.
        """
        if self.absorbs(reading) or reading.series is not Series.INSTANT:
            return []
        refuse_others(self, reading)
        at, offset_s, before_s = reading.observed_at, reading.clock_offset_s, self._offset_s
        if self.late(reading):
            raise ValueError(
                f"{RULE} of {self.site}/{self.subject}: the reading at {at.isoformat()} is older"
                " than what is settled"
            )
        if self.settled_at is None:
            self._begin = self._changed_at = self.settled_at = at
        if offset_s == before_s:
            return []
        self._changed_at = self.settled_at = at
        self._offset_s = offset_s
        episode = self._episode
        if episode is not None and offset_s and abs(offset_s - before_s) < self._jump_s:
            episode.newest = reading
            return [self._finding(episode, None, None)]
        said: list[Said] = []
        if episode is not None:
            said.append(self._finding(episode, at, reading))
        self._episode = _Episode(reading, reading) if offset_s else None
        if self._episode is not None:
            said.append(self._finding(self._episode, None, None))
        return said

    def advance(self, now: datetime) -> list[Said]:
        """Say nothing: time that passes moves no clock."""
        return []

    def finish(self, at: datetime) -> list[Said]:
        """End what is pending at the last reading."""
        if self.settled_at is None:
            return []
        said: list[Said] = []
        if self._episode is not None:
            said.append(self._finding(self._episode, self.settled_at, None))
            self._episode = None
        said += self.pending
        self._begin = self._changed_at = self.settled_at = max(at, self.settled_at)
        self._offset_s = 0.0
        return said

    def _finding(
        self, episode: _Episode, closed_at: datetime | None, after: Reading | None
    ) -> Finding:
        offset_s = episode.newest.clock_offset_s
        name_zh, name_en = KINDS[self._kind]
        off_zh, off_en = lasting(timedelta(seconds=abs(offset_s)))
        way_zh, way_en = ("慢", "slow") if offset_s > 0 else ("快", "fast")
        zh = f"{name_zh} {self.subject} 的时钟{way_zh} {off_zh}，读数时间已修正"
        en = (
            f"The clock of {name_en} {self.subject} is {off_en} {way_en};"
            " the times of its readings are repaired"
        )
        if closed_at is not None:
            lasting_zh, lasting_en = lasting(closed_at - episode.first.observed_at)
            if after is None:
                then_zh, then_en = "其后数据终止", "the data end"
            elif after.clock_offset_s == 0:
                then_zh, then_en = "已校准", "it is right"
            else:
                then_zh, then_en = "其后跳变", "it jumped"
            zh += f"，持续 {lasting_zh}，{then_zh}"
            en += f", for {lasting_en}, then {then_en}"
        told = [("first", episode.first)]
        if episode.newest is not episode.first:
            told.append(("last", episode.newest))
        if after is not None:
            told.append(("next", after))
        return Finding(
            rule=RULE,
            kind=KIND,
            site=self.site,
            subject=self.subject,
            opened_at=episode.first.observed_at,
            closed_at=closed_at,
            severity=Severity.INFO,
            measured={"clock_offset_s": offset_s},
            message_zh=zh,
            message_en=en,
            evidence=tuple(
                Evidence(
                    device=reading.device,
                    observed_at=reading.observed_at,
                    source=reading.source,
                    role=role,
                    values={"clock_offset_s": reading.clock_offset_s},
                )
                for role, reading in told
            ),
        )
