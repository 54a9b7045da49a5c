import pytest

from alerts.life import Event
from alerts.routing import Decision, Occurrence, Party, Reason, route

BUILDER = Party(organisation="builder", recipient="builder-hook")
BUREAU = Party(organisation="bureau", recipient="bureau-hook")


@pytest.mark.parametrize(
    ("occurrence", "reason"),
    [
        (Occurrence(event=Event.OPENED), Reason.OPENED),
        (Occurrence(event=Event.CLOSED), Reason.CLOSED),
        (Occurrence(event=Event.CLOSED, severity_rose=True), Reason.CLOSED),
        (Occurrence(event=Event.WITHDRAWN), Reason.WITHDRAWN),
        (Occurrence(event=Event.AMENDED, severity_rose=True), Reason.SEVERITY_ROSE),
        (Occurrence(event=Event.AMENDED, reopened=True), Reason.REOPENED),
    ],
)
def test_told_to_both(occurrence: Occurrence, reason: Reason) -> None:
    assert route(occurrence, [BUILDER, BUREAU]) == [
        Decision(tell=True, reason=reason, organisation="builder", recipient="builder-hook"),
        Decision(tell=True, reason=reason, organisation="bureau", recipient="bureau-hook"),
    ]


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (Event.AMENDED, Reason.NOTHING_NEW),
        (Event.ACKNOWLEDGED, Reason.PEOPLES_STEP),
        (Event.RECTIFIED, Reason.PEOPLES_STEP),
        (Event.CONFIRMED, Reason.PEOPLES_STEP),
    ],
)
def test_told_to_nobody(event: Event, reason: Reason) -> None:
    assert route(Occurrence(event=event), [BUILDER, BUREAU]) == [
        Decision(tell=False, reason=reason)
    ]


def test_who_is_contractor_and_regulator_at_once_is_told_once() -> None:
    assert len(route(Occurrence(event=Event.OPENED), [BUREAU, BUREAU])) == 1


def test_every_recipient_of_an_organisation_is_told() -> None:
    second = Party(organisation="bureau", recipient="bureau-night")
    decided = route(Occurrence(event=Event.OPENED), [BUREAU, second])
    assert [decision.recipient for decision in decided if decision.tell] == [
        "bureau-hook",
        "bureau-night",
    ]


def test_why_nobody_is_told() -> None:
    none = Party(organisation="builder", recipient=None)
    gone = Party(organisation="bureau", recipient="bureau-hook", disabled=True)
    assert route(Occurrence(event=Event.OPENED), [none, gone]) == [
        Decision(tell=False, reason=Reason.NO_RECIPIENT, organisation="builder"),
        Decision(
            tell=False,
            reason=Reason.RECIPIENT_DISABLED,
            organisation="bureau",
            recipient="bureau-hook",
        ),
    ]
