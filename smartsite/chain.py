"""The chain: the one place where readings, detectors and findings are wired.

``run``, ``backtest`` and ``score`` all put readings in at the same end and take findings and
coverage out at the other. The chain knows no database: what is late it reports, and whoever
holds the stored readings rebuilds the subject.
"""

from __future__ import annotations

import heapq
import itertools
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Generic, NamedTuple, TypeVar

from detectors import cameras, reported, units
from detectors.cameras import CameraDetector
from detectors.clock import ClockDetector
from detectors.confirming import ConfirmingDetector
from detectors.cranes import CraneDetector
from detectors.detector import Detector, Said, concerning
from detectors.dust import DustDetector
from detectors.geometry import can_meet
from detectors.helmets import HelmetDetector
from detectors.presence import PresenceDetector
from detectors.reported import ReportedDetector
from detectors.rules import Rules
from detectors.silence import SilenceDetector, spoken_at
from detectors.units import UnitDetector
from detectors.vests import VestDetector
from detectors.vision.zones import Plan
from device_profiles.readings import Detections, DeviceStatus, FrameSeen, Reading, Reported
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


PROMPT = timedelta(seconds=1)
"""A lag as short as this is none."""

MOST_LAG = timedelta(minutes=15)
"""Silence is not waited out for longer than this, however late a device's readings once came."""

DEAF = timedelta(minutes=1)
DEAF_CROWD = timedelta(minutes=5)
CROWD = 10
"""While nobody at all is heard, it is more likely that nothing reaches us: then silence counts only
after so long, where so many devices or more are watched. A few may well fall silent together."""

D = TypeVar("D", bound=Detector)


@dataclass(slots=True)
class Watch(Generic[D]):
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
    detector: D
    members: tuple[StoredDevice, ...]
    resumed_at: datetime | None = None
    lag: timedelta = timedelta()
    ticked_to: datetime | None = None

    def learn(self, worst: timedelta) -> None:
        """Take note of how late the latest readings came; what was worse fades away."""
        faded = self.lag * LAG_FADES
        self.lag = max(worst, faded if faded > PROMPT else timedelta())

    def advance(self, now: datetime) -> list[Said]:
        """Let time pass, as far as nothing may be under way any more."""
        until = now - self.lag
        if self.ticked_to is None or until > self.ticked_to:
            self.ticked_to = until
        return self.heed(self.detector.advance(until))

    def heed(self, said: Iterable[Said]) -> list[Said]:
        """Leave of what the detector says what counts."""
        return list(said) if self.resumed_at is None else concerning(said, self.resumed_at)


@dataclass(slots=True)
class _Ears:
    """Who listens to a device.

    Attributes:
        ruled: The rules on what it measures or shows.
        reported: The rule on what its own AI says; it listens to what it shows, too.
        silence: Whether it speaks.
        clock: Whether its clock is right; None for a camera, whose pictures bring no reported time.
        lot: The last lot of readings in which it spoke.
    """

    silence: Watch[SilenceDetector]
    clock: Watch[ClockDetector] | None
    ruled: list[Watch[Any]] = field(default_factory=list)
    reported: list[Watch[Any]] = field(default_factory=list)
    lot: int = 0


class _Listening:
    """Up to when silence may be believed.

    Attributes:
        since: When somebody was heard last, or listening began; None: nobody listens live.
        heard_to: The newest that anybody said, by the earlier of its own time and its receipt.
    """

    def __init__(self) -> None:
        self.since: datetime | None = None
        self.heard_to: datetime | None = None

    def begin(self, now: datetime) -> None:
        """Listen live, from now on if not before."""
        if self.since is None:
            self.since = now

    def heard(self, newest: Reading, now: datetime) -> None:
        """Somebody was heard."""
        said_at = min(newest.observed_at, newest.received_at)
        if self.heard_to is None or said_at > self.heard_to:
            self.heard_to, self.since = said_at, now

    def until(self, now: datetime, devices: int) -> datetime | None:
        """Up to when who said nothing was silent; None: nothing is known of that."""
        deaf = DEAF if devices < CROWD else DEAF_CROWD
        if self.since is None or now - self.since >= deaf:
            return now
        return self.heard_to and min(now, self.heard_to)


class _Wakes:
    """When which device's silence is due, so that time costs nothing where it changes nothing."""

    def __init__(self) -> None:
        self._heap: list[tuple[datetime, int, Watch[SilenceDetector]]] = []
        self._next: dict[int, datetime] = {}  # by the watch's identity
        self._pushed = itertools.count()  # watches have no order of their own

    def put(self, watch: Watch[SilenceDetector]) -> None:
        """Look at a watch when it is due, unless it is looked at before that anyhow."""
        due_at = watch.detector.due_at
        if due_at is None:
            return
        due_at += watch.lag
        earlier = self._next.get(id(watch))
        if earlier is None or due_at < earlier:
            self._next[id(watch)] = due_at
            heapq.heappush(self._heap, (due_at, next(self._pushed), watch))

    def due(self, until: datetime) -> list[Watch[SilenceDetector]]:
        """Take out the watches that are due; those whose device spoke meanwhile stay."""
        found = []
        while self._heap and self._heap[0][0] < until:
            at, _, watch = heapq.heappop(self._heap)
            if self._next.get(id(watch)) != at:
                continue  # it was looked at earlier
            del self._next[id(watch)]
            due_at = watch.detector.due_at
            if due_at is not None and due_at + watch.lag < until:
                found.append(watch)
            else:
                self.put(watch)
        return found


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
        without_rule: Devices whose work no rule can judge, and why: a crane without geometry.
    """

    def __init__(self, rules: Rules, devices: Iterable[StoredDevice]) -> None:
        self._rules = rules
        self.watches: dict[Subject, Watch[Any]] = {}
        self.without_rule: dict[str, str] = {}
        self._ears: dict[tuple[str, str], _Ears] = {}
        self._ruled: list[Watch[Any]] = []
        self._lot = 0
        self._listening = _Listening()
        self._wakes = _Wakes()
        self._said_offline: dict[int, Watch[SilenceDetector]] = {}
        cranes: dict[str, list[StoredDevice]] = defaultdict(list)
        for device in devices:
            self._ears[device.site, device.device] = self._listen(device)
            match device.kind:
                case Kind.CRANE if device.geometry is None:
                    self.without_rule[f"{device.site}/{device.device}"] = "no geometry registered"
                case Kind.CRANE:
                    cranes[device.site].append(device)
                case Kind.CAMERA:
                    for rule in self._camera_rules(device):
                        self._watch((device,), rule)
                case _:
                    self._watch((device,))
            if device.kind is not Kind.CAMERA:
                self._watch((device,), units.RULE)
        for fleet in cranes.values():
            fleet.sort(key=lambda crane: crane.device)
            for one, other in itertools.combinations(fleet, 2):
                if (
                    one.geometry
                    and other.geometry
                    and can_meet(one.geometry, other.geometry, rules.crane.limit_m)
                ):
                    self._watch((one, other))

    def _listen(self, device: StoredDevice) -> _Ears:
        silence: Watch[SilenceDetector] = self._put((device,), self.new_silence(device))
        self._wakes.put(silence)
        clock = None if device.kind is Kind.CAMERA else self._put((device,), self.new_clock(device))
        return _Ears(silence, clock)

    def _watch(self, members: tuple[StoredDevice, ...], rule: str | None = None) -> None:
        watch = self._put(members, self.new_detector(members, rule=rule))
        self._ruled.append(watch)
        for member in members:
            ears = self._ears[member.site, member.device]
            ears.ruled.append(watch)
            if isinstance(watch.detector, ReportedDetector):
                ears.reported.append(watch)

    def _put(self, members: tuple[StoredDevice, ...], detector: D) -> Watch[D]:
        subject = Subject(
            detector.rule, members[0].site, tuple(member.device for member in members)
        )
        watch = self.watches[subject] = Watch(subject, detector, members)
        return watch

    @staticmethod
    def _camera_rules(device: StoredDevice) -> list[str]:
        """Which rules a camera is judged by; those of zones where it has any."""
        plan = Plan(device.camera)
        rules = [HelmetDetector.RULE, cameras.RULE, reported.RULE]
        if plan.vest:
            rules.append(VestDetector.RULE)
        if plan.entry:
            rules.append(PresenceDetector.RULE)
        return rules

    def new_detector(
        self,
        members: tuple[StoredDevice, ...],
        since: datetime | None = None,
        rule: str | None = None,
    ) -> Detector:
        """Make a detector of what devices measure or show that has seen nothing yet.

        Args:
            members: One device, or a pair of cranes.
            since: From when on all readings are handed in; None: from the first one.
            rule: Which rule, where a device has several; None: of a camera bare heads, of others
                the one on what they measure.

        Returns:
            The detector of their kind.
        """
        match members:
            case (device,) if rule == units.RULE:
                return UnitDetector(device.site, device.device, device.kind, since)
            case (StoredDevice(kind=Kind.DUST) as device,):
                return DustDetector(
                    device.site, device.device, self._rules.dust, device.expected_every_s, since
                )
            case (StoredDevice(kind=Kind.CAMERA) as device,):
                return self._of_camera(device, since, rule)
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

    def _of_camera(
        self, device: StoredDevice, since: datetime | None, rule: str | None
    ) -> Detector:
        rules, site, name = self._rules, device.site, device.device
        plan = Plan(device.camera, device.timezone)
        match rule:
            case None | HelmetDetector.RULE:
                return HelmetDetector(site, name, rules.helmet, since, plan)
            case VestDetector.RULE:
                return VestDetector(site, name, rules.vest, since, plan)
            case PresenceDetector.RULE:
                return PresenceDetector(site, name, rules.presence, since, plan)
            case cameras.RULE:
                return CameraDetector(site, name, rules.camera, device.expected_every_s, since)
            case reported.RULE:
                return ReportedDetector(site, name, rules.reported, since)
        raise TypeError(f"no rule {rule} judges {device}")

    def new_silence(
        self, device: StoredDevice, since: datetime | None = None, online: bool | None = None
    ) -> SilenceDetector:
        """Make a detector of whether a device speaks.

        Args:
            device: The device.
            since: From when on all words are handed in; None: since it was registered.
            online: What its status said last before that; None: nothing.

        Returns:
            The detector.
        """
        return SilenceDetector(
            device.site,
            device.device,
            self._rules.silence,
            device.expected_every_s,
            since,
            kind=device.kind,
            timezone=device.timezone,
            registered_at=device.registered_at,
            online=online,
        )

    def new_clock(self, device: StoredDevice, since: datetime | None = None) -> ClockDetector:
        """Make a detector of whether a device's clock is right.

        Args:
            device: The device.
            since: From when on all readings are handed in; None: from the first one.

        Returns:
            The detector.
        """
        return ClockDetector(device.site, device.device, self._rules.clock, since, kind=device.kind)

    def take_over(self, before: Chain) -> set[Subject]:
        """Go on with the detectors of an earlier chain where nothing about them has changed.

        Args:
            before: A chain of the same rules, not used any more.

        Returns:
            The subjects that go on.
        """
        kept = set()
        for subject, watch in self.watches.items():
            old = before.watches.get(subject)
            if old is not None and old.members == watch.members:
                watch.detector, watch.resumed_at = old.detector, old.resumed_at
                watch.lag, watch.ticked_to = old.lag, old.ticked_to
                self.look_again(watch)
                kept.add(subject)
        self._listening = before._listening
        return kept

    def listen(self, now: datetime) -> None:
        """Listen live, from now on if not before: silence counts only while somebody is heard.

        Args:
            now: The present time; aware.
        """
        self._listening.begin(now)

    def look_again(self, watch: Watch[Any]) -> None:
        """Take note that a watch has another detector, or that its own was put elsewhere.

        Args:
            watch: One of this chain's.
        """
        if isinstance(watch.detector, SilenceDetector):
            self._wakes.put(watch)
            if watch.detector.said_offline:
                self._said_offline[id(watch)] = watch

    def observe(self, readings: Iterable[Reading], now: datetime | None = None) -> Judged:
        """Judge readings.

        Args:
            readings: By observed time.
            now: The present time where they come live: how late they are is learnt from it.

        Returns:
            What was found, and which subjects have to be rebuilt.
        """
        judged = Judged()
        said, late = judged.said, judged.late
        worst: dict[Subject, timedelta] = {}
        ears_of = self._ears.get
        self._lot += 1
        lot = self._lot
        # Live, the first of a device in a lot is its oldest, and says how late it speaks.
        prompt_at = None if now is None else now - PROMPT
        newest: Reading | None = None
        for reading in readings:
            newest = reading
            ears = ears_of((reading.site, reading.device))
            if ears is None:
                continue
            type_ = type(reading)
            if type_ is not Detections and type_ is not Reported:  # their picture spoke for itself
                if ears.lot != lot and type_ is not DeviceStatus:
                    ears.lot = lot
                    if prompt_at is not None and (
                        ears.silence.lag or reading.observed_at < prompt_at
                    ):
                        ears.silence.learn(min(prompt_at - spoken_at(reading), MOST_LAG))
                if late or not ears.silence.detector.absorbs(reading):
                    self._hear(ears.silence, reading, judged)
                if type_ is DeviceStatus or type_ is FrameSeen:
                    continue
                clock = ears.clock
                if clock is not None and (late or not clock.detector.absorbs(reading)):
                    self._hear(clock, reading, judged)
            if reading.series is not Series.INSTANT:
                continue  # the time of a minute's mean is its start: long past, and of no rule
            # The picture of an event is no look at the scene: late, it upsets no other rule.
            claimed = type_ is Reported or (isinstance(reading, Detections) and reading.event)
            for watch in ears.reported if claimed else ears.ruled:
                if now is not None and watch.subject not in worst:
                    # The first is the oldest.
                    worst[watch.subject] = max(timedelta(), now - reading.observed_at)
                settled_at = watch.detector.settled_at
                if watch.subject in late or (
                    settled_at is not None and reading.observed_at < settled_at
                ):
                    _put_late(late, watch.subject, reading)
                else:
                    said.extend(watch.heed(watch.detector.observe(reading)))
        for subject, lag in worst.items():
            self.watches[subject].learn(lag)
        if newest is not None and now is not None:
            self._listening.heard(newest, now)
        return judged

    def _hear(
        self,
        watch: Watch[SilenceDetector] | Watch[ClockDetector],
        reading: Reading,
        judged: Judged,
    ) -> None:
        """Take a reading that may change what is known of a device's health."""
        if watch.subject in judged.late or watch.detector.late(reading):
            _put_late(judged.late, watch.subject, reading)
        else:
            judged.said += watch.heed(watch.detector.observe(reading))
            self.look_again(watch)

    def advance(self, now: datetime) -> list[Said]:
        """Let time pass where no reading comes.

        Args:
            now: Until when all that was to come has come.

        Returns:
            What the silence means: gaps that are not evaluable, episodes that ended.
        """
        said = [item for watch in self._ruled for item in watch.advance(now)]
        for key, watch in list(self._said_offline.items()):
            # The broker itself was heard to say it: then we are not deaf.
            said += watch.advance(now)
            if not watch.detector.said_offline:
                del self._said_offline[key]
        until = self._listening.until(now, len(self._ears))
        if until is not None:
            for watch in self._wakes.due(until):
                said += watch.advance(until)
                self._wakes.put(watch)
        return said

    def pending(self) -> list[Said]:
        """The coverage that still grows.

        Returns:
            Spans as they stand now; they will be said again, longer. Not those of the devices'
            health: that can always be judged, and thousands of rows a minute would say so.
        """
        return [item for watch in self._ruled for item in watch.heed(watch.detector.pending)]

    def linger(self, watch: Watch[Any]) -> timedelta:
        """How long after its last evidence an episode may still go on.

        Args:
            watch: Whose episode.

        Returns:
            An upper bound.
        """
        rules = self._rules
        if isinstance(watch.detector, SilenceDetector | ClockDetector):
            return timedelta()  # it ends with what is said, not for want of it
        lookback: timedelta = watch.detector.lookback
        if isinstance(
            watch.detector, ConfirmingDetector | CameraDetector | ReportedDetector | UnitDetector
        ):
            return watch.detector.linger + lookback
        dusty = watch.members[0].kind is Kind.DUST
        bridge_s = rules.dust.bridge_s if dusty else rules.crane.bridge_s
        return timedelta(seconds=bridge_s) + lookback


def _put_late(late: dict[Subject, datetime], subject: Subject, reading: Reading) -> None:
    late[subject] = min(late.get(subject, reading.observed_at), reading.observed_at)
