"""The chain: the one place where readings, detectors and findings are wired.

``run``, ``backtest`` and ``score`` all put readings in at the same end and take findings and
coverage out at the other. The chain knows no database: what is late it reports, and whoever
holds the stored readings rebuilds the subject.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import combinations
from typing import NamedTuple

from detectors.cranes import CraneDetector
from detectors.detector import Detector, Said, concerning
from detectors.dust import DustDetector
from detectors.geometry import can_meet
from detectors.helmets import HelmetDetector
from detectors.rules import Rules
from device_profiles.readings import Reading
from device_profiles.vocabulary import Kind, Series
from ingest.store.readings import StoredDevice


class Subject(NamedTuple):
    """What one detector judges: a rule on one device, or on a pair of them.

    Attributes:
        rule: Name of the rule.
        site: Site id.
        devices: Device ids, sorted.
    """

    rule: str
    site: str
    devices: tuple[str, ...]

    @property
    def text(self) -> str:
        """How findings name it: device ids joined by plus signs."""
        return "+".join(self.devices)


LAG_FADES = 0.9
"""How much of a subject's lag is left after each lot of its readings: gone after some dozens."""


@dataclass
class Watch:
    """A detector at work on its subject.

    Attributes:
        subject: What it judges.
        detector: The state machine.
        members: The devices whose readings it wants.
        resumed_at: Where the detector was resumed; None: it began with the first reading. Of
            the time before, what an earlier detector said counts.
        lag: How long after their own time readings of late came to be judged: a slow clock,
            a batch sent once a minute. Silence counts only after so long.
        ticked_to: Up to when silence was taken for settled.
    """

    subject: Subject
    detector: Detector
    members: tuple[StoredDevice, ...]
    resumed_at: datetime | None = None
    lag: timedelta = timedelta()
    ticked_to: datetime | None = None

    def learn(self, worst: timedelta) -> None:
        """Take note of how late the latest readings came; what was worse fades away."""
        self.lag = max(worst, self.lag * LAG_FADES)

    def advance(self, now: datetime) -> list[Said]:
        """Let time pass, as far as nothing may be under way any more."""
        until = now - self.lag
        if self.ticked_to is None or until > self.ticked_to:
            self.ticked_to = until
        return self.heed(self.detector.advance(until))

    def heed(self, said: Iterable[Said]) -> list[Said]:
        """Leave of what the detector says what counts."""
        return list(said) if self.resumed_at is None else concerning(said, self.resumed_at)


@dataclass
class Judged:
    """What the chain made of some readings.

    Attributes:
        said: Findings and coverage, in the order they were said.
        late: Subjects that were given readings older than what is settled, and the oldest of
            these: they have to be rebuilt from the store.
    """

    said: list[Said] = field(default_factory=list)
    late: dict[Subject, datetime] = field(default_factory=dict)


class Chain:
    """The detectors of some devices.

    Attributes:
        watches: By subject.
        without_rule: Devices no rule can judge, and why: a crane without geometry.
    """

    def __init__(self, rules: Rules, devices: Iterable[StoredDevice]) -> None:
        self._rules = rules
        self.watches: dict[Subject, Watch] = {}
        self.without_rule: dict[str, str] = {}
        self._by_device: dict[tuple[str, str], list[Watch]] = defaultdict(list)
        cranes: dict[str, list[StoredDevice]] = defaultdict(list)
        for device in devices:
            match device.kind:
                case Kind.CRANE if device.geometry is None:
                    self.without_rule[f"{device.site}/{device.device}"] = "no geometry registered"
                case Kind.CRANE:
                    cranes[device.site].append(device)
                case _:
                    self._watch((device,))
        for fleet in cranes.values():
            for one, other in combinations(sorted(fleet, key=lambda crane: crane.device), 2):
                if (
                    one.geometry
                    and other.geometry
                    and can_meet(one.geometry, other.geometry, rules.crane.limit_m)
                ):
                    self._watch((one, other))

    def _watch(self, members: tuple[StoredDevice, ...]) -> None:
        detector = self.new_detector(members)
        subject = Subject(
            detector.rule, members[0].site, tuple(member.device for member in members)
        )
        watch = Watch(subject, detector, members)
        self.watches[subject] = watch
        for member in members:
            self._by_device[member.site, member.device].append(watch)

    def new_detector(
        self, members: tuple[StoredDevice, ...], since: datetime | None = None
    ) -> Detector:
        """Make a detector that has seen nothing yet.

        Args:
            members: One device, or a pair of cranes.
            since: From when on all readings are handed in; None: from the first one.

        Returns:
            The detector of their kind.
        """
        match members:
            case (StoredDevice(kind=Kind.DUST) as device,):
                return DustDetector(
                    device.site, device.device, self._rules.dust, device.expected_every_s, since
                )
            case (StoredDevice(kind=Kind.CAMERA) as device,):
                return HelmetDetector(device.site, device.device, self._rules.helmet, since)
            case (one, other) if one.geometry is not None and other.geometry is not None:
                return CraneDetector(
                    one.site,
                    (one.device, one.geometry),
                    (other.device, other.geometry),
                    self._rules.crane,
                    max(one.expected_every_s, other.expected_every_s),
                    since,
                )
        raise TypeError(f"no rule judges {members}")

    def observe(self, readings: Iterable[Reading], now: datetime | None = None) -> Judged:
        """Judge readings.

        Args:
            readings: By observed time.
            now: The present time where they come live: how late they are is learnt from it.

        Returns:
            What was found, and which subjects have to be rebuilt.
        """
        judged = Judged()
        worst: dict[Subject, timedelta] = {}
        for reading in readings:
            if reading.series is not Series.INSTANT:
                continue  # the time of a minute's mean is its start: long past, and of no rule
            for watch in self._by_device.get((reading.site, reading.device), ()):
                if now is not None and watch.subject not in worst:
                    # The first is the oldest.
                    worst[watch.subject] = max(timedelta(), now - reading.observed_at)
                late_since = judged.late.get(watch.subject)
                if late_since is not None:
                    judged.late[watch.subject] = min(late_since, reading.observed_at)
                    continue
                settled_at = watch.detector.settled_at
                if settled_at is not None and reading.observed_at < settled_at:
                    judged.late[watch.subject] = reading.observed_at
                else:
                    judged.said.extend(watch.heed(watch.detector.observe(reading)))
        for subject, lag in worst.items():
            self.watches[subject].learn(lag)
        return judged

    def advance(self, now: datetime) -> list[Said]:
        """Let time pass where no reading comes.

        Args:
            now: Until when all that was to come has come.

        Returns:
            What the silence means: gaps that are not evaluable, episodes that ended.
        """
        return [item for watch in self.watches.values() for item in watch.advance(now)]

    def pending(self) -> list[Said]:
        """The coverage that still grows.

        Returns:
            Spans as they stand now; they will be said again, longer.
        """
        return [
            item for watch in self.watches.values() for item in watch.heed(watch.detector.pending)
        ]

    def linger(self, watch: Watch) -> timedelta:
        """How long after its last evidence an episode may still go on.

        Args:
            watch: Whose episode.

        Returns:
            An upper bound.
        """
        rules = self._rules
        match watch.members[0].kind:
            case Kind.DUST:
                bridge_s = rules.dust.bridge_s
            case Kind.CRANE:
                bridge_s = rules.crane.bridge_s
            case Kind.CAMERA:
                bridge_s = rules.helmet.gone_s + rules.helmet.cooldown_s
        return timedelta(seconds=bridge_s) + watch.detector.lookback
