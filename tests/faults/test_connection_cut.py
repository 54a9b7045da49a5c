"""Connections cut inside packets, dribbling and slow ones: to both brokers, in both directions."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from smartsite.roles import ingest
from smartsite.services import Whereabouts
from smartsite.settings import BrokerSettings, DatabaseSettings, Settings
from tests.faults.brokers import Broker
from tests.faults.ledger import Ledger
from tests.faults.load import Load
from tests.faults.proxy import HONEST, Fate, Proxy
from tests.faults.stage import Counting, Report
from tests.faults.waiting import PATIENCE_S, until, until_slow

CUTS = [
    pytest.param(60, id="60 connections"),
    pytest.param(500, id="500 connections", marks=[pytest.mark.full, pytest.mark.timeout(900)]),
]


def a_fate(dice: random.Random) -> Fate:
    """One way or another that a connection ends badly, at a byte of the dice."""
    return Fate(
        # Acknowledgements take 4 bytes, a message about 170.
        cut_up=int(10 ** dice.uniform(0, 3.7)) if dice.random() < 0.5 else None,
        cut_down=int(10 ** dice.uniform(0, 5.0)),
        reset=dice.random() < 0.5,
        dribble=dice.choice((0, 0, 2_000)),
        delay_s=dice.choice((0.0, 0.0, 0.02)),
    )


@pytest.mark.parametrize("count", CUTS)
async def test_connections_are_cut_inside_packets(
    broker: Broker,
    database_url: str,
    service_dir: Path,
    ledger: Ledger,
    report: Report,
    monkeypatch: pytest.MonkeyPatch,
    count: int,
) -> None:
    # What is tested is that it comes back right, not how politely.
    monkeypatch.setattr("ingest.mqtt.connection.FIRST_DELAY_S", 0.01)
    monkeypatch.setattr("ingest.mqtt.connection.LONGEST_DELAY_S", 0.02)
    dice = random.Random(ledger.seed)
    fates = [HONEST, *(a_fate(dice) for _ in range(count))]  # the first makes the session
    ledger.register(database_url)
    async with Proxy(
        broker.url, lambda number: fates[number] if number < len(fates) else HONEST, dice
    ) as proxy:
        settings = Settings(
            data_dir=service_dir,
            broker=BrokerSettings(url=proxy.url, keep_reading=broker.keep_reading),
            database=DatabaseSettings(url="postgresql://somebody@localhost/unused"),
        )
        where = Whereabouts(0, 0.0, proxy.url, database_url)
        stop = asyncio.Event()
        role = asyncio.create_task(ingest.run(settings, where, stop))
        try:
            await until(lambda: role.done() or proxy.subscribed > 0, "the role subscribes")
            async with Load(broker.url, ledger, per_s=800) as load:
                await load.until_more(100)
                proxy.cut()
                await until(
                    lambda: role.done() or proxy.connections > count + 1,
                    "all have had their fate",
                    patience_s=max(PATIENCE_S, count),
                )
                await load.finish()
            with Counting(database_url) as counting:
                await until_slow(
                    lambda: role.done() or counting.stored() >= len(ledger.sent), "all is stored"
                )
        finally:
            stop.set()
            await role
    found = await asyncio.to_thread(ledger.check, database_url)
    assert proxy.cuts_inside > 0
    report(f"{proxy.cuts} cuts, {proxy.cuts_inside} of them inside a packet: {found}")
