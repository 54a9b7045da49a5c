"""`device.unit`: a device's values look as if it sent another unit than configured, by 10³.

Air and loads settle it (`device_profiles.hj212.plausibility`): over a UTC hour the median of dust
at a site lies between a few and a few thousand µg/m³. An episode begins with the first reading of
the first hour that looks wrong, goes on through hours with too few values, and ends with the first
reading of an hour that looks right. It is a suspicion: nothing is repaired, and what was stored
stays. Who mends the device's units in the site file finds it closed an hour later.

An hour is judged when a reading, or the time, is `GRACE` beyond its end; of each of its minutes the
first reading counts, in whatever order they come. Only instantaneous readings are looked at.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from detectors.detector import Said, Spans, check
from detectors.messages import KINDS, figure, lasting
from detectors.silence import KIND
from device_profiles.findings import Coverage, Evidence, Finding, Severity
from device_profiles.hj212.plausibility import BANDS, LEAST_VALUES, Suspicion, suspect_unit
from device_profiles.readings import CraneReading, DustReading
from device_profiles.vocabulary import QUANTITIES, Kind, Series

RULE = "device.unit"

HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
GRACE = timedelta(minutes=5)
"""So long after its end an hour is still added to."""

LASTS = timedelta(days=1)
"""An episode that no hour has confirmed or refuted for so long ends with what was seen last."""

NO_DATA = "no_data"
TOO_FEW = "too_few_values"

_TOLD = {
    quantity.name: (quantity.zh, quantity.en, quantity.unit)
    for quantities in QUANTITIES.values()
    for quantity in quantities
}
_SMALLER = {"µg/m³": "mg/m3"}
"""By the vocabulary's unit: in which a device may send numbers 1,000 times smaller."""

_LARGER = {"µg/m³": "ng/m3", "t": "kg"}
"""And larger."""

_BEFORE_ALL = datetime.min.replace(tzinfo=UTC)


class _Hour:
    """The first reading of each minute of an hour."""

    __slots__ = ("minutes",)

    def __init__(self) -> None:
        self.minutes: dict[datetime, DustReading | CraneReading] = {}

    def readings(self) -> list[DustReading | CraneReading]:
        """They, by time."""
        return [self.minutes[minute] for minute in sorted(self.minutes)]


class _Episode:
    """A unit that looks wrong: the readings that showed it, and what they made."""

    __slots__ = ("first", "last", "suspicions", "until")

    def __init__(self, first: DustReading | CraneReading, suspicions: dict[str, Suspicion]) -> None:
        self.first = self.last = first
        self.suspicions = suspicions
        self.until = _BEFORE_ALL


class UnitDetector:
    """Judges one device.

    Attributes:
        rule: Name of the rule.
        site: Site id.
        subject: Device id.
        lookback: Two hours: the one that is judged, whole, whenever it is asked about.
        settled_at: The beginning of the oldest hour that is not judged.
    """

    lookback = 2 * HOUR

    def __init__(self, site: str, device: str, kind: Kind, since: datetime | None = None) -> None:
        """Start without a reading.

        Args:
            site: Site id.
            device: Device id.
            kind: What it is.
            since: From when on all readings are handed in; default: from the first one.
        """
        self.rule = RULE
        self.site = site
        self.subject = device
        self.settled_at: datetime | None = since
        self._kind = kind
        self._quantities = tuple(
            quantity.name for quantity in QUANTITIES[kind] if quantity.name in BANDS
        )
        # Of an hour of which only the end is handed in nothing can be said.
        self._whole_from = _BEFORE_ALL if since is None else _hour(since + HOUR - _MOMENT)
        self._hours: dict[datetime, _Hour] = {}
        self._spans = Spans(RULE, site, device, since)
        self._episode: _Episode | None = None
        self._sampled = (_BEFORE_ALL, _BEFORE_ALL)

    @property
    def open(self) -> bool:
        """Whether an episode is open, or may be found in an hour that is not judged yet."""
        return self._episode is not None or bool(self._hours)

    @property
    def linger(self) -> timedelta:
        """How long after its last evidence an episode may go on."""
        return LASTS + HOUR

    @property
    def pending(self) -> tuple[Coverage, ...]:
        """The coverage that still grows."""
        return self._spans.pending

    def observe(self, reading: DustReading | CraneReading) -> list[Said]:
        """Take the next reading; see `detectors.detector.Detector`."""
        at = reading.observed_at
        if self._sampled[0] <= at < self._sampled[1] or reading.series is not Series.INSTANT:
            return []  # nearly always: its minute has its first reading
        check(self, reading, (self.subject,))
        said = self._judge(at - GRACE)
        hour = _hour(at)
        if hour >= self._whole_from:
            minutes = self._hours.setdefault(hour, _Hour()).minutes
            minute = at.replace(second=0, microsecond=0)
            earlier = minutes.get(minute)
            if earlier is None or at < earlier.observed_at:
                minutes[minute] = earlier = reading
            self._sampled = earlier.observed_at, minute + MINUTE
        if self.settled_at is None:
            self.settled_at = hour
            self._spans.mark(at, None)
        return said

    def advance(self, now: datetime) -> list[Said]:
        """Notice time; see `detectors.detector.Detector`."""
        return self._judge(now - GRACE)

    def finish(self, at: datetime) -> list[Said]:
        """Judge what there is, and end what is pending at its last evidence."""
        said: list[Said] = []
        for hour in sorted(self._hours):
            said += self._lapse(hour)
            said += self._judge_hour(hour, self._hours[hour].readings(), min(hour + HOUR, at))
        self._hours.clear()
        self._sampled = _BEFORE_ALL, _BEFORE_ALL
        if self._episode is not None:
            said.append(self._finding(self._episode, self._episode.last.observed_at, None))
            self._episode = None
        if self.settled_at is not None:
            said += self._spans.mark(at, NO_DATA)
        return said + self._spans.flush()

    def _judge(self, until: datetime) -> list[Said]:
        """Judge the hours that ended by an instant."""
        said: list[Said] = []
        while self._hours:
            hour = min(self._hours)
            if hour + HOUR > until:
                break
            said += self._lapse(hour)
            said += self._judge_hour(hour, self._hours.pop(hour).readings(), hour + HOUR)
            self.settled_at = hour + HOUR
        return said + self._lapse(min(self._hours, default=until))

    def _lapse(self, instant: datetime) -> list[Said]:
        """End an episode that nothing has confirmed for too long before an instant."""
        episode = self._episode
        if episode is None or instant < episode.until + LASTS:
            return []
        self._episode = None
        return [self._finding(episode, episode.last.observed_at, None)]

    def _judge_hour(
        self, hour: datetime, readings: list[DustReading | CraneReading], end: datetime
    ) -> list[Said]:
        values = {
            name: [value for reading in readings if (value := getattr(reading, name)) is not None]
            for name in self._quantities
        }
        said = self._spans.mark(hour, NO_DATA)
        if not any(len(found) >= LEAST_VALUES for found in values.values()):
            return said + self._spans.mark(end, TOO_FEW)
        said += self._spans.mark(end, None)
        suspicions = {
            name: suspicion
            for name, found in values.items()
            if (suspicion := suspect_unit(name, found)) is not None
        }
        episode = self._episode
        if not suspicions:
            self._episode = None
            if episode is not None:
                said.append(self._finding(episode, readings[0].observed_at, readings[0]))
            return said
        if episode is None:
            episode = self._episode = _Episode(readings[0], suspicions)
        grown = suspicions.keys() - episode.suspicions.keys()
        episode.suspicions = suspicions | episode.suspicions
        if episode.first is readings[0] or grown:
            said.append(self._finding(episode, None, None))
        episode.last = readings[-1]
        episode.until = hour + HOUR
        return said

    def _finding(
        self,
        episode: _Episode,
        closed_at: datetime | None,
        after: DustReading | CraneReading | None,
    ) -> Finding:
        name_zh, name_en = KINDS[self._kind]
        zh = f"{name_zh} {self.subject} 的单位可疑：" + "；".join(
            _told(name, one)[0] for name, one in episode.suspicions.items()
        )
        en = f"The unit of {name_en} {self.subject} looks wrong: " + "; ".join(
            _told(name, one)[1] for name, one in episode.suspicions.items()
        )
        if closed_at is not None:
            lasting_zh, lasting_en = lasting(closed_at - episode.first.observed_at)
            then = (
                ("其后数据终止", "the data end")
                if after is None
                else ("其后正常", "it looks right")
            )
            zh += f"，持续 {lasting_zh}，{then[0]}"
            en += f", for {lasting_en}, then {then[1]}"
        told = [("first", episode.first)]
        if episode.last is not episode.first:
            told.append(("last", episode.last))
        if after is not None:
            told.append(("next", after))
        return Finding(
            rule=RULE,
            kind=KIND,
            site=self.site,
            subject=self.subject,
            opened_at=episode.first.observed_at,
            closed_at=closed_at,
            severity=Severity.WARNING,
            measured={name: round(one.median, 6) for name, one in episode.suspicions.items()},
            message_zh=zh,
            message_en=en,
            evidence=tuple(
                Evidence(
                    device=reading.device,
                    observed_at=reading.observed_at,
                    source=reading.source,
                    role=role,
                    values={
                        name: value
                        for name in episode.suspicions
                        if (value := getattr(reading, name)) is not None
                    },
                )
                for role, reading in told
            ),
        )


def _told(name: str, suspicion: Suspicion) -> tuple[str, str]:
    """What looks wrong, and the override to write; in Chinese and English."""
    quantity_zh, quantity_en, unit = _TOLD[name]
    median = f"{figure(suspicion.median, 3)} {unit}"
    smaller = suspicion.factor > 1
    other = (_SMALLER if smaller else _LARGER)[unit]
    side_zh, side_en = ("小", "small") if smaller else ("大", "large")
    override = f'units = {{ {name} = "{other}" }}'
    zh = (
        f"{quantity_zh} 一小时中位数 {median}，约偏{side_zh} 1000 倍；若设备按 {other} 发送，"
        f"请在站点文件中写 {override}，已有单位设置则改正之"
    )
    en = (
        f"{quantity_en} has a median of {median} over an hour, some 1000 times too {side_en};"
        f" if it sends {other}, write {override} in the site file, or mend what stands there"
    )
    return zh, en


def _hour(instant: datetime) -> datetime:
    return instant.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


_MOMENT = timedelta(microseconds=1)
