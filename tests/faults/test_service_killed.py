"""kill -9 of the service under load: nothing is lost, nothing doubled."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from smartsite.services import Whereabouts, running
from smartsite.settings import Settings
from tests.faults.brokers import Broker
from tests.faults.ledger import Ledger
from tests.faults.load import Load
from tests.faults.service import READY, Service
from tests.faults.stage import Counting, Report, Stage, staged
from tests.faults.waiting import until, until_slow

KILLS = [
    pytest.param(5, id="5 kills"),
    pytest.param(50, id="50 kills", marks=[pytest.mark.full, pytest.mark.timeout(900)]),
]


@pytest.mark.parametrize("kills", KILLS)
async def test_the_role_is_killed_under_load(
    broker: Broker, database_url: str, service_dir: Path, ledger: Ledger, report: Report, kills: int
) -> None:
    dice = random.Random(ledger.seed)
    instants: list[float] = []
    async with staged(service_dir / "role", broker, database_url, ledger, per_s=1_000) as stage:
        await stage.until_stored(1)
        for number in range(kills):
            if number % 5:  # else perhaps before it has come so far
                await until(stage.service.is_ready, "the service is back")
            if number % 5 == 1:
                await _lose_acknowledgements(stage)
            instants.append(round(dice.uniform(0.0, 1.0), 3))
            await asyncio.sleep(instants[-1])
            await asyncio.to_thread(stage.service.child.kill)
            stage.proxy.swallowing = False
            stage.service.child.start()
        found = await stage.settle()
    assert found.balance.duplicate > 0, f"seed {ledger.seed}: what was stored did not come again"
    report(f"{kills} kills, the first {instants[:5]} s after the service was back: {found}")


async def _lose_acknowledgements(stage: Stage) -> None:
    """Let the service die between a commit and its acknowledgements, surely."""
    before = stage.proxy.swallowed
    stage.proxy.swallowing = True
    await until(lambda: stage.proxy.swallowed > before, "something is stored, unacknowledged")


async def test_everything_is_killed_at_once(
    service_dir: Path, ledger: Ledger, report: Report
) -> None:
    """The whole of `smartsite run`, broker and database with it."""
    data = service_dir / "data"
    data.mkdir(mode=0o755)
    (data / "site.toml").write_text(ledger.site_toml(), "utf-8")
    settings = {"SITE_FILES": f'["{data / "site.toml"}"]'}
    with Service(data, settings, role=None) as service:
        here = await _whereabouts(service, data)
        # Its session is there before anything is published: what comes then waits for it.
        log = data / "log" / "ingest.log"
        await until(lambda: log.exists() and READY in log.read_text("utf-8"), "it subscribes")
        async with Load(here.broker_url, ledger, per_s=400) as load:
            with Counting(here.database_url) as counting:
                await until_slow(lambda: counting.stored() > 400, "the first are stored")
            await asyncio.to_thread(service.child.kill)
            service.child.start()
            again = await _whereabouts(service, data)
            assert again.broker_url == here.broker_url
            await load.until_more(400)
            await load.finish()
        with Counting(again.database_url) as counting:
            await until_slow(lambda: counting.stored() >= len(ledger.sent), "all is stored")
        found = await asyncio.to_thread(ledger.check, again.database_url)
        assert await asyncio.to_thread(service.child.stop, 60) == 0, service.child.last_lines()
    report(found)


async def _whereabouts(service: Service, data: Path) -> Whereabouts:
    """Where the services of the `smartsite run` over a data folder are, once they are."""
    settings = Settings(data_dir=data)

    def are_told() -> bool:
        assert service.child.alive, service.child.last_lines()
        return running(settings) is not None

    await until_slow(are_told, "smartsite runs")
    found = running(settings)
    assert found is not None
    return found
