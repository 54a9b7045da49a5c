"""Garbage beside good data: the good is stored, the bad kept with a reason, the memory bounded."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from hashlib import sha256
from pathlib import Path

import psycopg
import pytest

from ingest.mqtt.codec import Version
from ingest.mqtt.connection import Options
from ingest.mqtt.publisher import Publisher
from ingest.segments import Flag, unpack
from tests.faults.brokers import KillableNats, StartBroker
from tests.faults.garbage import Garbage
from tests.faults.ledger import Ledger
from tests.faults.stage import Report, staged
from tests.faults.waiting import PATIENCE_S, until_slow

LARGEST_BYTES = 512 * 1024  # twice what telemetry may hold
AT_ONCE = 200
GROWTH_BYTES = 150 * 2**20
"""What the service may take beyond what it takes idle: two flushes of 4 MiB with all that is made
of them, and the messages behind them."""

COUNTS = [
    pytest.param(20_000, id="20000 pieces"),
    pytest.param(600_000, id="600000 pieces", marks=[pytest.mark.full, pytest.mark.timeout(1_800)]),
]


@pytest.mark.parametrize("count", COUNTS)
async def test_garbage_beside_good_data(
    database_url: str,
    start_broker: StartBroker,
    service_dir: Path,
    ledger: Ledger,
    report: Report,
    count: int,
) -> None:
    broker = start_broker("nats-server")
    everybody = Ledger(ledger.seed, sites=ledger.sites + 2)
    everybody.register(database_url)
    spoilt = everybody.topics[len(ledger.topics) :]
    async with staged(service_dir / "role", broker, database_url, ledger, per_s=300) as stage:
        idle = stage.service.peak_rss()
        garbage = Garbage(ledger.seed, spoilt, ledger.topics, LARGEST_BYTES)
        sent: Counter[tuple[bytes, bytes]] = Counter()
        began = time.monotonic()
        async with Publisher(
            Options(url=broker.url, client_id="vandal", version=Version.V3_1_1, clean=True)
        ) as publisher:
            for _ in range(0, count, AT_ONCE):
                pieces = [garbage.draw() for _ in range(AT_ONCE)]
                sent.update((topic, sha256(payload).digest()) for topic, payload in pieces)
                await publisher.publish(
                    [topic for topic, _ in pieces], [each for _, each in pieces]
                )
        took_s = time.monotonic() - began
        await stage.load.finish()
        assert isinstance(broker, KillableNats)
        await until_slow(broker.is_drained, "all is written down", patience_s=PATIENCE_S * 4)
        commits = stage.service.percentile("smartsite_commit_seconds", 0.99)
        await asyncio.to_thread(stage.service.stop)
    said = f"seed {ledger.seed}"
    peak = stage.service.peak_bytes
    found = await asyncio.to_thread(ledger.check, database_url, alone=False)
    missing = sent - await asyncio.to_thread(_written_down, database_url)
    assert not missing, f"{said}: {missing.total()} pieces are gone, as {next(iter(missing))}"
    assert peak < idle + GROWTH_BYTES, f"{said}: {peak - idle} bytes beyond {idle}"
    report(
        f"{count} pieces in {took_s:.1f} s: {found};"
        f" p99 of commits at most {commits:g} s; at most {peak / 2**20:.0f} MiB,"
        f" idle {idle / 2**20:.0f}"
    )


def _written_down(database_url: str) -> Counter[tuple[bytes, bytes]]:
    """How often each message is in a segment, by topic and the hash of its payload."""
    found: Counter[tuple[bytes, bytes]] = Counter()
    with psycopg.connect(database_url) as connection:
        for (body,) in connection.execute("SELECT body FROM segments"):
            segment = unpack(body)
            found.update(
                (topic, sha256(payload).digest())
                for topic, payload, flags in zip(
                    segment.topics, segment.payloads, segment.flags, strict=True
                )
                if not flags & Flag.TRUNCATED
            )
        # Too large to be kept whole: length and hash are.
        found.update(
            (topic.encode(), digest)
            for topic, digest in connection.execute(
                "SELECT topic, payload_sha256 FROM quarantine WHERE reason = 'too_large'"
            )
        )
    return found
