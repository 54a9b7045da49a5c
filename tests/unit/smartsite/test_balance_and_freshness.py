"""The sum of the balance, and when data are called fresh."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartsite.balance import FATES, Balance, align
from smartsite.bench.ingest import Result, median_of
from smartsite.health import WORKS_OFF, judge_freshness

counts = st.integers(0, 10**12)


@given(st.lists(counts, min_size=6, max_size=6), counts, st.integers(-5, 5))
def test_a_balance_adds_up_only_if_nothing_is_missing(
    fates: list[int], redelivered: int, off: int
) -> None:
    counted = dict(zip(FATES, fates, strict=True))
    balance = Balance(received=sum(fates) + off, redelivered=redelivered, **counted)
    assert balance.adds_up == (off == 0)


def test_a_span_is_widened_to_full_hours_of_utc() -> None:
    shanghai = timezone(timedelta(hours=8))
    half_past = datetime(2026, 11, 21, 8, 30, tzinfo=shanghai)
    assert align(half_past) == datetime(2026, 11, 21, 0, tzinfo=UTC)
    assert align(half_past, up=True) == datetime(2026, 11, 21, 1, tzinfo=UTC)
    assert align(align(half_past), up=True) == align(half_past)


def test_several_runs_are_told_by_their_median() -> None:
    def result(cpu_us: float, lost: int = 0, db: float | None = None) -> Result:
        return Result(
            messages=1_000,
            readings=1_000,
            messages_per_s=1e6 / cpu_us,
            cpu_us_per_message=cpu_us,
            cpu_us_per_reading=cpu_us,
            db_cpu_us_per_message=db,
            broker_cpu_us_per_message=1.0,
            peak_rss_mb=100.0,
            stored=1_000 - lost,
            lost=lost,
            duplicates=0,
            reference_us=2.0,
            cpu_of_reference=cpu_us / 2,
            where_us={"decode": 3.0, "database_wait": 50.0, "rest": cpu_us - 3.0},
        )

    told = median_of([result(5.0), result(9.0, lost=2), result(6.0)])
    assert (told.cpu_us_per_message, told.cpu_us_range, told.runs) == (6.0, (5.0, 9.0), 3)
    assert (told.lost, told.db_cpu_us_per_message) == (2, None)
    assert told.where_us == {"decode": 3.0, "database_wait": 50.0, "rest": 3.0}


@pytest.mark.parametrize("role", ["ingest", "frames"])
@pytest.mark.parametrize(
    ("age_s", "expected", "state"),
    [
        (0.0, True, "fresh"),
        (60.0, True, "fresh"),
        (60.001, True, "stale"),
        (1e9, True, "stale"),
        (None, True, "stale"),
        (None, False, "idle"),
        (61.0, False, "stale"),
    ],
)
def test_who_stores_is_as_fresh_as_what_was_stored_last(
    role: str, age_s: float | None, expected: bool, state: str
) -> None:
    assert role not in WORKS_OFF
    found = judge_freshness(role, age_s, expected, 60.0)
    assert (found.state, found.age_s) == (state, age_s)


@pytest.mark.parametrize("role", sorted(WORKS_OFF))
@pytest.mark.parametrize("expected", [True, False])
def test_who_works_off_is_fresh_when_nothing_waits(role: str, expected: bool) -> None:
    assert judge_freshness(role, None, expected, 60.0).state == "fresh"
    assert judge_freshness(role, 59.0, expected, 60.0).state == "fresh"
    late = judge_freshness(role, 61.25, expected, 60.0)
    assert late.state == "stale"
    assert "61.2" in late.said
