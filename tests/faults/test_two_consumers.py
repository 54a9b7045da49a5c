"""Two consumers of the same topics at once: no second row."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.faults.brokers import Broker
from tests.faults.ledger import Ledger
from tests.faults.service import Service
from tests.faults.stage import Report, staged
from tests.faults.waiting import until, until_slow
from tests.integration.yard import balance_of


async def test_a_second_worker_hears_the_same(
    broker: Broker, database_url: str, service_dir: Path, ledger: Ledger, report: Report
) -> None:
    """With a session of its own it gets everything again; and it is killed and comes back."""
    other = Service.ingest(
        service_dir / "other",
        database_url,
        broker.url,
        keep_reading=broker.keep_reading,
        INGEST__WORKER="other",
    )
    async with staged(service_dir / "role", broker, database_url, ledger, per_s=600) as stage:
        with other:
            await until(other.is_ready, "the other subscribes")
            before = len(ledger.sent)
            await stage.load.until_more(600)
            await asyncio.to_thread(other.child.kill)
            await stage.load.until_more(300)
            other.child.start()
            await stage.load.until_more(300)
            after = len(ledger.sent)
            await stage.load.finish()
            await until_slow(
                lambda: balance_of(database_url).received >= len(ledger.sent) + after - before,
                "both have heard all",
            )
            found = await stage.settle()
            await asyncio.to_thread(other.stop)
            found = await asyncio.to_thread(ledger.check, database_url)
    assert found.balance.duplicate >= after - before
    report(found)
