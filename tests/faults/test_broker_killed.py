"""kill -9 of the broker, while devices publish and send again what was not acknowledged."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path

import pytest

from tests.faults.brokers import Broker
from tests.faults.ledger import Key, Ledger
from tests.faults.stage import Report, staged
from tests.faults.waiting import until

KILLS = [
    pytest.param(3, id="3 kills"),
    pytest.param(10, id="10 kills", marks=[pytest.mark.full, pytest.mark.timeout(900)]),
]


@pytest.mark.parametrize("kills", KILLS)
async def test_the_broker_is_killed_under_load(
    broker: Broker, database_url: str, service_dir: Path, ledger: Ledger, report: Report, kills: int
) -> None:
    dice = random.Random(ledger.seed)
    forgotten: set[Key] = set()
    async with staged(service_dir / "role", broker, database_url, ledger, per_s=800) as stage:
        # A broker that has not saved the session has nobody to keep anything for.
        began = time.time()
        await until(lambda: broker.saved_at() > began, "the broker saves")
        for number in range(kills):
            await asyncio.sleep(dice.uniform(0.5, 1.5))
            kept_until = await asyncio.to_thread(broker.kill)
            # What was acknowledged after the last save is the broker's to lose; see its notes.
            unsaved = {key for key, at in ledger.acked_at.items() if at >= kept_until}
            if unsaved:
                forgotten |= unsaved - await asyncio.to_thread(ledger.stored, database_url)
            await asyncio.to_thread(broker.start)
            bound = number + 2
            await until(lambda bound=bound: stage.service.times_ready() >= bound, "it is back")  # type: ignore[misc]
            await stage.load.until_more(200)
        found = await stage.settle(may_be_lost=forgotten)
    report(f"{kills} kills: {found}; the broker could have forgotten {len(forgotten)}")
