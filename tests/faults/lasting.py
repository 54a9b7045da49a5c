"""What takes long and costs little: begun before all other tests here, looked at after them."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from smartsite.embedded.postgres import EmbeddedPostgres
from smartsite.roles.consuming import MOST_BYTES
from smartsite.supervisor import EXIT_MISCONFIGURED
from tests.faults.brokers import MAKES, running_broker
from tests.faults.databases import kill, new_database
from tests.faults.ledger import Ledger
from tests.faults.service import Service
from tests.faults.stage import Stage, staged
from tests.faults.waiting import until

PER_S = 250.0
PAD_EVERY = 8
QUEUED_BYTES = 110e6
"""What is published meanwhile: more than the service may hold."""

ROOM_BYTES = 64 * 2**20
"""For a flush and all that is made of it, and for what the allocator keeps."""


async def endure_outage(make: str, hold_s: float, root: Path, seed: int) -> str:
    """Kill the database under load, and bring it back much later.

    Memory stays bounded, nothing is acknowledged meanwhile, it is said, the connection lives on,
    and nothing is lost.

    Args:
        make: Of the broker.
        hold_s: How long the database stays away.
        root: For the files of the servers.
        seed: Of the readings.

    Returns:
        The figures.

    Raises:
        AssertionError: Something is not as it has to be.
    """
    folder = _new_folder(root)
    ledger = Ledger(seed)
    padding = int(QUEUED_BYTES / (PER_S / PAD_EVERY * hold_s))
    with (
        running_broker(make, folder, for_long=True) as broker,
        EmbeddedPostgres(folder / "postgres") as postgres,
        new_database(postgres) as url,
    ):
        async with staged(
            folder / "role",
            broker,
            url,
            ledger,
            per_s=PER_S,
            pad_every=PAD_EVERY,
            padding=padding,
        ) as stage:
            await stage.until_stored(500)
            idle = stage.service.peak_rss()
            await asyncio.to_thread(kill, postgres)
            acks = await stage.until_said()
            pings = stage.proxy.pings
            await asyncio.sleep(hold_s)
            said = f"{make}, seed {seed}"
            assert stage.proxy.acks == acks, f"{said}: something was acknowledged meanwhile"
            assert stage.proxy.delivered < len(ledger.sent), f"{said}: the broker kept nothing"
            assert stage.proxy.pings - pings >= hold_s / 10, f"{said}: it does not ping"
            await asyncio.to_thread(_require_said, stage, said)
            back = asyncio.get_running_loop().time()
            await asyncio.to_thread(postgres.start)
            await stage.until_usable()
            usable_s = asyncio.get_running_loop().time() - back
            # Its connection outlived all that: it was never made anew.
            assert stage.proxy.connections == 1, f"{said}: {stage.service.said()[-2_000:]}"
            found = await stage.settle()
    growth = stage.service.peak_bytes - idle
    most = MOST_BYTES + ROOM_BYTES
    assert growth < most, f"{said}: {growth / 2**20:.0f} MiB beyond {idle / 2**20:.0f}"
    return (
        f"{make}, {hold_s:.0f} s away, used {usable_s:.1f} s after: {found}; memory"
        f" {idle / 2**20:.0f} MiB and at most {growth / 2**20:.0f} more"
    )


def _new_folder(root: Path) -> Path:
    folder = Path(tempfile.mkdtemp(dir=root))
    folder.chmod(0o755)
    return folder


def _require_said(stage: Stage, said: str) -> None:
    """Metric, health and log tell of it."""
    service = stage.service
    assert service.says_unusable(), said
    waiting = service.metric("smartsite_messages_pending")
    assert waiting is not None, said
    assert waiting > PER_S, said
    status, health = service.health()
    assert status == 503, f"{said}: {health}"
    assert health["database"] == "not reachable", f"{said}: {health}"
    assert service.metric("smartsite_broker_connected") == 1, said
    assert "the database cannot be used" in service.said(), said


async def refuse_second(make: str, root: Path, seed: int) -> str:
    """Start the service twice under one name: the second may not write, and leaves all alone.

    Args:
        make: Of the broker.
        root: For the files of the servers.
        seed: Of the readings.

    Returns:
        The figures.

    Raises:
        AssertionError: Something is not as it has to be.
    """
    folder = _new_folder(root)
    with (
        running_broker(make, folder) as broker,
        EmbeddedPostgres(folder / "postgres") as postgres,
        new_database(postgres) as url,
    ):
        other = Service.ingest(folder / "other", url, broker.url, keep_reading=broker.keep_reading)
        async with staged(folder / "role", broker, url, Ledger(seed), per_s=100) as stage:
            await stage.until_stored(100)
            with other:
                await until(lambda: not other.child.alive, "the other ends")
                assert other.child.returncode == EXIT_MISCONFIGURED, other.said()
                assert "another process writes as 'ingest'" in other.said()
            assert stage.proxy.connections == 1, stage.service.said()
            found = await stage.settle()
    return f"{make}: {found}"


SCENARIOS: Mapping[str, Callable[[Path, int], Coroutine[Any, Any, str]]] = {
    f"{hold_s} s without a database, on {make}": partial(endure_outage, make, hold_s)
    for hold_s in (60, 600)
    for make in MAKES
} | {f"a second process of one name, on {make}": partial(refuse_second, make) for make in MAKES}
"""By their names."""
