from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from alerts.retries import JITTER, MAX_RETRY_AFTER, SCHEDULE, Answer, Outcome, decide

NOW = datetime(2026, 11, 21, 2, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("answer", "outcome", "error"),
    [
        (Answer(200), Outcome.DELIVERED, None),
        (Answer(204), Outcome.DELIVERED, None),
        (Answer(301), Outcome.RETRY, "HTTP 301 (redirects are not followed)"),
        (Answer(307), Outcome.RETRY, "HTTP 307 (redirects are not followed)"),
        (Answer(400, "'no'"), Outcome.RETRY, "HTTP 400: 'no'"),
        (Answer(401), Outcome.RETRY, "HTTP 401"),
        (Answer(404), Outcome.RETRY, "HTTP 404"),
        (Answer(410), Outcome.GONE, "HTTP 410: the recipient is gone"),
        (Answer(429), Outcome.RETRY, "HTTP 429"),
        (Answer(500), Outcome.RETRY, "HTTP 500"),
        (Answer(None, "no answer within 15 s"), Outcome.RETRY, "no answer within 15 s"),
    ],
)
def test_what_an_answer_means(answer: Answer, outcome: Outcome, error: str | None) -> None:
    verdict = decide(answer, 1, NOW, 0)
    assert (verdict.outcome, verdict.error) == (outcome, error)
    assert (verdict.next_attempt_at is not None) == (outcome is Outcome.RETRY)


def test_the_schedule() -> None:
    now, pauses = NOW, []
    for attempt in range(1, len(SCHEDULE)):
        verdict = decide(Answer(500), attempt, now, 0)
        assert verdict.next_attempt_at is not None
        pauses.append(verdict.next_attempt_at - now)
        now = verdict.next_attempt_at
    assert [pause.total_seconds() for pause in pauses] == [
        5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400,
    ]  # fmt: skip
    last = decide(Answer(500, "'down'"), 10, now, 0)
    assert last.outcome is Outcome.GAVE_UP
    assert last.error == "gave up after 10 attempts: HTTP 500: 'down'"


def test_after_more_attempts_than_planned_it_still_ends() -> None:
    assert decide(Answer(500), 25, NOW, 0).outcome is Outcome.GAVE_UP
    assert decide(Answer(200), 25, NOW, 0).outcome is Outcome.DELIVERED


def test_jitter_only_delays() -> None:
    verdict = decide(Answer(500), 2, NOW, 1.0)
    assert verdict.next_attempt_at == NOW + timedelta(minutes=5) * (1 + JITTER)


@pytest.mark.parametrize(
    ("header", "pause"),
    [
        ("60", timedelta(seconds=60)),
        (" 60 ", timedelta(seconds=60)),
        ("1", timedelta(seconds=5)),
        ("999999999", MAX_RETRY_AFTER),
        ("9" * 60, timedelta(seconds=5)),
        ("-5", timedelta(seconds=5)),
        ("soon", timedelta(seconds=5)),
        ("", timedelta(seconds=5)),
        ("٦٠", timedelta(seconds=5)),
        ("x" * 10_000, timedelta(seconds=5)),
        (format_datetime(NOW + timedelta(minutes=2), usegmt=True), timedelta(minutes=2)),
        (format_datetime(NOW - timedelta(minutes=2), usegmt=True), timedelta(seconds=5)),
        ("Fri, 31 Dec 9999 23:59:59 GMT", MAX_RETRY_AFTER),
        ("Sat, 21 Nov 2026 02:02:00 -0000", timedelta(minutes=2)),
    ],
)
def test_retry_after_may_delay_within_bounds(header: str, pause: timedelta) -> None:
    verdict = decide(Answer(503, retry_after=header), 1, NOW, 0)
    assert verdict.next_attempt_at == NOW + pause


def test_retry_after_does_not_extend_the_number_of_attempts() -> None:
    assert decide(Answer(503, retry_after="60"), 10, NOW, 0).outcome is Outcome.GAVE_UP
