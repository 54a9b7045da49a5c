"""Findings and violations of one site, a minute apart."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from alerts.evidence import unresolved
from alerts.life import State, Violation
from device_profiles.findings import Evidence, Finding, Severity
from device_profiles.readings import Source

T0 = datetime(2026, 11, 21, 2, 0, tzinfo=UTC)
"""Ten o'clock in the morning in Shanghai."""


def at(minutes: float) -> datetime:
    return T0 + timedelta(minutes=minutes)


def evidence(minutes: float, role: str = "first", index: int = 0, value: float = 91.5) -> Evidence:
    return Evidence(
        device="dust-1",
        observed_at=at(minutes),
        source=Source(1, 7, index),
        role=role,
        values={"pm10_ug_m3": value},
    )


def finding(
    opened: float = 0,
    closed: float | None = None,
    *,
    known: float | None = None,
    severity: Severity = Severity.WARNING,
    subject: str = "dust-1",
    site: str = "site-1",
    mean: float = 88.25,
) -> Finding:
    """A dust finding; `known` is the minute of its last evidence while it lasts."""
    last = closed if closed is not None else known
    entries = [evidence(opened)]
    if last is not None and last != opened:
        entries.append(evidence(last, "last", index=1))
    return Finding(
        rule="dust.pm10_mean",
        kind="dust",
        site=site,
        subject=subject,
        opened_at=at(opened),
        closed_at=None if closed is None else at(closed),
        severity=severity,
        measured={"mean_ug_m3": mean, "limit_ug_m3": 80.0},
        message_zh="PM10 均值超标",
        message_en="PM10 mean above the limit",
        evidence=tuple(entries),
    )


def violation(said: Finding, state: State = State.OPEN) -> Violation:
    """The violation that booking this finding gives."""
    return Violation(
        id=said.identity,
        rule=said.rule,
        kind=said.kind,
        site=said.site,
        subject=said.subject,
        state=state,
        severity=said.severity,
        opened_at=said.opened_at,
        closed_at=said.closed_at,
        measured=said.measured,
        message_zh=said.message_zh,
        message_en=said.message_en,
        evidence=unresolved(said.evidence),
    )
