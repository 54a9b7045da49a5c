"""What detectors say: findings about what was wrong, coverage about what could be judged."""

from __future__ import annotations

import hashlib
from datetime import datetime
from enum import StrEnum

import msgspec

from device_profiles.readings import Source


class Severity(StrEnum):
    """How much a finding matters to people."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


class Evidence(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A pointer from a finding to a stored reading or frame.

    Attributes:
        device: Device id within the finding's site.
        observed_at: Time of the reading or frame; aware, UTC.
        source: Where the raw bytes lie.
        role: Why it is here: "first", "peak", "last", "confirmation"; of a device's health "status"
            (what was said of it) and "next" (what ended it).
        values: The quantities that mattered, by name.
        frame_sha256: Hash of the original picture, for frames.
        model_sha256: Hash of the model that looked, for frames.
        boxes: The boxes that mattered, for frames: label, score, x1, y1, x2, y2 in pixels.
    """

    device: str
    observed_at: datetime
    source: Source
    role: str
    values: dict[str, float] = {}
    frame_sha256: str | None = None
    model_sha256: str | None = None
    boxes: tuple[tuple[str, float, float, float, float, float], ...] = ()


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """This rule, this subject, from when to when, with this evidence.

    A detector says the same finding again whenever it has changed: when it opens, when it
    grows worse, when it closes. What identifies it are `rule`, `site`, `subject` and the time.

    Attributes:
        rule: Name of the rule, "dust.pm10_mean".
        kind: "dust", "crane", "helmet", "vest", "presence", "reported" or "device_health": what
            people sort by.
        site: Site id.
        subject: What it is about: a device, a pair of devices joined by "+", a track on a camera.
        opened_at: When the violation began, by the readings; aware, UTC.
        closed_at: When it ended; None while it lasts.
        severity: How much it matters.
        measured: The figures that decide, units in the names: the mean, the limit, the distance.
        message_zh: One sentence for site people.
        message_en: The same in English.
        evidence: What it rests on, ordered by time.
    """

    rule: str
    kind: str
    site: str
    subject: str
    opened_at: datetime
    closed_at: datetime | None = None
    severity: Severity = Severity.WARNING
    measured: dict[str, float] = {}
    message_zh: str = ""
    message_en: str = ""
    evidence: tuple[Evidence, ...] = ()

    @property
    def identity(self) -> str:
        """The id of the episode: the same bytes always give the same id.

        Returns:
            32 hexadecimal characters of the SHA-256 over rule, site, subject and opening time.
        """
        text = "\x1f".join((self.rule, self.site, self.subject, self.opened_at.isoformat()))
        return hashlib.sha256(text.encode()).hexdigest()[:32]


class Coverage(msgspec.Struct, frozen=True, kw_only=True):
    """From when to when a rule could, or could not, judge a subject.

    A gap is never "compliant" and never "violation": it is not evaluable, with the reason.

    Attributes:
        rule: Name of the rule.
        site: Site id.
        subject: What was to be judged.
        from_at: Start; aware, UTC.
        to_at: End, exclusive; aware, UTC.
        reason: Why it was not evaluable; None where it was evaluated.
    """

    rule: str
    site: str
    subject: str
    from_at: datetime
    to_at: datetime
    reason: str | None = None

    @property
    def evaluated(self) -> bool:
        """Whether the rule could judge."""
        return self.reason is None
