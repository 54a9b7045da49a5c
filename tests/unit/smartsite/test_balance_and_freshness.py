"""The sum of the balance, and when data are called fresh."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartsite.balance import Balance
from smartsite.health import WORKS_OFF, judge_freshness

counts = st.integers(0, 10**12)


@given(counts, counts, counts, counts, counts, st.integers(-5, 5))
def test_a_balance_adds_up_only_if_nothing_is_missing(
    stored: int, duplicate: int, merged: int, quarantined: int, redelivered: int, off: int
) -> None:
    received = stored + duplicate + merged + quarantined + off
    balance = Balance(received, stored, duplicate, merged, quarantined, redelivered)
    assert balance.adds_up == (off == 0)


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
