"""`device.camera`: a camera whose pictures let nobody judge what it ought to show.

The eyes (`detectors.vision.fitness`) say on each look whether the camera is fit, with their own
patience. An episode lasts from the first unfit look to the first fit one; another reason is another
episode. A camera that falls silent while unfit ends it at its last look, unless it is back, and
unfit for the same reason, within `bridge_s`.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple

from detectors.detector import Episode, Episodes, Said, Spans, check
from detectors.messages import figure, lasting
from detectors.rules import CameraRule
from device_profiles.findings import Coverage, Evidence, Finding, Severity
from device_profiles.readings import Detections, Reading, Unfit
from device_profiles.vocabulary import Series

RULE = "device.camera"
KIND = "device_health"

NO_FRAMES = "no_frames"

_MISSED_FRAMES = 3

WORDS = {
    Unfit.DARK: ("画面过暗", "too dark"),
    Unfit.BRIGHT: ("画面过曝", "blown out"),
    Unfit.BLURRED: ("画面模糊", "blurred"),
    Unfit.BLOCKED: ("镜头被遮挡", "blocked"),
    Unfit.MOVED: ("镜头被移动", "turned away from its scene"),
    Unfit.SMALL_HEADS: ("人头过小", "too far off: heads are too small"),
}
"""What people call it, in Chinese and English."""


class _Sight(NamedTuple):
    reading: Detections
    unfit: Unfit

    @property
    def at(self) -> datetime:
        return self.reading.observed_at


class CameraDetector:
    """Judges one camera.

    Attributes:
        rule: Name of the rule.
        site: Site id.
        subject: Device id of the camera.
        lookback: How far back a fresh detector must start.
        settled_at: Readings older than this come too late.
    """

    def __init__(
        self,
        site: str,
        device: str,
        rule: CameraRule,
        expected_every_s: float,
        since: datetime | None = None,
    ) -> None:
        """Start with a camera of which nothing is known.

        Args:
            site: Site id.
            device: Device id.
            rule: The settings.
            expected_every_s: How often it ought to speak.
            since: From when on all readings are handed in; None: from the first one.
        """
        self.rule = RULE
        self.site = site
        self.subject = device
        self.settled_at = since
        self._gap = timedelta(seconds=max(rule.bridge_s, _MISSED_FRAMES * expected_every_s))
        self.linger = self._gap
        self.lookback = self._gap
        self._looked_at = since
        self._last_look: datetime | None = None
        self._spans = Spans(RULE, site, device, since)
        self._unfit: Unfit | None = None
        self._episodes: Episodes[_Sight] = Episodes(
            self._gap,
            worse=lambda one, other: False,
            notable=lambda one, other: False,
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

    def observe(self, reading: Reading) -> list[Said]:
        """Take the next look; see `detectors.detector.Detector`."""
        if not isinstance(reading, Detections) or reading.series != Series.INSTANT:
            return []
        if reading.event:
            return []  # says nothing of the lens
        check(self, reading, (self.subject,))
        at = reading.observed_at
        if at == self._last_look:
            return []  # of two looks with equal time the first counts, as in the store
        said = self._pass(at)
        self.settled_at = self._looked_at = self._last_look = at
        if reading.unfit is None or (self.open and reading.unfit is not self._unfit):
            said += self._episodes.kept(at)
        if reading.unfit is not None:
            self._unfit = reading.unfit
            said += self._episodes.violated(_Sight(reading, reading.unfit))
        return said

    def advance(self, now: datetime) -> list[Said]:
        """Notice silence; see `detectors.detector.Detector`."""
        if self._looked_at is None or now - self._looked_at < self._gap:
            return []
        silent_at = self._looked_at + self._gap
        if self.settled_at is None or silent_at > self.settled_at:
            self.settled_at = silent_at
        return self._episodes.cut() + self._spans.mark(silent_at, NO_FRAMES)

    def finish(self, at: datetime) -> list[Said]:
        """End what is pending; see `detectors.detector.Detector`."""
        if self.settled_at is None:
            return []
        self.settled_at = max(at, self.settled_at)
        return self._pass(self.settled_at) + self._episodes.cut() + self._spans.flush()

    def _pass(self, at: datetime) -> list[Said]:
        """Account for the time up to a look."""
        silent = self._looked_at is not None and at - self._looked_at >= self._gap
        said = self._episodes.cut() if silent else []
        return said + self._spans.mark(at, NO_FRAMES if silent else None)

    def _finding(self, episode: Episode[_Sight], closed_at: datetime | None, cut: bool) -> Finding:
        first, last = episode.first, episode.last
        word_zh, word_en = WORDS[first.unfit]
        told = ", ".join(
            f"{name} {figure(value, 3)}" for name, value in sorted(first.reading.fitness.items())
        )
        zh = f"摄像头 {self.subject}：{word_zh}，无法判断" + (f"（{told}）" if told else "")
        en = f"Camera {self.subject} is {word_en}: nothing can be judged"
        en += f" ({told})" if told else ""
        if closed_at is not None:
            lasting_zh, lasting_en = lasting(closed_at - first.at)
            zh += f"，持续 {lasting_zh}，" + ("其后画面中断" if cut else "已恢复或原因改变")
            en += f", for {lasting_en}, then " + (
                "no frames" if cut else "fit again, or for another reason not"
            )
        looks = [("first", first)]
        if last.at > first.at:
            looks.append(("last", last))
        return Finding(
            rule=RULE,
            kind=KIND,
            site=self.site,
            subject=self.subject,
            opened_at=first.at,
            closed_at=closed_at,
            severity=Severity.WARNING,
            measured=dict(sorted(first.reading.fitness.items())),
            message_zh=zh,
            message_en=en,
            evidence=tuple(_evidence(role, sight.reading) for role, sight in looks),
        )


def _evidence(role: str, reading: Detections) -> Evidence:
    return Evidence(
        device=reading.device,
        observed_at=reading.observed_at,
        source=reading.source,
        role=role,
        values=dict(sorted(reading.fitness.items())),
        frame_sha256=reading.frame_sha256,
        model_sha256=reading.model_sha256,
    )
