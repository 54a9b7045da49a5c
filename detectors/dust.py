"""`dust.pm10_mean`: the mean of PM10 over a sliding window is above the limit.

The window at a sample is the time up to and including it, `window_s` long, its start excluded.
The mean is the arithmetic mean of the samples in it, whatever their spacing, and only where there
are enough of them. It is exact: samples are counted in whole millionths of a µg/m³, integers add
without rounding in any order, and the mean is rounded once, to 3 decimals, before it is compared.

Only instantaneous readings count: minute and hour means of the device are other series.
"""

from __future__ import annotations

import math
from collections import deque
from datetime import datetime, timedelta
from typing import NamedTuple

from detectors.detector import Episode, Episodes, Said, Spans, check
from detectors.messages import beyond, figure, lasting, period
from detectors.rules import DustRule
from device_profiles.findings import Coverage, Evidence, Finding, Severity
from device_profiles.readings import DustReading
from device_profiles.vocabulary import DUST_QUANTITIES, Series

RULE = "dust.pm10_mean"

NO_DATA = "no_data"
MISSING_QUANTITY = "missing_quantity"
TOO_FEW_SAMPLES = "too_few_samples"
TOO_SLOW = "too_slow"
WARMING_UP = "warming_up"

_PM10 = next(quantity for quantity in DUST_QUANTITIES if quantity.name == "pm10_ug_m3")
_QUANTA = 1_000_000
_NOTABLE = 1.1
"""A peak this many times the last one said is said again: a ramp is told in a few steps."""


class _Sight(NamedTuple):
    """A sample whose window's mean was above what is allowed."""

    reading: DustReading
    mean_ug_m3: float
    samples: int

    @property
    def at(self) -> datetime:
        return self.reading.observed_at


class DustDetector:
    """Judges one dust monitor.

    Attributes:
        rule: Name of the rule.
        site: Site id.
        subject: Device id.
        lookback: The window and the longest silence that is not yet a gap.
        settled_at: Readings older than this come too late.
    """

    def __init__(
        self,
        site: str,
        device: str,
        rule: DustRule,
        expected_every_s: float,
        since: datetime | None = None,
    ) -> None:
        """Start with an empty window.

        Args:
            site: Site id.
            device: Device id of the monitor.
            rule: The settings.
            expected_every_s: How often it ought to speak: how many samples fill a window.
            since: From when on all readings are handed in; default: from the first one.
        """
        self.rule = RULE
        self.site = site
        self.subject = device
        self.settled_at = since
        self._settings = rule
        self._window = timedelta(seconds=rule.window_s)
        # Silence is a gap when it has cost the window too many samples.
        self._gap = timedelta(
            seconds=max(
                3 * expected_every_s,
                (1 - rule.min_coverage) * rule.window_s + expected_every_s,
            )
        )
        expected = rule.window_s / expected_every_s
        self._least = math.ceil(rule.min_coverage * expected - 1e-9)
        self._too_slow = expected_every_s > rule.window_s
        self._clear_ug_m3 = rule.clear_ratio * rule.limit_ug_m3
        self.lookback = self._window + self._gap
        self._since = since
        self._samples: deque[tuple[datetime, int]] = deque()
        self._sum = 0
        self._sample_at = since  # the last sample
        self._heard_at = since  # the last reading, with or without PM10
        self._held: str | None = WARMING_UP  # what the last sample decided, until the next
        self._spans = Spans(RULE, self.site, self.subject, since)
        self._episodes: Episodes[_Sight] = Episodes(
            max(timedelta(seconds=rule.bridge_s), self._gap),
            worse=lambda one, other: one.mean_ug_m3 > other.mean_ug_m3,
            notable=lambda one, other: one.mean_ug_m3 >= _NOTABLE * other.mean_ug_m3,
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

    def observe(self, reading: DustReading) -> list[Said]:
        """Take the next reading; see `detectors.detector.Detector`."""
        at = reading.observed_at
        if reading.series != Series.INSTANT:
            return []
        check(self, reading, (self.subject,))
        self.settled_at = at
        if self._since is None:
            self._since = self._sample_at = self._heard_at = at
            self._spans.mark(at, None)
        pm10 = reading.pm10_ug_m3
        sampled = pm10 is not None and _PM10.low <= pm10 <= _PM10.high
        said = self._pass(at, sampled=sampled)
        self._heard_at = at
        # Of two samples with equal time the first stays, as in the store.
        if pm10 is not None and sampled and not (self._samples and self._samples[-1][0] == at):
            self._samples.append((at, round(pm10 * _QUANTA)))
            self._sum += self._samples[-1][1]
            self._sample_at = at
            said += self._judge(reading)
        return said

    def advance(self, now: datetime) -> list[Said]:
        """Notice silence; see `detectors.detector.Detector`."""
        return self._lapse(now) + self._silence(now)

    def finish(self, at: datetime) -> list[Said]:
        """End what is pending; see `detectors.detector.Detector`."""
        if self.settled_at is None:
            return []
        self.settled_at = max(at, self.settled_at)
        said = self._pass(self.settled_at, sampled=True)
        return said + self._episodes.cut() + self._spans.flush()

    def _pass(self, at: datetime, *, sampled: bool) -> list[Said]:
        """Account for the time up to a reading."""
        said = self._lapse(at)
        if self._sample_at is None or self._heard_at is None:
            return said
        if at - self._sample_at < self._gap:
            return said + (self._spans.mark(at, self._held) if sampled else [])
        silent = at - self._heard_at >= self._gap
        said += self._spans.mark(self._heard_at, MISSING_QUANTITY)
        said += self._spans.mark(at, NO_DATA if silent else MISSING_QUANTITY)
        self._episodes.interrupted()
        return said

    def _lapse(self, now: datetime) -> list[Said]:
        """Close the episode whose evidence ran out."""
        lapsed_at = self._episodes.lapsed_at(now)
        if lapsed_at is None:
            return []
        self._settle(lapsed_at)
        return self._episodes.cut()

    def _silence(self, now: datetime) -> list[Said]:
        """Say what is settled when samples, or all readings, have been missing too long."""
        if self._sample_at is None or self._heard_at is None or now - self._sample_at < self._gap:
            return []
        self._settle(self._sample_at + self._gap)
        said = self._spans.mark(self._heard_at, MISSING_QUANTITY)
        deadline = self._heard_at + self._gap
        if now >= deadline:
            self._settle(deadline)
            said += self._spans.mark(deadline, NO_DATA)
        return said

    def _settle(self, instant: datetime) -> None:
        if self.settled_at is None or instant > self.settled_at:
            self.settled_at = instant

    def _judge(self, reading: DustReading) -> list[Said]:
        """Decide on the window that ends with a sample."""
        at = reading.observed_at
        samples = self._samples
        start = at - self._window
        while samples[0][0] <= start:
            self._sum -= samples.popleft()[1]
        if self._too_slow:
            self._held = TOO_SLOW
        elif self._since is not None and start < self._since:
            self._held = WARMING_UP
        elif len(samples) < self._least:
            self._held = TOO_FEW_SAMPLES
        else:
            self._held = None
        if self._held is not None:
            self._episodes.interrupted()
            return []
        mean_ug_m3 = round(self._sum / (len(samples) * _QUANTA), 3)
        if mean_ug_m3 > (self._clear_ug_m3 if self.open else self._settings.limit_ug_m3):
            return self._episodes.violated(_Sight(reading, mean_ug_m3, len(samples)))
        return self._episodes.kept(at)

    def _finding(self, episode: Episode[_Sight], closed_at: datetime | None, cut: bool) -> Finding:
        settings, peak = self._settings, episode.peak
        opened_at = episode.first.at
        mean = beyond(peak.mean_ug_m3, settings.limit_ug_m3)
        limit = figure(settings.limit_ug_m3, 3)
        window_zh, window_en = period(settings.window_s)
        most_zh, most_en = ("", "") if closed_at is None else ("最高", " up to")
        zh = f"扬尘监测点 {self.subject}：PM10 {window_zh}均值{most_zh} {mean} µg/m³，限值 {limit}"
        en = (
            f"Dust monitor {self.subject}: {window_en} mean of PM10{most_en} {mean} µg/m³,"
            f" limit {limit}"
        )
        if closed_at is not None:
            lasting_zh, lasting_en = lasting(closed_at - opened_at)
            zh += f"，持续 {lasting_zh}，" + ("其后数据中断" if cut else "已恢复")
            en += f", for {lasting_en}, then " + ("no data" if cut else "back within the limit")
        return Finding(
            rule=RULE,
            kind="dust",
            site=self.site,
            subject=self.subject,
            opened_at=opened_at,
            closed_at=closed_at,
            severity=Severity.WARNING,
            measured={
                "mean_ug_m3": peak.mean_ug_m3,
                "limit_ug_m3": settings.limit_ug_m3,
                "window_s": settings.window_s,
                "samples": float(peak.samples),
            },
            message_zh=zh,
            message_en=en,
            evidence=(
                _evidence("first", episode.first),
                _evidence("peak", peak),
                _evidence("last", episode.last),
            ),
        )


def _evidence(role: str, sight: _Sight) -> Evidence:
    reading = sight.reading
    return Evidence(
        device=reading.device,
        observed_at=reading.observed_at,
        source=reading.source,
        role=role,
        values={
            "pm10_ug_m3": round(reading.pm10_ug_m3 or 0.0, 3),
            "mean_ug_m3": sight.mean_ug_m3,
        },
    )
