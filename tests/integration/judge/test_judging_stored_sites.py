"""What is booked does not depend on how the readings came, nor on how often the judge died."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from simulators.site import SimulatedSite
from simulators.truth import truth_of
from tests.integration.judge.supervised import (
    START,
    Spoken,
    Supervised,
    as_booked,
    coverage_of,
    delayed,
    in_batches,
    in_parts,
    ought,
    spoken,
    supervise,
    violations_of,
)
from tests.integration.yard import ask

SECONDS = 110.0
SITE = spoken(SECONDS)
END = START + timedelta(seconds=SECONDS)


@pytest.fixture
async def supervised(database_url: str) -> AsyncIterator[Supervised]:
    async for one in supervise(database_url):
        yield one


async def opened_otherwise(database_url: str) -> set[str]:
    """Violations whose opening was amended."""
    rows = ask(
        database_url,
        "SELECT DISTINCT violation_id FROM violation_events"
        " WHERE detail -> 'changed' ? 'opened_at'",
    )
    return {row["violation_id"] for row in rows}


async def require_same(supervised: Supervised) -> None:
    """What is booked is what the pure function says of what is stored."""
    await supervised.settle(END)
    findings, coverage = await ought(supervised.url, END)
    assert len(findings) >= 5
    booked = violations_of(supervised.url)
    moved = await opened_otherwise(supervised.url)
    assert [row[1:] for row in booked] == [row[1:] for row in as_booked(findings)]
    for row, expected in zip(booked, as_booked(findings), strict=True):
        # Late data may have moved an opening: the violation keeps the id it was told by.
        assert row[0] == expected[0] or row[0] in moved
    assert coverage_of(supervised.url) == coverage


async def test_the_judge_finds_what_happened(supervised: Supervised) -> None:
    for second in range(int(SECONDS)):
        until = START + timedelta(seconds=second + 1)
        since = START + timedelta(seconds=second)
        await supervised.store([one for one in SITE if since <= one.at < until])
        await supervised.step(until)
    await require_same(supervised)
    booked = ask(
        supervised.url, "SELECT kind, subject, opened_at, closed_at, measured FROM violations"
    )
    truths = truth_of(SimulatedSite(), START, SECONDS)
    kinds = {truth.kind for truth in truths}
    assert kinds == {"dust", "crane", "helmet"}
    slack = timedelta(seconds=3)
    for truth in truths:
        if truth.to_at - truth.from_at < slack or truth.to_at > END - 2 * slack:
            continue  # too short to be confirmed, or not over
        met = [
            one
            for one in booked
            if one["kind"] == truth.kind
            and one["subject"].partition("#")[0] == truth.subject
            and one["opened_at"] < truth.to_at + slack
            and one["closed_at"] > truth.from_at - slack
        ]
        assert met, truth
    for one in booked:
        assert any(
            one["kind"] == truth.kind
            and one["opened_at"] < truth.to_at + slack
            and one["closed_at"] > truth.from_at - slack
            for truth in truths
        ), one


@pytest.mark.parametrize("seed", range(3))
async def test_batches_and_restarts_change_nothing(supervised: Supervised, seed: int) -> None:
    dice = random.Random(seed)
    for batch in in_batches(SITE, dice, most=120):
        await supervised.store(batch, dice.choice(("ingest", "second")))
        if dice.random() < 0.7:
            await supervised.step(batch[-1].at)
        if dice.random() < 0.5:
            await supervised.restart()
    await require_same(supervised)


@pytest.mark.parametrize(
    ("device", "first", "last", "delay_s"),
    [
        ("dust-1", 0, 60, 45),
        ("dust-1", 5, 8, 30),
        ("crane-1", 10, 70, 2),
        ("crane-2", 0, 110, 25),
        ("camera-1", 10, 40, 20),
    ],
)
async def test_late_readings_change_nothing(
    supervised: Supervised, device: str, first: float, last: float, delay_s: float
) -> None:
    dice = random.Random(int(first))
    clock = START
    for batch in in_batches(delayed(SITE, device, first, last, delay_s), dice, most=40):
        await supervised.store(batch)
        clock = max(clock, *(one.at for one in batch))
        await supervised.step(clock)
        if dice.random() < 0.1:
            await supervised.restart()
    await require_same(supervised)


@pytest.mark.parametrize("seed", range(2))
async def test_any_disorder_changes_nothing(supervised: Supervised, seed: int) -> None:
    dice = random.Random(seed)

    def arrival(one: Spoken) -> float:
        return one.at.timestamp() + dice.choice((0, 0, 0, 1.5, 12))

    clock = START
    for batch in in_batches(sorted(SITE, key=arrival), dice, most=60):
        await supervised.store(batch, dice.choice(("ingest", "second")))
        clock = max(clock, *(one.at for one in batch))
        await supervised.step(clock)
    await require_same(supervised)


@pytest.mark.parametrize("seed", range(2))
async def test_readings_in_parts_are_judged_whole(supervised: Supervised, seed: int) -> None:
    """Of a reading that comes in two messages, the judge may have seen one without the other."""
    dice = random.Random(seed)
    clock = START
    for batch in in_batches(in_parts(SITE, dice), dice, most=30):
        await supervised.store(batch)
        clock = max(clock, *(one.at for one in batch))
        await supervised.step(clock)
        if dice.random() < 0.05:
            await supervised.restart()
    await require_same(supervised)


async def test_a_quiet_start_is_judged_alike_after_a_restart(supervised: Supervised) -> None:
    """A detector that began with the first reading has no full window yet, restarted or not."""
    early = [one for one in SITE if one.at < START + timedelta(seconds=12)]
    for one in early:
        await supervised.store([one])
        await supervised.step(one.at)
        await supervised.restart()
    rest = [one for one in SITE if one.at >= START + timedelta(seconds=12)]
    await supervised.store(rest)
    await require_same(supervised)
