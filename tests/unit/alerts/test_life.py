from itertools import product

import pytest

from alerts.errors import IllegalTransition
from alerts.life import STEPS, Event, State, step

REASON = {"reason": "the sensor was being calibrated"}


@pytest.mark.parametrize(("state", "event"), list(product(State, Event)))
def test_every_step_is_legal_or_refused(state: State, event: Event) -> None:
    legal: dict[tuple[State, Event], State] = {
        (State.OPEN, Event.ACKNOWLEDGED): State.ACKNOWLEDGED,
        (State.ACKNOWLEDGED, Event.RECTIFIED): State.RECTIFIED,
        (State.RECTIFIED, Event.CONFIRMED): State.CONFIRMED,
        **{
            (from_, Event.WITHDRAWN): State.WITHDRAWN
            for from_ in State
            if from_ is not State.WITHDRAWN
        },
    }
    assert legal == STEPS
    if (state, event) in legal:
        assert step("v", state, event, REASON) is legal[state, event]
    else:
        with pytest.raises(IllegalTransition) as fault:
            step("v", state, event, REASON)
        assert fault.value.violation_id == "v"
        assert str(state) in str(fault.value)
        assert str(event) in str(fault.value)


@pytest.mark.parametrize("detail", [{}, {"reason": ""}, {"reason": "  "}, {"reason": 5}])
def test_a_withdrawal_needs_a_reason(detail: dict[str, object]) -> None:
    with pytest.raises(IllegalTransition, match="needs a reason"):
        step("v", State.OPEN, Event.WITHDRAWN, detail)


@pytest.mark.parametrize("text", ["a\0b", "\ud800"])
def test_what_no_database_holds_is_refused(text: str) -> None:
    with pytest.raises(IllegalTransition, match="cannot be stored"):
        step("v", State.OPEN, Event.ACKNOWLEDGED, {"note": text})


def test_from_withdrawn_it_goes_nowhere() -> None:
    with pytest.raises(IllegalTransition, match="from here it goes nowhere"):
        step("v", State.WITHDRAWN, Event.ACKNOWLEDGED, {})
