"""`helmet.bare_head`: a head without a helmet, confirmed over several looks of one camera.

A look is one `Detections` reading, one of an unchanged scene included. Its boxes of the classes
head and helmet are one sighting each; where two cover the same place, the better score says
whether the head is bare, and the helmet where they are equal. Sightings are tied to tracks from
look to look by overlap, then by nearness, the nearest first. A track is confirmed when enough of
its last looks saw a bare head and none saw a helmet with an equal or better score.

A confirmed track opens an episode. The episode lasts while its track is seen bare more often than
covered, and goes on with another confirmed track that began near its place after its own was
lost: a broken track is not two violations. It closes, at the last sighting of the bare head, when
nothing carried it on for `gone_s` and `cooldown_s` together.

The lookback restores which head is which wherever tracks can be told apart by place; in a dense
crowd a resumed detector may tie a sighting to another track than the uninterrupted one did.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, TypeAlias

from detectors.detector import Said, Spans, check
from detectors.messages import lasting
from detectors.rules import HelmetRule
from device_profiles.findings import Coverage, Evidence, Finding, Severity
from device_profiles.readings import Detections
from device_profiles.vocabulary import Series

RULE = "helmet.bare_head"

HEAD = "head"
HELMET = "helmet"

NO_FRAMES = "no_frames"
TOO_FEW_FRAMES = "too_few_frames"
WARMING_UP = "warming_up"

_SAME_HEAD_IOU = 0.5
"""Boxes of one look that overlap this much are the same head."""

_REACH_SIZES = 1.0
_REACH_SIZES_PER_S = 5.0
_MOST_REACH_SIZES = 6.0
"""How far a head may be from where it was last seen, in its own sizes: at once, more for every
second since, and at most. A head is some 0.25 m, a walk 1.4 m/s. Project choices."""

_SIZE_RATIO = 2.0
"""A head's box does not grow or shrink by more than this between two looks."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Corners: TypeAlias = tuple[float, float, float, float]


class _Sighting(NamedTuple):
    """A head in one look."""

    reading: Detections
    bare: bool
    score: float
    box: Corners

    @property
    def at(self) -> datetime:
        return self.reading.observed_at


@dataclass(slots=True, eq=False)
class _Track:
    """A head followed from look to look; None for looks that did not see it."""

    last: _Sighting
    looks: deque[_Sighting | None]
    episode: _Episode | None = None


@dataclass(slots=True, eq=False)
class _Episode:
    """A bare head, confirmed."""

    subject: str
    confirmation: tuple[_Sighting, ...]
    track: _Track
    last: _Sighting
    best_score: float
    sightings: int
    covered: bool = False

    @property
    def opened_at(self) -> datetime:
        return self.confirmation[0].at


class HelmetDetector:
    """Judges one camera.

    Attributes:
        rule: Name of the rule.
        site: Site id.
        subject: Device id of the camera; its findings are about "{camera}#{epoch ms}@{x},{y}":
            when and where, in pixels, the bare head was first seen.
        lookback: The longest time over which tracks and confirmations reach back.
        settled_at: Readings older than this come too late.
    """

    def __init__(
        self, site: str, device: str, rule: HelmetRule, since: datetime | None = None
    ) -> None:
        """Start with no track.

        Args:
            site: Site id.
            device: Device id of the camera.
            rule: The settings.
            since: From when on all readings are handed in; default: from the first one.
        """
        self.rule = RULE
        self.site = site
        self.subject = device
        self.settled_at = since
        self._settings = rule
        self._window = timedelta(seconds=rule.window_s)
        self._gone = timedelta(seconds=rule.gone_s)
        self._gap = timedelta(seconds=rule.max_gap_s)
        self._hold = timedelta(seconds=rule.gone_s + rule.cooldown_s)
        self.lookback = 2 * (self._window + self._gone + self._gap)
        self._since = since
        self._looked_at = since
        self._held: str | None = WARMING_UP  # what the last look decided, until the next
        self._look_times: deque[datetime] = deque(maxlen=rule.sightings)
        self._tracks: list[_Track] = []
        self._episodes: list[_Episode] = []
        self._spans = Spans(RULE, self.site, self.subject, since)

    @property
    def open(self) -> bool:
        """Whether an episode is open, or a head was seen bare that may yet be confirmed."""
        return bool(self._episodes) or any(
            sighting is not None and sighting.bare
            for track in self._tracks
            for sighting in track.looks
        )

    @property
    def pending(self) -> tuple[Coverage, ...]:
        """The coverage that still grows."""
        return self._spans.pending

    def observe(self, reading: Detections) -> list[Said]:
        """Take the next look; see `detectors.detector.Detector`.

        Of two looks with equal time the first counts, as in the store.
        """
        if reading.series != Series.INSTANT:
            return []
        check(self, reading, (self.subject,))
        at = reading.observed_at
        if self._look_times and at == self._look_times[-1]:
            return []
        if self._since is None:
            self._since = at
        said = self._pass(at)
        self.settled_at = self._looked_at = at
        self._look_times.append(at)
        enough = len(self._look_times) == self._settings.sightings
        if enough and at - self._look_times[0] <= self._window:
            self._held = None
        else:
            self._held = WARMING_UP if at - self._since < self._window else TOO_FEW_FRAMES
        self._follow(reading)
        # In the order of their places, not of their age, which a resumed detector would not know.
        seen = [track for track in self._tracks if track.last.at == at]
        for track in sorted(seen, key=lambda track: track.last.box):
            said += self._judge(track)
        return said

    def advance(self, now: datetime) -> list[Said]:
        """Notice silence; see `detectors.detector.Detector`."""
        said: list[Said] = []
        if self._looked_at is not None and now - self._looked_at >= self._gap:
            silent_at = self._looked_at + self._gap
            self._settle(silent_at)
            self._tracks.clear()
            said += self._spans.mark(silent_at, NO_FRAMES)
        return said + self._lapse(now)

    def finish(self, at: datetime) -> list[Said]:
        """End what is pending; see `detectors.detector.Detector`."""
        if self.settled_at is None:
            return []
        self.settled_at = max(at, self.settled_at)
        said = self._pass(self.settled_at)
        said += [self._finding(episode, closed=True) for episode in self._episodes]
        self._episodes.clear()
        self._tracks.clear()
        return said + self._spans.flush()

    def _settle(self, instant: datetime) -> None:
        if self.settled_at is None or instant > self.settled_at:
            self.settled_at = instant

    def _pass(self, at: datetime) -> list[Said]:
        """Account for the time up to a look."""
        silent = self._looked_at is not None and at - self._looked_at >= self._gap
        said = self._spans.mark(at, NO_FRAMES if silent else self._held)
        self._tracks = [
            track for track in self._tracks if not silent and at - track.last.at < self._gone
        ]
        return said + self._lapse(at)

    def _lapse(self, now: datetime) -> list[Said]:
        """Close the episodes that nothing carried on."""
        said: list[Said] = []
        for episode in list(self._episodes):
            if now - episode.last.at >= self._hold:
                self._settle(episode.last.at + self._hold)
                self._episodes.remove(episode)
                episode.track.episode = None
                said.append(self._finding(episode, closed=True))
        return said

    def _follow(self, reading: Detections) -> None:
        """Tie the sightings of a look to the tracks, the nearest first."""
        sightings = _sightings(reading, self._settings.min_score)
        costs = sorted(
            (cost, track.last.box, sighting.box, i, j)
            for i, track in enumerate(self._tracks)
            for j, sighting in enumerate(sightings)
            if (cost := _cost(track.last, sighting)) is not None
        )
        tied: dict[int, int] = {}  # the sighting of each track
        taken: set[int] = set()
        for _, _, _, i, j in costs:
            if i not in tied and j not in taken:
                tied[i] = j
                taken.add(j)
        for i, track in enumerate(self._tracks):
            if i in tied:
                track.last = sightings[tied[i]]
                track.looks.append(track.last)
            else:
                track.looks.append(None)
        for j, sighting in enumerate(sightings):
            if j not in taken:
                looks: deque[_Sighting | None] = deque([sighting], maxlen=self._settings.looks)
                self._tracks.append(_Track(sighting, looks))

    def _judge(self, track: _Track) -> list[Said]:
        """Decide on one track after a look that saw it."""
        now, episode = track.last, track.episode
        recent = [
            sighting
            for sighting in track.looks
            if sighting is not None and now.at - sighting.at <= self._window
        ]
        bare = [sighting for sighting in recent if sighting.bare]
        covered = [sighting for sighting in recent if not sighting.bare]
        if episode is not None:
            if now.bare and len(bare) > len(covered):
                self._carry_on(episode, now, 1)
            elif len(covered) >= self._settings.sightings:
                episode.covered = True
            return []
        if not now.bare or len(bare) < self._settings.sightings:
            return []
        best_score = max(sighting.score for sighting in bare)
        if any(sighting.score >= best_score for sighting in covered):
            return []
        return self._confirmed(track, tuple(bare))

    def _confirmed(self, track: _Track, bare: tuple[_Sighting, ...]) -> list[Said]:
        """Carry on the episode near whose place a track began, or open one."""
        first = bare[0]
        near = [
            (cost, index)
            for index, episode in enumerate(self._episodes)
            if episode.track.last.at < first.at and (cost := _cost(episode.last, first)) is not None
        ]
        if near:
            episode = self._episodes[min(near)[1]]
            episode.track.episode = None
            episode.track = track
            track.episode = episode
            self._carry_on(episode, bare[-1], len(bare))
            return []
        left, top, right, bottom = first.box
        episode = _Episode(
            subject=f"{self.subject}#{(first.at - _EPOCH) // timedelta(milliseconds=1)}"
            f"@{round((left + right) / 2)},{round((top + bottom) / 2)}",
            confirmation=bare,
            track=track,
            last=bare[-1],
            best_score=max(sighting.score for sighting in bare),
            sightings=len(bare),
        )
        track.episode = episode
        self._episodes.append(episode)
        return [self._finding(episode, closed=False)]

    def _carry_on(self, episode: _Episode, last: _Sighting, sightings: int) -> None:
        episode.last = last
        episode.covered = False
        episode.sightings += sightings
        episode.best_score = max(episode.best_score, last.score)

    def _finding(self, episode: _Episode, *, closed: bool) -> Finding:
        looks, score = len(episode.confirmation), f"{episode.best_score:.2f}"
        zh = f"摄像头 {self.subject}：有人未戴安全帽（{looks} 帧确认，置信度最高 {score}）"
        en = (
            f"Camera {self.subject}: a worker without a helmet"
            f" (confirmed on {looks} frames, score up to {score})"
        )
        evidence = [_evidence("confirmation", sighting) for sighting in episode.confirmation]
        if closed:
            lasting_zh, lasting_en = lasting(episode.last.at - episode.opened_at)
            ending_zh, ending_en = self._ending(episode)
            zh += f"，持续 {lasting_zh}，{ending_zh}"
            en += f", for {lasting_en}, then {ending_en}"
            if episode.last.at > episode.confirmation[-1].at:
                evidence.append(_evidence("last", episode.last))
        return Finding(
            rule=RULE,
            kind="helmet",
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

    def _ending(self, episode: _Episode) -> tuple[str, str]:
        if episode.covered:
            return "已戴好安全帽", "a helmet was put on"
        if self._looked_at is not None and self._looked_at - episode.last.at >= self._gone:
            return "不再看到", "no longer seen"
        return "其后画面中断", "no frames"


def _sightings(reading: Detections, min_score: float) -> list[_Sighting]:
    """Return the heads of a look: of boxes over the same place, the best, helmets before heads."""
    kept: list[_Sighting] = []
    candidates = sorted(
        (-box.score, box.label == HEAD, box.box)
        for box in reading.boxes
        if box.label in (HEAD, HELMET)
        and box.score >= min_score
        and -reading.width <= box.box[0] < box.box[2] <= 2 * reading.width
        and -reading.height <= box.box[1] < box.box[3] <= 2 * reading.height
    )
    for negative_score, bare, corners in candidates:
        if all(_overlap(corners, other.box) < _SAME_HEAD_IOU for other in kept):
            kept.append(_Sighting(reading, bare, -negative_score, corners))
    return kept


def _cost(before: _Sighting, after: _Sighting) -> float | None:
    """Say how unlikely one head is another seen later: 0 for the same box; None for never."""
    one, other = before.box, after.box
    size, other_size = _size(one), _size(other)
    if size > _SIZE_RATIO * other_size or other_size > _SIZE_RATIO * size:
        return None
    across = one[0] + one[2] - other[0] - other[2]
    down = one[1] + one[3] - other[1] - other[3]
    away = math.hypot(across, down) / (size + other_size)  # halves of sums: in mean sizes
    elapsed_s = (after.at - before.at).total_seconds()
    if away > min(_REACH_SIZES + _REACH_SIZES_PER_S * elapsed_s, _MOST_REACH_SIZES):
        return None
    overlap = _overlap(one, other)
    return 1 - overlap if overlap > 0 else 1 + away


def _size(box: Corners) -> float:
    return max(box[2] - box[0], box[3] - box[1])


def _overlap(one: Corners, other: Corners) -> float:
    """Return the intersection over union of two boxes."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    one_area = (one[2] - one[0]) * (one[3] - one[1])
    other_area = (other[2] - other[0]) * (other[3] - other[1])
    return both / (one_area + other_area - both)


def _evidence(role: str, sighting: _Sighting) -> Evidence:
    reading = sighting.reading
    return Evidence(
        device=reading.device,
        observed_at=reading.observed_at,
        source=reading.source,
        role=role,
        values={"score": sighting.score},
        frame_sha256=reading.frame_sha256,
        model_sha256=reading.model_sha256,
        boxes=((HEAD, sighting.score, *sighting.box),),
    )
