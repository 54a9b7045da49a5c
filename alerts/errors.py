"""What can go wrong while booking violations and telling people.

::

    AlertsError
    ├── Rejected             what was asked or sent is wrong: never retry it as it is
    │   ├── UnsoundFinding       a finding that contradicts itself
    │   ├── UnknownSite
    │   ├── UnknownViolation
    │   ├── IllegalTransition    a step the violation's life does not have
    │   └── SignatureRejected    a webhook that is not from who it says, or too old
    └── Misconfigured        it will not work until a person changes something
        ├── SecretUnusable       a recipient's secret is missing or malformed
        └── DeliverySettingsUnusable

The third kind, *unavailable*, is the database's here: `ingest.errors.DatabaseUnavailable`. A
recipient that does not answer is no exception but an outcome: see `alerts.retries`.
"""

from __future__ import annotations


class AlertsError(Exception):
    """Root of the errors of this package."""


class Rejected(AlertsError):  # noqa: N818 - one of the three kinds of error by name
    """What was asked or sent is wrong and will be wrong every time."""


class UnsoundFinding(Rejected):
    """A finding contradicts itself, or holds what cannot be stored."""


class UnknownSite(Rejected):
    """No site of this id is registered."""


class UnknownViolation(Rejected):
    """No violation of this id is booked."""


class IllegalTransition(Rejected):
    """The violation's life has no such step.

    Attributes:
        violation_id: Which violation.
        state: The state it is in.
        event: The step that was asked for.
    """

    def __init__(self, violation_id: str, state: str, event: str, why: str) -> None:
        super().__init__(f"violation {violation_id} is {state}: it cannot be {event}: {why}")
        self.violation_id = violation_id
        self.state = state
        self.event = event


class SignatureRejected(Rejected):
    """A webhook's headers or signature do not hold."""


class Misconfigured(AlertsError):  # noqa: N818 - one of the three kinds of error by name
    """It will not work until a person changes something."""


class SecretUnusable(Misconfigured):
    """A secret is missing or malformed; the message names where, never what."""


class DeliverySettingsUnusable(Misconfigured):
    """The delivery settings contradict each other."""
