"""`device.reported`: what a device's own AI says it saw, and what our model makes of its picture.

A report is confirmed where our model finds the same on that very picture (the same hash),
contradicted where it looked, could see, and finds none of it, and not looked at where there is no
picture, none that was looked at within `wait_s`, none on which anything could be seen, or nothing
our model knows of such things. Where the report says where, what our model finds has to be there.

Reports of one kind that follow one another within `cooldown_s` are one violation, not four hundred:
it says the best that became of any of them. Reports and looks may come in any order within
`wait_s`; they are decided in the order of their own times.
"""

from __future__ import annotations

import bisect
from collections import deque
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum
from typing import NamedTuple

from detectors.confirming import BLIND, fits
from detectors.detector import Said, Spans, check
from detectors.helmets import HEAD, PERSON, doubted, heads_of
from detectors.messages import lasting
from detectors.rules import ReportedRule
from detectors.tracks import Corners
from detectors.vests import NO_VEST
from detectors.vision.zones import centre_of
from device_profiles.findings import Coverage, Evidence, Finding, Severity
from device_profiles.readings import Detections, Reading, Reported

RULE = "device.reported"

NO_HELMET = "no_helmet"
NO_VEST_WORN = "no_vest"
INTRUSION = "intrusion"

KINDS = {NO_HELMET: "helmet", NO_VEST_WORN: "vest", INTRUSION: "presence"}
"""What findings are sorted by; any other report is of the kind "reported"."""

WORDS = {
    NO_HELMET: ("未戴安全帽", "no helmet"),
    NO_VEST_WORN: ("未穿反光衣", "no vest"),
    INTRUSION: ("人员闯入", "intrusion"),
    "smoke_fire": ("烟火", "smoke or fire"),
}

_GROWN = 0.5
"""What a device marks and what our model finds are the same place when the middle of ours lies in
the device's box, grown by this share of its size on every side."""


class Verdict(IntEnum):
    """What our model makes of a report; the higher, the more is known."""

    NOT_LOOKED_AT = 0
    CONTRADICTED = 1
    CONFIRMED = 2


_VERDICTS = {
    Verdict.NOT_LOOKED_AT: ("本系统模型未查看", "not looked at by our model"),
    Verdict.CONTRADICTED: ("本系统模型否定", "contradicted by our model"),
    Verdict.CONFIRMED: ("本系统模型确认", "confirmed by our model"),
}


class _Decided(NamedTuple):
    report: Reported
    verdict: Verdict
    look: Detections | None
    boxes: tuple[tuple[str, Corners, float], ...]


@dataclass(slots=True, eq=False)
class _Episode:
    first: _Decided
    best: _Decided
    last: _Decided
    reports: int


class ReportedDetector:
    """Judges what one device reports.

    Attributes:
        rule: Name of the rule.
        site: Site id.
        subject: Device id; its findings are about "{device}#{what}".
        lookback: How far back a fresh detector must start.
        linger: How long after its last evidence an episode may still go on.
        settled_at: Readings older than this come too late.
    """

    def __init__(
        self, site: str, device: str, rule: ReportedRule, since: datetime | None = None
    ) -> None:
        """Start with nothing reported.

        Args:
            site: Site id.
            device: Device id.
            rule: The settings.
            since: From when on all readings are handed in; None: from the first one.
        """
        self.rule = RULE
        self.site = site
        self.subject = device
        self.settled_at = since
        self._min_score = rule.min_score
        self._wait = timedelta(seconds=rule.wait_s)
        self._cooldown = timedelta(seconds=rule.cooldown_s)
        self.linger = self._cooldown + self._wait
        self.lookback = self._cooldown + 3 * self._wait
        self._now = since
        self._reports: list[Reported] = []  # not decided yet, by their times
        self._looks: deque[Detections] = deque()
        self._episodes: dict[str, _Episode] = {}
        self._spans = Spans(RULE, site, device, since)

    @property
    def open(self) -> bool:
        """Whether a report waits for its verdict, or an episode may go on."""
        return bool(self._reports or self._episodes)

    @property
    def pending(self) -> tuple[Coverage, ...]:
        """The coverage that still grows."""
        return self._spans.pending

    def observe(self, reading: Reading) -> list[Said]:
        """Take a report, or a look at a picture; see `detectors.detector.Detector`."""
        if not isinstance(reading, Reported | Detections):
            return []
        check(self, reading, (self.subject,))
        at = reading.observed_at
        said = self._pass(at)
        said += self._spans.mark(at, None)
        if isinstance(reading, Reported):
            bisect.insort(self._reports, reading, key=_order)
        else:
            self._looks.append(reading)
        return said + self._decide()

    def advance(self, now: datetime) -> list[Said]:
        """Notice silence; see `detectors.detector.Detector`."""
        return [] if self.settled_at is None else self._pass(now)

    def finish(self, at: datetime) -> list[Said]:
        """End what is pending; see `detectors.detector.Detector`."""
        if self.settled_at is None:
            return []
        said = self._pass(at) + self._spans.mark(at, None)
        while self._reports:
            said += self._take(self._verdict(self._reports.pop(0), last=True))
        for what in sorted(self._episodes, key=lambda what: (self._last(what), what)):
            said.append(self._close(what))
        self.settled_at = max(at, self.settled_at)
        return said + self._spans.flush()

    def _pass(self, now: datetime) -> list[Said]:
        """Let time pass: what was waited for in vain, in the order in which it ran out."""
        if self._now is None or now > self._now:
            self._now = now
        self._settle(self._now - self._wait)
        said: list[Said] = []
        while True:
            waits = self._reports[0].observed_at + self._wait if self._reports else None
            ends = min(
                ((self._last(what) + self.linger, what) for what in self._episodes), default=None
            )
            if waits is not None and waits < self._now and (ends is None or waits <= ends[0]):
                said += self._take(self._verdict(self._reports.pop(0), last=True))
                said += self._decide()
            elif ends is not None and ends[0] < self._now:
                said.append(self._close(ends[1]))
            else:
                break
        while self._looks and self._looks[0].observed_at < self._now - 2 * self._wait:
            self._looks.popleft()
        return said

    def _decide(self) -> list[Said]:
        """Decide on reports whose picture was looked at, as long as none before them waits."""
        said: list[Said] = []
        while self._reports:
            report = self._reports[0]
            decided = self._verdict(report, last=report.frame_sha256 is None)
            if decided is None:
                break
            self._reports.pop(0)
            said += self._take(decided)
        return said

    def _settle(self, instant: datetime) -> None:
        if self.settled_at is None or instant > self.settled_at:
            self.settled_at = instant

    def _verdict(self, report: Reported, *, last: bool) -> _Decided | None:
        """What our model makes of a report; None while its picture may yet be looked at."""
        look = next(
            (
                look
                for look in self._looks
                if look.frame_sha256 == report.frame_sha256
                and abs(look.observed_at - report.observed_at) <= self._wait
            ),
            None,
        )
        if look is None:
            return _Decided(report, Verdict.NOT_LOOKED_AT, None, ()) if last else None
        found = _found(report.what, look, self._min_score)
        if found is None:
            return _Decided(report, Verdict.NOT_LOOKED_AT, look, ())
        there = tuple(
            one
            for one in found
            if not report.boxes or any(_near(one[1], box.box) for box in report.boxes)
        )
        if not there and look.unfit in BLIND:
            return _Decided(report, Verdict.NOT_LOOKED_AT, look, ())
        verdict = Verdict.CONFIRMED if there else Verdict.CONTRADICTED
        return _Decided(report, verdict, look, there)

    def _take(self, decided: _Decided | None) -> list[Said]:
        """Book a report that was decided on."""
        if decided is None:
            return []
        at, what = decided.report.observed_at, decided.report.what
        self._settle(at)
        said: list[Said] = []
        episode = self._episodes.get(what)
        if episode is not None and at - self._last(what) > self._cooldown:
            said.append(self._close(what))
            episode = None
        if episode is None:
            self._episodes[what] = _Episode(decided, decided, decided, 1)
            return [*said, self._finding(self._episodes[what], closed=False)]
        episode.last = decided
        episode.reports += 1
        if decided.verdict > episode.best.verdict:
            episode.best = decided
            said.append(self._finding(episode, closed=False))
        return said

    def _last(self, what: str) -> datetime:
        return self._episodes[what].last.report.observed_at

    def _close(self, what: str) -> Finding:
        return self._finding(self._episodes.pop(what), closed=True)

    def _finding(self, episode: _Episode, *, closed: bool) -> Finding:
        report, best = episode.first.report, episode.best
        word_zh, word_en = WORDS.get(report.what, (report.what, report.what))
        verdict_zh, verdict_en = _VERDICTS[best.verdict]
        zh = f"摄像头 {self.subject} 自带 AI 报告：{word_zh}（{verdict_zh}）"
        en = f"Camera {self.subject}'s own AI reports: {word_en} ({verdict_en})"
        if closed and episode.reports > 1:
            lasting_zh, lasting_en = lasting(
                episode.last.report.observed_at - episode.first.report.observed_at
            )
            zh += f"，{lasting_zh}内报告 {episode.reports} 次"
            en += f", {episode.reports} times within {lasting_en}"
        told = [("first", episode.first)]
        if best is not episode.first:
            told.append(("peak", best))
        if closed and episode.last is not best and episode.last is not episode.first:
            told.append(("last", episode.last))
        evidence = [entry for role, decided in told for entry in _evidence(role, decided)]
        measured = {
            "confirmed": float(best.verdict is Verdict.CONFIRMED),
            "contradicted": float(best.verdict is Verdict.CONTRADICTED),
            "reports": float(episode.reports),
        }
        if best.report.score is not None:
            measured["device_score"] = best.report.score
        return Finding(
            rule=RULE,
            kind=KINDS.get(report.what, "reported"),
            site=self.site,
            subject=f"{self.subject}#{report.what}",
            opened_at=report.observed_at,
            closed_at=episode.last.report.observed_at if closed else None,
            severity=Severity.WARNING if best.verdict is Verdict.CONFIRMED else Severity.INFO,
            measured=measured,
            message_zh=zh,
            message_en=en,
            evidence=tuple(sorted(evidence, key=lambda entry: entry.observed_at)),
        )


def _order(report: Reported) -> tuple[datetime, str, int, int, int]:
    source = report.source
    return report.observed_at, report.what, source.worker, source.number, source.index


def _found(
    what: str, look: Detections, min_score: float
) -> tuple[tuple[str, Corners, float], ...] | None:
    """What of a kind our model saw on a picture; None where it knows nothing of the kind."""
    if what == NO_HELMET:
        sure, _ = heads_of(look, min_score)
        return tuple((HEAD, one.box, one.score) for one in sure if one.wrong or doubted(one))
    label = {NO_VEST_WORN: NO_VEST, INTRUSION: PERSON}.get(what)
    if label is None:
        return None
    return tuple(
        (box.label, box.box, box.score)
        for box in look.boxes
        if box.label == label and box.score >= min_score and fits(box, look)
    )


def _near(ours: Corners, theirs: Corners) -> bool:
    left, top, right, bottom = theirs
    across, down = _GROWN * (right - left), _GROWN * (bottom - top)
    x, y = centre_of(ours)
    return left - across <= x <= right + across and top - down <= y <= bottom + down


def _evidence(role: str, decided: _Decided) -> list[Evidence]:
    report, look = decided.report, decided.look
    entries = [
        Evidence(
            device=report.device,
            observed_at=report.observed_at,
            source=report.source,
            role=role,
            values={} if report.score is None else {"device_score": report.score},
            frame_sha256=report.frame_sha256,
            boxes=tuple((box.label, box.score, *box.box) for box in report.boxes),
        )
    ]
    if look is not None:
        entries.append(
            Evidence(
                device=look.device,
                observed_at=look.observed_at,
                source=look.source,
                role="look",
                frame_sha256=look.frame_sha256,
                model_sha256=look.model_sha256,
                boxes=tuple((label, score, *box) for label, box, score in decided.boxes),
            )
        )
    return entries
