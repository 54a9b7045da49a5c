"""What rules on a camera's people share: sightings, confirmed over several looks, make a violation.

A look is one `Detections` reading, one of an unchanged scene included. Each rule makes of its boxes
sightings of people who keep it or break it; they are tied to tracks (`detectors.tracks`). A track
is confirmed when enough of its last looks saw the rule broken, the model having really run on two
of them at least (a still scene repeats its boxes, and a mistake with them), and none saw it kept
with an equal or better score.

A confirmed track opens an episode. The episode lasts while its track is seen to break the rule
more often than to keep it, or would be confirmed anew, and goes on with another confirmed track
that began, or broke the rule, near its place after its own was lost: a broken track is not two
violations. It closes, at the last sighting against the rule, when nothing carried it on for
`gone_s` and `cooldown_s` together. Who is seen again within that time is waited for until they are
confirmed, for `window_s` at most.

A camera that is unfit (`device_profiles.readings.Unfit`) is not evaluable. Where it cannot see
(dark, bright, blurred, blocked) nothing is made of its boxes: a helmet in the dark looks like a
bare head. Where the lens moved or heads are small, what is seen still proves a violation, unless
the rule depends on where the camera looks; that nothing is seen proves nothing.

The lookback restores who is who wherever tracks can be told apart by place; in a dense crowd a
resumed detector may tie a sighting to another track than the uninterrupted one did.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import ClassVar, NamedTuple

from detectors.detector import Said, Spans, check
from detectors.messages import lasting
from detectors.rules import ConfirmedRule
from detectors.tracks import Corners, Episode, Reach, Sighting, Track, Tracker
from detectors.vision.zones import Plan
from device_profiles.findings import Coverage, Evidence, Finding, Severity
from device_profiles.readings import Box, Detections, Reading, Unfit
from device_profiles.vocabulary import Series

NO_FRAMES = "no_frames"
TOO_FEW_FRAMES = "too_few_frames"
OVERLOADED = "frames_skipped"
WARMING_UP = "warming_up"
UNFIT = "camera_{}"

RUNS = 2
"""The model has really to have run on so many of the looks that confirm, or on all if fewer do."""

BLIND = frozenset({Unfit.DARK, Unfit.BRIGHT, Unfit.BLURRED, Unfit.BLOCKED})
"""What a camera cannot see through."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Seen(NamedTuple):
    """What one look shows of a rule.

    Attributes:
        sightings: What was seen well.
        hints: What was seen badly, good only to keep a track.
    """

    sightings: list[Sighting]
    hints: list[Sighting]


class Words(NamedTuple):
    """A phrase in Chinese and English."""

    zh: str
    en: str


class ConfirmingDetector(ABC):
    """Judges one rule on one camera.

    Attributes:
        rule: Name of the rule.
        site: Site id.
        subject: Device id of the camera; its findings are about "{camera}#{epoch ms}@{x},{y}":
            when and where, in pixels, somebody was first seen to break the rule; in a zone with
            "/{zone}" behind it.
        lookback: The longest time over which tracks and confirmations reach back.
        settled_at: Readings older than this come too late.
    """

    RULE: ClassVar[str]
    KIND: ClassVar[str]
    REACH: ClassVar[Reach]
    MENDED: ClassVar[Words]
    HEEDLESS: ClassVar[frozenset[Unfit]] = frozenset()
    """What does not make the camera unfit for this rule."""

    def __init__(
        self,
        site: str,
        device: str,
        rule: ConfirmedRule,
        since: datetime | None = None,
        plan: Plan | None = None,
        lanes: Iterable[str] = ("",),
    ) -> None:
        """Start with no track.

        Args:
            site: Site id.
            device: Device id of the camera.
            rule: The settings.
            since: From when on all readings are handed in; default: from the first one.
            plan: Where in the picture what counts; default: everywhere everything.
            lanes: Names of the parts that are judged each by itself: zones.
        """
        self.rule = self.RULE
        self.site = site
        self.subject = device
        self.settled_at = since
        self._plan = plan or Plan()
        self._settings = rule
        self._window = timedelta(seconds=rule.window_s)
        self._gone = timedelta(seconds=rule.gone_s)
        self._gap = timedelta(seconds=rule.max_gap_s)
        self._hold = timedelta(seconds=rule.gone_s + rule.cooldown_s)
        self._runs = min(RUNS, rule.sightings)
        self.lookback = 2 * (self._window + self._gone + self._gap)
        self._since = since
        self._looked_at = since
        self._saw_at = since  # last look of a camera that could see
        self._last_look: datetime | None = None
        self._skipped_at: datetime | None = None
        self._held: str | None = WARMING_UP  # what the last look decided, until the next
        self._look_times: deque[datetime] = deque(maxlen=rule.sightings)
        self._trackers = {lane: Tracker(rule.looks, self.REACH) for lane in lanes}
        self._episodes: list[Episode] = []
        self._spans = Spans(self.RULE, self.site, self.subject, since)

    @abstractmethod
    def _see(self, lane: str, reading: Detections) -> Seen:
        """Make sightings of a look's boxes."""

    @abstractmethod
    def _wrong(self, episode: Episode) -> Words:
        """Say what is wrong."""

    def _reconsider(self, track: Track, recent: list[Sighting]) -> list[Sighting]:
        """Decide anew on a track's recent sightings, by all of them together."""
        return recent

    def _suspect(self, sighting: Sighting) -> bool:
        """Whether a sighting counts against the rule, or may do so once more is seen."""
        return sighting.wrong

    @property
    def linger(self) -> timedelta:
        """How long after its last evidence an episode may still go on."""
        return self._hold + self._window

    @property
    def open(self) -> bool:
        """Whether an episode is open, or somebody was seen who may yet be confirmed."""
        return bool(self._episodes) or any(
            sighting is not None and self._suspect(sighting)
            for tracker in self._trackers.values()
            for track in tracker.tracks
            for sighting in track.looks
        )

    @property
    def pending(self) -> tuple[Coverage, ...]:
        """The coverage that still grows."""
        return self._spans.pending

    def observe(self, reading: Reading) -> list[Said]:
        """Take the next look; see `detectors.detector.Detector`.

        Of two looks with equal time the first counts, as in the store.
        """
        if not isinstance(reading, Detections) or reading.series != Series.INSTANT:
            return []
        if reading.event:
            return []  # no look at the scene: what it shows is weighed with the report it came with
        check(self, reading, (self.subject,))
        at = reading.observed_at
        if at == self._last_look:
            return []
        if self._since is None:
            self._since = at
        said = self._pass(at)
        self.settled_at = self._looked_at = self._last_look = at
        if reading.skipped:
            self._skipped_at = at
        unfit = None if reading.unfit in self.HEEDLESS else reading.unfit
        if unfit in BLIND or (unfit is Unfit.MOVED and self._plan.bound):
            self._held = UNFIT.format(unfit)
            return said
        self._saw_at = at
        self._look_times.append(at)
        self._held = self._evaluable(at) if unfit is None else UNFIT.format(unfit)
        for lane, tracker in self._trackers.items():
            seen = self._see(lane, reading)
            for track in tracker.follow(seen.sightings, seen.hints):
                said += self._judge(lane, track)
        return said

    def advance(self, now: datetime) -> list[Said]:
        """Notice silence; see `detectors.detector.Detector`."""
        closed, said = self._lapse(now), []
        if self._looked_at is not None and now - self._looked_at >= self._gap:
            silent_at = self._looked_at + self._gap
            self._settle(silent_at)
            self._forget_all()
            said = self._spans.mark(silent_at, NO_FRAMES)
        return said + closed

    def finish(self, at: datetime) -> list[Said]:
        """End what is pending; see `detectors.detector.Detector`."""
        if self.settled_at is None:
            return []
        self.settled_at = max(at, self.settled_at)
        said = self._pass(self.settled_at)
        said += [self._finding(episode, closed=True) for episode in self._episodes]
        self._episodes.clear()
        self._forget_all()
        return said + self._spans.flush()

    def _evaluable(self, at: datetime) -> str | None:
        """Why what this look leaves unsaid is not known; None where it is."""
        enough = len(self._look_times) == self._settings.sightings
        if enough and at - self._look_times[0] <= self._window:
            return None
        if self._since is not None and at - self._since < self._window:
            return WARMING_UP
        overloaded = self._skipped_at is not None and at - self._skipped_at <= self._window
        return OVERLOADED if overloaded else TOO_FEW_FRAMES

    def _settle(self, instant: datetime) -> None:
        if self.settled_at is None or instant > self.settled_at:
            self.settled_at = instant

    def _forget_all(self) -> None:
        for tracker in self._trackers.values():
            tracker.tracks.clear()

    def _pass(self, at: datetime) -> list[Said]:
        """Account for the time up to a look."""
        silent = self._looked_at is not None and at - self._looked_at >= self._gap
        said = self._spans.mark(at, NO_FRAMES if silent else self._held) + self._lapse(at)
        for tracker in self._trackers.values():
            tracker.forget(at, timedelta() if silent else self._gone)
        return said

    def _lapse(self, now: datetime) -> list[Said]:
        """Close the episodes that nothing carried on, in the order in which they ran out.

        To be called before tracks are forgotten: an episode runs out when the track it waits for
        is forgotten, whether a tick or only the next look notices.
        """
        said: list[Said] = []
        lapsing = [episode for episode in self._episodes if now - episode.last.at >= self._hold]
        for over_at, episode in sorted(
            ((self._over_at(episode), episode) for episode in lapsing), key=lambda pair: pair[0]
        ):
            if now >= over_at:
                self._settle(over_at)
                self._episodes.remove(episode)
                episode.track.episode = None
                said.append(self._finding(episode, closed=True))
        return said

    def _over_at(self, episode: Episode) -> datetime:
        """From when on nothing can carry an episode on, unless a look before then shows more."""
        lapse_at = over_at = episode.last.at + self._hold
        for track in self._trackers[episode.lane].tracks:
            for sighting in (track.first, *track.looks):
                if sighting is None or not self._came_back(episode, track, sighting):
                    continue
                over_at = max(over_at, min(sighting.at + self._window, track.last.at + self._gone))
        if self._looked_at is not None:  # in silence all tracks are forgotten
            over_at = max(lapse_at, min(over_at, self._looked_at + self._gap))
        return over_at

    def _came_back(self, episode: Episode, track: Track, sighting: Sighting) -> bool:
        """Whether a sighting, in time, is of a track that may yet carry an episode on."""
        if track is episode.track:  # covered, and bare again
            again = episode.last.at < sighting.at < episode.last.at + self._hold
            return again and self._suspect(sighting)
        if track.episode is not None or not (sighting is track.first or self._suspect(sighting)):
            return False
        return self._distance(episode, sighting) is not None

    def _distance(self, episode: Episode, sighting: Sighting) -> float | None:
        """How far from where an episode lost its track somebody was seen.

        Returns:
            As `Tracker.cost`; None too if that was not after the loss, or too long after.
        """
        lost = episode.track.last
        if not lost.at < sighting.at < episode.last.at + self._hold:
            return None
        return self._trackers[episode.lane].cost(lost.box, lost.at, sighting)

    def _judge(self, lane: str, track: Track) -> list[Said]:
        """Decide on one track after a look that saw it."""
        recent = self._reconsider(
            track,
            [
                sighting
                for sighting in track.looks
                if sighting is not None and track.last.at - sighting.at <= self._window
            ],
        )
        now, episode = recent[-1], track.episode
        wrong = [sighting for sighting in recent if sighting.wrong]
        right = [sighting for sighting in recent if not sighting.wrong]
        if episode is not None:
            if now.wrong and (len(wrong) > len(right) or self._proven(wrong, right)):
                episode.carry_on(now, 1)
            elif len(right) >= self._settings.sightings:
                episode.mended = True
            return []
        if not now.wrong or not self._proven(wrong, right):
            return []
        return self._confirmed(lane, track, tuple(wrong))

    def _proven(self, wrong: list[Sighting], right: list[Sighting]) -> bool:
        """Whether recent sightings confirm a track."""
        if len(wrong) < self._settings.sightings:
            return False
        if sum(not sighting.reading.still for sighting in wrong) < self._runs:
            return False
        best_score = max(sighting.score for sighting in wrong)
        return all(sighting.score < best_score for sighting in right)

    def _confirmed(self, lane: str, track: Track, wrong: tuple[Sighting, ...]) -> list[Said]:
        """Carry on the episode near whose place a track began, or broke the rule; or open one."""
        near = [
            (distance, index)
            for index, episode in enumerate(self._episodes)
            for sighting in (track.first, wrong[0])
            if episode.lane == lane and (distance := self._distance(episode, sighting)) is not None
        ]
        if near:
            episode = self._episodes[min(near)[1]]
            episode.track.episode = None
            episode.track = track
            track.episode = episode
            episode.carry_on(wrong[-1], len(wrong))
            return []
        episode = Episode(
            subject=self._subject(lane, wrong[0]),
            lane=lane,
            confirmation=wrong,
            track=track,
            last=wrong[-1],
            best_score=max(sighting.score for sighting in wrong),
            sightings=len(wrong),
        )
        track.episode = episode
        self._episodes.append(episode)
        return [self._finding(episode, closed=False)]

    def _subject(self, lane: str, first: Sighting) -> str:
        left, top, right, bottom = first.box
        subject = (
            f"{self.subject}#{(first.at - _EPOCH) // timedelta(milliseconds=1)}"
            f"@{round((left + right) / 2)},{round((top + bottom) / 2)}"
        )
        return f"{subject}/{lane}" if lane else subject

    def _finding(self, episode: Episode, *, closed: bool) -> Finding:
        looks, score = len(episode.confirmation), f"{episode.best_score:.2f}"
        wrong = self._wrong(episode)
        zh = f"摄像头 {self.subject}：{wrong.zh}（{looks} 帧确认，置信度最高 {score}）"
        en = f"Camera {self.subject}: {wrong.en} (confirmed on {looks} frames, score up to {score})"
        evidence = [_evidence("confirmation", sighting) for sighting in episode.confirmation]
        if closed:
            lasting_zh, lasting_en = lasting(episode.last.at - episode.opened_at)
            ending = self._ending(episode)
            zh += f"，持续 {lasting_zh}，{ending.zh}"
            en += f", for {lasting_en}, then {ending.en}"
            if episode.last.at > episode.confirmation[-1].at:
                evidence.append(_evidence("last", episode.last))
        return Finding(
            rule=self.RULE,
            kind=self.KIND,
            site=self.site,
            subject=episode.subject,
            opened_at=episode.opened_at,
            closed_at=episode.last.at if closed else None,
            severity=Severity.WARNING,
            measured={
                "score": round(episode.best_score, 3),
                "sightings": float(episode.sightings),
            },
            message_zh=zh,
            message_en=en,
            evidence=tuple(evidence),
        )

    def _ending(self, episode: Episode) -> Words:
        if episode.mended:
            return self.MENDED
        if self._saw_at is not None and self._saw_at - episode.last.at >= self._gone:
            return Words("不再看到", "no longer seen")
        if self._looked_at != self._saw_at:
            return Words("其后画面不可用", "the picture is of no use")
        return Words("其后画面中断", "no frames")


def fits(box: Box, reading: Detections) -> bool:
    """Whether a box is one at all: its corners in order, and not far outside of the picture."""
    left, top, right, bottom = box.box
    return (
        -reading.width <= left < right <= 2 * reading.width
        and -reading.height <= top < bottom <= 2 * reading.height
    )


def best_first(boxes: Iterable[Box], label: str, least: float) -> list[tuple[Corners, float]]:
    """Boxes of a class, the best score first.

    Args:
        boxes: That fit.
        label: The class.
        least: The lowest score taken.

    Returns:
        Corners and scores.
    """
    found = [(box.box, box.score) for box in boxes if box.label == label and box.score >= least]
    return sorted(found, key=lambda one: (-one[1], one[0]))


def _evidence(role: str, sighting: Sighting) -> Evidence:
    reading = sighting.reading
    values = {"score": sighting.score}
    if sighting.second_look is not None:
        values["second_look"] = sighting.second_look
    return Evidence(
        device=reading.device,
        observed_at=reading.observed_at,
        source=reading.source,
        role=role,
        values=values,
        frame_sha256=reading.frame_sha256,
        model_sha256=reading.model_sha256,
        boxes=((sighting.label, sighting.score, *sighting.box),),
    )
