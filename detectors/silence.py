"""`device.silence`: a device that should speak does not, and since when.

A word is anything the device itself said: a reading, a picture, or a status that says it is back.
An episode is the time between two words, opened at the first and closed by the second, if

- it is longer than a device's words may be apart (`periods` of its interval, at least
  `at_least_s`), or
- the device, or its broker by last will, said in it that the device is offline, and no word came
  within `grace_s` of that.

A device that was never heard has been silent since it was registered. A status counts only where
it says another thing than the one before it: brokers repeat the last one to whoever subscribes, and
what is repeated neither ends nor begins anything.

Words are cheap, and come out of order at little cost: one that falls between two words with no
episode in between changes nothing. Only one that falls into an episode comes too late.

Silence can always be judged, from registration on: its coverage is one span.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from detectors.detector import Detector, Said
from detectors.messages import KINDS, lasting, moment
from detectors.rules import SilenceRule
from device_profiles.findings import Coverage, Evidence, Finding, Severity
from device_profiles.readings import DeviceStatus, FrameSeen, Reading
from device_profiles.vocabulary import Kind, Series

RULE = "device.silence"
KIND = "device_health"

_MOMENT = timedelta(microseconds=1)
_LONG_AGO = datetime.min.replace(tzinfo=UTC)
_LENGTHS = {
    Series.INSTANT: timedelta(),
    Series.MINUTE: timedelta(minutes=1),
    Series.HOUR: timedelta(hours=1),
    Series.DAY: timedelta(days=1),
}


def spoken_at(reading: Reading) -> datetime:
    """When a device had what it said: at the end of the period a reading is about.

    Args:
        reading: Any.

    Returns:
        The time by which words are ordered.
    """
    return reading.observed_at + _LENGTHS[reading.series]


def refuse_others(detector: Detector, reading: Reading) -> None:
    """Refuse what another device said.

    Args:
        detector: Of one device.
        reading: What it was given.

    Raises:
        ValueError: If it is another's.
    """
    if reading.device != detector.subject or reading.site != detector.site:
        raise ValueError(
            f"{detector.rule} of {detector.site}/{detector.subject} was given what"
            f" {reading.site}/{reading.device} said"
        )


class _Episode(NamedTuple):
    """A silence that lasts."""

    opened_at: datetime
    heard: Reading | None
    offline: DeviceStatus | None
    never_heard: bool


class SilenceDetector:
    """Judges one device.

    Attributes:
        rule: Name of the rule.
        site: Site id.
        subject: Device id.
        lookback: Nothing: at the time of a word nothing older matters but the last status.
        settled_at: Words older than this may come too late; `late` says which.
    """

    # There are as many of them as devices: the less of each has to be fetched, the better.
    __slots__ = (
        "_begin",
        "_episode",
        "_every_s",
        "_gap",
        "_grace",
        "_heard",
        "_heard_at",
        "_kind",
        "_lapses_at",
        "_never_heard",
        "_offline",
        "_online",
        "_plain",
        "_status_at",
        "_ticked_at",
        "_timezone",
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
        rule: SilenceRule,
        expected_every_s: float,
        since: datetime | None = None,
        *,
        kind: Kind = Kind.DUST,
        timezone: str = "UTC",
        registered_at: datetime | None = None,
        online: bool | None = None,
    ) -> None:
        """Start without a word.

        Args:
            site: Site id.
            device: Device id.
            rule: The settings.
            expected_every_s: How often it ought to speak.
            since: From when on all words are handed in: the time of a word; default: from the
                first one.
            kind: What it is, for the message.
            timezone: IANA name of the site's zone, for the message.
            registered_at: Since when it ought to speak; words before that are passed over.
                Default: since its first word.
            online: What its status said last before `since`; None: nothing.
        """
        self.rule = RULE
        self.site = site
        self.subject = device
        self._every_s = expected_every_s
        self._gap = timedelta(seconds=max(rule.periods * expected_every_s, rule.at_least_s))
        self._grace = timedelta(seconds=rule.grace_s)
        self._kind = kind
        self._timezone = timezone
        begin = max((one for one in (since, registered_at) if one is not None), default=None)
        self._never_heard = registered_at is not None and begin == registered_at
        self.settled_at = begin
        self._begin = begin
        self._heard_at = self._lapses_at = _LONG_AGO
        self._heard: Reading | None = None
        self._online = online
        self._status_at = _LONG_AGO
        self._offline: DeviceStatus | None = None  # said at the last word or since
        self._episode: _Episode | None = None
        self._plain = begin is not None  # no episode is open and no status may open one
        self._ticked_at = _LONG_AGO
        if begin is not None:
            self._heard_at, self._lapses_at = begin, begin + self._gap

    @property
    def open(self) -> bool:
        """Whether an episode is open, or one may yet be found to have begun before now."""
        return self._begin is not None and (not self._plain or self._ticked_at > self._heard_at)

    @property
    def pending(self) -> tuple[Coverage, ...]:
        """The one span of coverage."""
        to_at = max(self._heard_at, self._ticked_at)
        if self._begin is None or to_at <= self._begin:
            return ()
        return (
            Coverage(
                rule=RULE, site=self.site, subject=self.subject, from_at=self._begin, to_at=to_at
            ),
        )

    @property
    def due_at(self) -> datetime | None:
        """After which instant the device is called silent, if no word comes; None while it is."""
        if self._episode is not None or self._begin is None:
            return None
        if self._offline is None:
            return self._lapses_at
        return min(self._lapses_at, self._offline.observed_at + self._grace)

    @property
    def said_offline(self) -> bool:
        """Whether a status may open an episode."""
        return self._episode is None and self._offline is not None

    def late(self, reading: Reading) -> bool:
        """Whether what was said falls into a time that is settled, and may change it.

        Args:
            reading: A word or status of the device.

        Returns:
            True where the caller has to rebuild the detector.
        """
        at = spoken_at(reading)
        if self._begin is None or self.settled_at is None or at < self._begin:
            return False
        if type(reading) is not DeviceStatus:
            return at < self.settled_at
        return at < max(self.settled_at, self._status_at) or (
            not reading.online and at < self._heard_at - self._grace
        )

    def absorbs(self, reading: Reading) -> bool:
        """Take a word that changes nothing but when the device was heard last, as nearly all do.

        Args:
            reading: The next word or status.

        Returns:
            False where it was not taken: then `late` and `observe` say what it means.
        """
        at = reading.observed_at
        if (
            self._plain
            and self._heard_at < at <= self._lapses_at
            and reading.series is Series.INSTANT
            and type(reading) is not DeviceStatus
            and reading.device == self.subject
            and reading.site == self.site
        ):
            self._heard_at = at
            self._lapses_at = at + self._gap
            self._heard = reading
            self._never_heard = False
            return True
        return False

    def observe(self, reading: Reading) -> list[Said]:
        """Take the next word or status; see `detectors.detector.Detector`.

        Raises:
            ValueError: If it is another device's, or `late`.
        """
        if self.absorbs(reading):
            return []
        refuse_others(self, reading)
        if self.late(reading):
            raise ValueError(
                f"{RULE} of {self.site}/{self.subject}: what was said at"
                f" {reading.observed_at.isoformat()} is older"
                " than what is settled"
            )
        if type(reading) is DeviceStatus:
            return self._take_status(reading)
        return self._take_word(reading)

    def advance(self, now: datetime) -> list[Said]:
        """Notice silence; see `detectors.detector.Detector`."""
        self._ticked_at = max(self._ticked_at, now)
        due_at = self.due_at
        return [self._opened(due_at)] if due_at is not None and now > due_at else []

    def finish(self, at: datetime) -> list[Said]:
        """End what is pending: who is silent was so to the end."""
        if self._begin is None:
            return []
        at = max(at, self._heard_at)
        said = self.advance(at)
        if self._episode is not None:
            said.append(self._finding(self._episode, at, None))
        said += self.pending
        self._episode = self._offline = None
        self._begin = self.settled_at = at
        self._hear(None, at)
        return said

    def restore(
        self, heard: Reading | None, status: DeviceStatus | None, *, is_open: bool
    ) -> list[Said]:
        """Put a fresh detector where an earlier one stood.

        Args:
            heard: The last reading or picture, if there was one.
            status: The status that first said what is said now, if there was one.
            is_open: Whether an episode was open.

        Returns:
            The open episode, as it was said before.
        """
        for word in (heard, status):
            if word is None or (self._begin is not None and spoken_at(word) < self._begin):
                continue
            at = spoken_at(word)
            said = type(word) is not DeviceStatus or word.online
            if said and (self._begin is None or at > self._heard_at):
                self._begin = self._begin or at
                self.settled_at = at
                self._hear(word, at)
        if status is not None:
            self._online, self._status_at = status.online, status.observed_at
            if not status.online:
                self._consider(status)
        due_at = self.due_at
        return [self._opened(due_at)] if is_open and due_at is not None else []

    def _take_status(self, status: DeviceStatus) -> list[Said]:
        at = status.observed_at
        if at < self._status_at:
            return []  # from before it was registered
        self._status_at = at
        if status.online == self._online:
            return []
        self._online = status.online
        if status.online:
            return self._take_word(status)
        if self._begin is None:
            self._begin = self.settled_at = at
            self._hear(None, at)
        self._consider(status)
        return []

    def _consider(self, offline: DeviceStatus) -> None:
        """Wait whether a word refutes a status."""
        if offline.observed_at >= self._heard_at:
            self._offline = offline
            self._plain = False

    def _take_word(self, word: Reading) -> list[Said]:
        at = spoken_at(word)
        if self._begin is None:
            self._begin = self.settled_at = at
            self._hear(word, at)
            return []
        if at <= self._heard_at:
            if at == self._heard_at and self._heard is None:
                self._heard = word
            return []
        due_at = self.due_at
        said: list[Said] = []
        if due_at is not None and at > due_at:
            said.append(self._opened(due_at))
        if self._episode is not None:
            said.append(self._finding(self._episode, at, word))
            self._episode = None
            self.settled_at = at
        if self._offline is not None and self._offline.observed_at < at:
            self._offline = None
        self._hear(word, at)
        return said

    def _hear(self, word: Reading | None, at: datetime) -> None:
        self._heard, self._heard_at, self._lapses_at = word, at, at + self._gap
        self._never_heard = False
        self._plain = self._episode is None and self._offline is None

    def _opened(self, due_at: datetime) -> Finding:
        """Open an episode: nothing said up to an instant can change that any more."""
        offline = self._offline
        if offline is not None and offline.observed_at + self._grace > self._lapses_at:
            offline = None
        self._episode = _Episode(self._heard_at, self._heard, offline, self._never_heard)
        self._plain = False
        self.settled_at = due_at + _MOMENT
        return self._finding(self._episode, None, None)

    def _finding(
        self, episode: _Episode, closed_at: datetime | None, again: Reading | None
    ) -> Finding:
        name_zh, name_en = (f"{name} {self.subject}" for name in KINDS[self._kind])
        name_en = name_en[0].upper() + name_en[1:]
        since = moment(episode.opened_at, self._timezone)
        if episode.never_heard:
            zh = f"{name_zh} 自 {since} 登记起从未上线"
            en = f"{name_en} not heard since it was registered, {since}"
        else:
            zh, en = f"{name_zh} 自 {since} 起离线", f"{name_en} offline since {since}"
        if episode.offline is not None:
            zh += "（设备或代理服务器报告断开）"
            en += " (the device or its broker said so)"
        measured = {"expected_every_s": self._every_s, "silent_after_s": self._gap.total_seconds()}
        if closed_at is not None:
            silence = closed_at - episode.opened_at
            measured["silent_s"] = round(silence.total_seconds(), 3)
            lasting_zh, lasting_en = lasting(silence)
            zh += f"，持续 {lasting_zh}，" + ("其后数据终止" if again is None else "已恢复")
            en += f", for {lasting_en}, then " + (
                "the data end" if again is None else "heard again"
            )
        told = (("last", episode.heard), ("status", episode.offline), ("next", again))
        return Finding(
            rule=RULE,
            kind=KIND,
            site=self.site,
            subject=self.subject,
            opened_at=episode.opened_at,
            closed_at=closed_at,
            severity=Severity.INFO,
            measured=measured,
            message_zh=zh,
            message_en=en,
            evidence=tuple(_evidence(role, word) for role, word in told if word is not None),
        )


def _evidence(role: str, word: Reading) -> Evidence:
    return Evidence(
        device=word.device,
        observed_at=word.observed_at,
        source=word.source,
        role=role,
        frame_sha256=word.frame_sha256 if isinstance(word, FrameSeen) else None,
    )
