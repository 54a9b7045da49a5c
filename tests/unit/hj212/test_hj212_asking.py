"""One command to a device, from its first sending to what became of it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from device_profiles.hj212.asking import Asking, State
from device_profiles.hj212.commands import (
    Command,
    ExeRtn,
    QnRtn,
    execution_answer,
    period,
    request_answer,
)
from device_profiles.hj212.crc import Checksum
from device_profiles.hj212.frames import Frame, Tolerance
from tests.unit.hj212.hj212_wire import MINUTE, one_frame, wire

AT = datetime(2026, 11, 21, 8, 0, tzinfo=UTC)
MN = "SITE00417000000000000931"
SPAN = period(Command.MINUTE_DATA, AT, AT)


def asking(cn: str = Command.SET_CLOCK) -> Asking:
    groups = SPAN if cn == Command.MINUTE_DATA else ()
    return Asking(cn, groups, mn=MN, pw="424242", at=AT, now_s=0.0, timeout_s=10.0, patience_s=60.0)


def sent(one: Asking) -> Frame:
    return one_frame(one.frame)


def test_a_command_says_what_a_device_wants_to_hear() -> None:
    frame = sent(asking(Command.MINUTE_DATA))
    assert (frame.cn, frame.mn, frame.pw, frame.st) == ("2051", MN, "424242", "39")
    assert frame.qn == "20261121160000000"
    assert frame.answer_wanted
    assert frame.cp_groups == [{"BeginTime": "20261121160000"}, {"EndTime": "20261121160000"}]
    other = Asking("1011", mn=MN, pw="1", at=AT, now_s=0, st="22", version=0, kind=Checksum.SWAPPED)
    frame = one_frame(other.frame, *Tolerance)
    assert (frame.st, frame.version, frame.checksum) == ("22", 0, Checksum.SWAPPED)


def test_done_is_promised_first_and_then_told() -> None:
    one = asking()
    assert one.hear(one_frame(request_answer(sent(one))), 1.0)
    assert (one.state, one.due_at, one.request) == (State.PROMISED, 61.0, QnRtn.READY)
    assert one.hear(one_frame(execution_answer(sent(one))), 2.0)
    assert (one.state, one.result, one.is_over) == (State.DONE, ExeRtn.DONE, True)
    assert not one.hear(one_frame(execution_answer(sent(one), ExeRtn.FAILED)), 3.0)
    assert one.state is State.DONE


def test_the_result_alone_is_enough() -> None:
    one = asking()
    assert one.hear(one_frame(execution_answer(sent(one), ExeRtn.BUSY)), 1.0)
    assert (one.state, one.result) == (State.FAILED, ExeRtn.BUSY)


def test_a_device_may_refuse() -> None:
    one = asking()
    assert one.hear(one_frame(request_answer(sent(one), QnRtn.BAD_PW)), 1.0)
    assert (one.state, one.request) == (State.REFUSED, QnRtn.BAD_PW)


def test_without_an_answer_it_is_sent_three_times_more() -> None:
    one = asking()
    assert one.overdue(9.9) is None
    assert [one.overdue(10.0 * place) for place in (1, 2, 3)] == [one.frame] * 3
    assert (one.sendings, one.state) == (4, State.SENT)
    assert one.overdue(40.0) is None
    assert one.state is State.UNANSWERED
    assert one.overdue(50.0) is None


def test_what_is_promised_is_not_asked_for_again() -> None:
    one = asking()
    one.hear(one_frame(request_answer(sent(one))), 5.0)
    states = []
    for now_s in (64.9, 65.0):
        assert one.overdue(now_s) is None
        states.append(one.state)
    assert states == [State.PROMISED, State.UNANSWERED]


def test_data_of_the_past_are_counted_and_keep_it_waiting() -> None:
    one = asking(Command.MINUTE_DATA)
    data = one_frame(wire(MINUTE))
    # Until the device has answered they may be what it sends every minute.
    assert one.hear(data, 5.0)
    assert (one.state, one.content, one.due_at) == (State.SENT, 1, 10.0)
    one.hear(one_frame(request_answer(sent(one))), 6.0)
    assert one.hear(data, 30.0)
    assert (one.state, one.content, one.due_at) == (State.PROMISED, 2, 90.0)


def test_a_question_about_the_device_ends_with_its_content() -> None:
    one = asking(Command.CLOCK)
    answer = wire(f"QN={one.qn};ST=39;CN=1011;PW=424242;MN={MN};Flag=4;CP=&&SystemTime=1&&")
    assert one.hear(one_frame(answer), 1.0)
    assert (one.state, one.content) == (State.DONE, 1)


@pytest.mark.parametrize(
    "frame",
    [
        f"QN=20261121160000001;ST=91;CN=9011;PW=424242;MN={MN};Flag=4;CP=&&QnRtn=1&&",
        f"QN=20261121160000000;ST=91;CN=9011;PW=424242;MN={MN};Flag=4;CP=&&&&",
        f"QN=20261121160000000;ST=91;CN=9012;PW=424242;MN={MN};Flag=4;CP=&&ExeRtn=x&&",
        f"QN=20261121160000000;ST=39;CN=2011;PW=424242;MN={MN};Flag=5;CP=&&DataTime=1&&",
    ],
    ids=["another QN", "no number", "no digits", "another command"],
)
def test_what_is_no_answer_changes_nothing(frame: str) -> None:
    one = asking()
    assert not one.hear(one_frame(wire(frame)), 1.0)
    assert (one.state, one.due_at) == (State.SENT, 10.0)
