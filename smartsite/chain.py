"""The chain: the one place where readings, detectors and findings are wired.

``run``, ``backtest`` and ``score`` all put readings in at the same end and take findings and
coverage out at the other. The chain knows no database: what is late it reports, and whoever
holds the stored readings rebuilds the subject.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from itertools import combinations
from typing import NamedTuple

from detectors.cranes import CraneDetector
from detectors.helmets import HelmetDetector

from detectors.detector import Detector
from detectors.dust import DustDetector
from detectors.rules import Rules
from device_profiles.findings import Coverage, Finding
from device_profiles.readings import Reading
from device_profiles.vocabulary import Kind
from ingest.store.readings import StoredDevice

Outcome = Finding | Coverage


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


@dataclass
class Watch:
    """A detector at work on its subject.

    Attributes:
        subject: What it judges.
        detector: The state machine.
        members: The devices whose readings it wants.
        seen_until: Observed time of the newest reading it has seen.
    """

    subject: Subject
    detector: Detector
    members: tuple[StoredDevice, ...]
    seen_until: datetime | None = None


@dataclass
class Judged:
    """What the chain made of some readings.

    Attributes:
        outcomes: Findings and coverage, in the order they were said.
        late: Subjects that were given readings older than what they had seen, and the oldest of
            these: they have to be rebuilt from the store.
    """

    outcomes: list[Outcome] = field(default_factory=list)
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
            for pair in combinations(sorted(fleet, key=lambda crane: crane.device), 2):
                self._watch(pair)

    def _watch(self, members: tuple[StoredDevice, ...]) -> None:
        detector = self.new_detector(members)
        subject = Subject(
            detector.rule, members[0].site, tuple(member.device for member in members)
        )
        watch = Watch(subject, detector, members)
        self.watches[subject] = watch
        for member in members:
            self._by_device[member.site, member.device].append(watch)

    def new_detector(self, members: tuple[StoredDevice, ...]) -> Detector:
        """Make a detector that has seen nothing yet.

        Args:
            members: One device, or a pair of cranes.

        Returns:
            The detector of their kind.
        """
        match members:
            case (StoredDevice(kind=Kind.DUST) as device,):
                return DustDetector(
                    device.site, device.device, self._rules.dust, device.expected_every_s
                )
            case (StoredDevice(kind=Kind.CAMERA) as device,):
                return HelmetDetector(device.site, device.device, self._rules.helmet)
            case (one, other) if one.geometry is not None and other.geometry is not None:
                return CraneDetector(
                    one.site,
                    (one.device, one.geometry),
                    (other.device, other.geometry),
                    self._rules.crane,
                )
        raise TypeError(f"no rule judges {members}")

    def observe(self, readings: Iterable[Reading]) -> Judged:
        """Judge readings.

        Args:
            readings: By observed time.

        Returns:
            What was found, and which subjects have to be rebuilt.
        """
        judged = Judged()
        for reading in readings:
            for watch in self._by_device.get((reading.site, reading.device), ()):
                late_since = judged.late.get(watch.subject)
                if late_since is not None:
                    judged.late[watch.subject] = min(late_since, reading.observed_at)
                    continue
                if watch.seen_until is not None and reading.observed_at < watch.seen_until:
                    judged.late[watch.subject] = reading.observed_at
                    continue
                watch.seen_until = reading.observed_at
                judged.outcomes.extend(watch.detector.observe(reading))
        return judged

    def advance(self, now: datetime) -> list[Outcome]:
        """Let time pass where no reading comes.

        Args:
            now: Until when all that was to come has come.

        Returns:
            What the silence means: gaps that are not evaluable, episodes that ended.
        """
        return [
            outcome
            for watch in self.watches.values()
            if watch.seen_until is not None
            for outcome in watch.detector.advance(now)
        ]
