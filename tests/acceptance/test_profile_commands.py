"""From a stranger behind a gateway to its readings, on the command line."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Callable

import psycopg

from device_profiles.catalogue import load_profiles
from ingest.pipeline import TimeLimits, gather
from ingest.profiles import Readers
from ingest.registry import load_routes
from ingest.store.worker import Worker
from ingest.store.writer import TelemetryWriter
from smartsite.services import password_environment
from tests.integration.yard import NOW, arrivals_of, ask, balance_of, register, site_file

Smartsite = Callable[..., subprocess.CompletedProcess[str]]

GATEWAY = "thingsboard-gateway-dust"
SAID = {"Mast 7": [{"ts": round(NOW.timestamp() * 1_000), "values": {"pm10": 81.5, "pm25": 40.0}}]}


async def _write(database_url: str) -> None:
    register(database_url, site_file())
    readers = Readers(load_profiles(topics_of=(GATEWAY,)))
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        routes = await load_routes(connection, readers)
    worker = Worker(database_url, "ingest")
    message = ("v1/gateway/telemetry", json.dumps(SAID).encode())
    await TelemetryWriter(worker).write(gather(arrivals_of(message), routes, TimeLimits()))
    await worker.close()


def test_a_stranger_behind_a_gateway_is_adopted(smartsite: Smartsite, database_url: str) -> None:
    asyncio.run(_write(database_url))
    environment = password_environment(database_url)
    environment["SMARTSITE_PROFILES__TOPICS_OF"] = json.dumps([GATEWAY])

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        done = smartsite(*arguments, COLUMNS="200", **environment)
        assert "Traceback" not in done.stderr, done.stderr
        return done

    (waiting,) = json.loads(run("devices", "pending", "--json").stdout)
    assert (waiting["external_id"], waiting["messages"]) == ("Mast 7", 1)
    shown = run("devices", "pending")
    assert "Mast 7" in shown.stdout
    assert "--external-id ID" in shown.stderr

    adopt = ("devices", "adopt", "yard/dust-7", "--external-id", "Mast 7")
    refused = run(*adopt)
    assert refused.returncode == 78, refused.stderr
    assert "--kind" in refused.stderr
    refused = run(*adopt, "--profile", "nothing", "--kind", "dust")
    assert refused.returncode == 78, refused.stderr
    assert "--profile: there is no profile 'nothing'" in refused.stderr

    done = run(*adopt, "--profile", GATEWAY, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["adopted"] == [{"site": "yard", "device": "dust-7", "kind": "dust"}]
    assert told["retried"]["stored"]["dust"] == 1
    (row,) = ask(
        database_url,
        "SELECT r.pm10_ug_m3 FROM dust_readings r JOIN devices d ON d.id = r.device_id"
        " WHERE d.device = 'dust-7' AND d.external_id = 'Mast 7'",
    )
    assert row["pm10_ug_m3"] == 81.5
    assert balance_of(database_url).adds_up
    again = run("devices", "adopt", "yard/dust-8", "--external-id", "Mast 7", "--profile", GATEWAY)
    assert again.returncode == 78
    assert "one external id" in again.stderr
