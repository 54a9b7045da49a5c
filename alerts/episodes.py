"""Which violation a finding speaks of, and what it changes about it. Pure.

A run over more complete data may give an episode another opening, so a finding is found again by
time: same rule, site and subject, and the spans overlap. Spans are half-open, so one episode may
begin where another ended.

- A booked violation that lasts reaches into the future: of one subject only one can last.
- A finding that lasts reaches as far as its evidence. What it says is what was known then: a
  replay says again "it opened", and that must not reopen what is long closed.
- A finding that has ended speaks of its whole episode, and always counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from alerts.errors import UnsoundFinding
from alerts.life import SEVERITY_RANK, Event, State, Violation, storable
from device_profiles.errors import shown
from device_profiles.findings import Evidence, Finding


def reach(
    opened_at: datetime, closed_at: datetime | None, evidence: Iterable[Evidence]
) -> datetime:
    """How far in time something is known of an episode.

    Args:
        opened_at: Its beginning.
        closed_at: Its end, or None.
        evidence: What it rests on.

    Returns:
        The end; while it lasts, the time of the last evidence.
    """
    if closed_at is not None:
        return closed_at
    return max((opened_at, *(entry.observed_at for entry in evidence)))


@dataclass(frozen=True, slots=True)
class Match:
    """Which booked violations a finding speaks of.

    Attributes:
        same: The violation to amend; None where the finding is new.
        merged: Further violations that turn out to be parts of the same episode.
    """

    same: Violation | None
    merged: tuple[Violation, ...] = ()


def match(finding: Finding, booked: Sequence[Violation]) -> Match:
    """Find the episode again.

    A withdrawn violation is found again by its id or its opening only, so that what a person
    withdrew does not come back with the next replay.

    Args:
        finding: What a detector says; checked.
        booked: Violations of the same rule, site and subject near it in time, withdrawn included.

    Returns:
        The violation of the same id, else the earliest that overlaps; others that overlap are to
        be merged into it.
    """
    living = [one for one in booked if one.state is not State.WITHDRAWN]
    overlapping = [one for one in living if _overlap(finding, one)]
    overlapping.sort(key=lambda one: (one.id != finding.identity, one.opened_at, one.id))
    if overlapping:
        return Match(overlapping[0], tuple(overlapping[1:]))
    for one in booked:
        if one.id == finding.identity or one.opened_at == finding.opened_at:
            return Match(one)
    return Match(None)


def _overlap(finding: Finding, violation: Violation) -> bool:
    if violation.id == finding.identity or violation.opened_at == finding.opened_at:
        return True
    if finding.closed_at is None and violation.closed_at is None:
        return True
    known = reach(finding.opened_at, finding.closed_at, finding.evidence)
    return violation.opened_at < known and (
        violation.closed_at is None or violation.closed_at > finding.opened_at
    )


@dataclass(frozen=True, slots=True)
class Amendment:
    """What a finding changes about a booked violation.

    Attributes:
        event: `closed` where it ends what lasted, else `amended`.
        changed: Old and new of every figure that changed, by name; evidence and measured
            figures are named without their values.
        severity_rose: Whether it became worse.
        reopened: Whether what had ended goes on after all.
    """

    event: Event
    changed: dict[str, object]
    severity_rose: bool
    reopened: bool


def amendment(violation: Violation, finding: Finding, *, anew: bool = False) -> Amendment | None:
    """Compare a finding with the violation it speaks of.

    Args:
        violation: The booked violation, not withdrawn.
        finding: What a detector says of it.
        anew: Whether it comes of a run over all that is known by now: then it counts also where
            it reaches less far than what is booked.

    Returns:
        What changes; None when nothing material does, or when the finding knows less than what
        is booked.
    """
    if finding.closed_at is None and not anew:
        known = reach(finding.opened_at, None, finding.evidence)
        stored = reach(violation.opened_at, violation.closed_at, violation.evidence)
        if known < stored or (violation.closed_at is not None and known == stored):
            return None
    changed: dict[str, object] = {}
    for name in ("opened_at", "closed_at", "severity"):
        old, new = getattr(violation, name), getattr(finding, name)
        if old != new:
            changed[name] = [old, new]
    for name in ("measured", "evidence"):
        old = getattr(violation, name)
        if name == "evidence":
            old = tuple(entry.pointer for entry in violation.evidence)
        if old != getattr(finding, name):
            changed[name] = "changed"
    if not changed:
        return None
    ended = violation.closed_at is None and finding.closed_at is not None
    return Amendment(
        event=Event.CLOSED if ended else Event.AMENDED,
        changed=changed,
        severity_rose=SEVERITY_RANK[finding.severity] > SEVERITY_RANK[violation.severity],
        reopened=violation.closed_at is not None and finding.closed_at is None,
    )


def latest(findings: Iterable[Finding]) -> list[Finding]:
    """Keep what was said last of each episode.

    Args:
        findings: In the order they were said.

    Returns:
        One finding per identity, each in the place of its last saying.
    """
    last: dict[str, Finding] = {}
    for finding in findings:
        last.pop(finding.identity, None)
        last[finding.identity] = finding
    return list(last.values())


def require_sound(finding: Finding) -> None:
    """Refuse what could not be booked or would not mean anything.

    Args:
        finding: What a detector says.

    Raises:
        UnsoundFinding: A time without zone, an end before the beginning, a figure that is not a
            number, an empty name, or text no database holds.
    """
    who = f"{finding.rule!r} about {finding.site}/{finding.subject!r}"
    for name in ("rule", "kind", "site", "subject"):
        if not getattr(finding, name):
            raise UnsoundFinding(f"finding of {who}: {name} is empty")
    times = [("opened_at", finding.opened_at), ("closed_at", finding.closed_at)]
    times += [("evidence", entry.observed_at) for entry in finding.evidence]
    for name, time in times:
        if time is not None and time.utcoffset() is None:
            raise UnsoundFinding(f"finding of {who}: {name} {time} has no zone")
    if finding.closed_at is not None and finding.closed_at < finding.opened_at:
        raise UnsoundFinding(
            f"finding of {who}: closed_at {finding.closed_at} lies before {finding.opened_at}"
        )
    for name, figure in _figures(finding):
        if not math.isfinite(figure):
            raise UnsoundFinding(f"finding of {who}: {name} is {figure}")
    for text in _texts(finding):
        if not storable(text):
            raise UnsoundFinding(f"finding of {who}: {shown(text)} cannot be stored as text")


def _figures(finding: Finding) -> Iterator[tuple[str, float]]:
    yield from finding.measured.items()
    for entry in finding.evidence:
        yield from entry.values.items()
        for label, *numbers in entry.boxes:
            yield from ((label, number) for number in numbers)


def _texts(finding: Finding) -> Iterator[str]:
    yield from (finding.rule, finding.kind, finding.site, finding.subject)
    yield from (finding.message_zh, finding.message_en, *finding.measured)
    for entry in finding.evidence:
        yield from (entry.device, entry.role, *entry.values)
        yield from (box[0] for box in entry.boxes)
        yield from filter(None, (entry.frame_sha256, entry.model_sha256))
