"""Quarantine and unknown devices on the command line: what is said, and what comes back."""

import asyncio
import hashlib
import json
import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ingest.frame_store import FrameStore
from ingest.frames import FrameWriter
from ingest.pipeline import TimeLimits, gather
from ingest.store.worker import Worker
from ingest.store.writer import TelemetryWriter
from smartsite.services import password_environment
from tests.integration.yard import (
    NOW,
    arrivals_of,
    ask,
    balance_of,
    do,
    register,
    routes_of,
    site_file,
    telemetry,
    topic_of,
)

Smartsite = Callable[..., subprocess.CompletedProcess[str]]

GARBAGE = b"\x00\xff\x1b[31mnot json"
PICTURE = b"\xff\xd8no picture"
FRAME = topic_of("camera-9", "frame/1795248000000")


async def _write(database_url: str, frame_dir: Path, frames: bool) -> None:
    register(database_url, site_file())
    routes = await routes_of(database_url)
    worker = Worker(database_url, "ingest")
    batch = [{"ts": NOW + timedelta(seconds=n), "values": {"noise_db": n}} for n in range(3)]
    messages = [
        (topic_of("dust-9"), telemetry(NOW, pm10_ug_m3=1)),
        (topic_of("dust-9"), json.dumps(batch, default=lambda at: at.isoformat()).encode()),
        (topic_of("dust-8"), telemetry(NOW, pm10_ug_m3=1)),
        (topic_of("dust-8").replace("/dust/", "/crane/"), telemetry(NOW, load_t=1)),
        (topic_of("crane-9", site="nowhere"), telemetry(NOW, load_t=1)),
        (topic_of("dust-1"), GARBAGE),
        (topic_of("dust-1"), telemetry(NOW, pm10_ug_m3="[bold]", noise_db=50)),
    ]
    await TelemetryWriter(worker).write(gather(arrivals_of(*messages), routes, TimeLimits()))
    await worker.close()
    if frames:
        worker = Worker(database_url, "frames")
        writer = FrameWriter(worker, FrameStore(frame_dir), TimeLimits())
        await writer.write(arrivals_of((FRAME, PICTURE)), routes)
        await worker.close()


@pytest.fixture
def told(smartsite: Smartsite, folder: Path, database_url: str) -> Smartsite:
    """Runs the command on a database in which messages were put aside."""
    asyncio.run(_write(database_url, folder / "smartsite-data" / "frames", frames=True))

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        done = smartsite(*arguments, COLUMNS="200", **password_environment(database_url))
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return run


def parsed(run: subprocess.CompletedProcess[str]) -> Any:
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_the_quarantine_is_listed_with_what_to_do(told: Smartsite) -> None:
    found = parsed(told("quarantine", "list", "--json"))
    totals = {total["reason"]: total["open"] for total in found["totals"]}
    assert totals == {"unknown_device": 6, "encoding": 1, "type": 1}
    assert [row["id"] for row in found["rows"]] == sorted(
        (row["id"] for row in found["rows"]), reverse=True
    )
    chosen = ("--device", "yard/dust-9", "--reason", "unknown_device", "--since", "2026-11-21")
    (row,) = parsed(told("quarantine", "list", *chosen, "--limit", "1", "--json"))["rows"]
    assert row["topic"] == topic_of("dust-9")
    table = told("quarantine", "list")
    assert table.returncode == 0
    assert "\x1b" not in table.stdout
    assert "unknown_device: 6 open" in table.stderr
    assert "smartsite devices pending" in table.stderr
    assert "smartsite quarantine retry --reason type" in table.stderr


def test_one_is_shown_with_its_bytes(told: Smartsite, folder: Path, database_url: str) -> None:
    rows = ask(database_url, "SELECT id, scope, reason FROM quarantine")
    ids = {row["reason"]: str(row["id"]) for row in rows}
    (frame,) = [str(row["id"]) for row in rows if row["scope"] == "frame"]
    shown = parsed(told("quarantine", "show", ids["encoding"], "--json"))
    assert bytes.fromhex(shown["payload_hex"]) == GARBAGE
    assert shown["payload_sha256"] == hashlib.sha256(GARBAGE).hexdigest()
    assert (shown["payload_intact"], shown["payload_text"]) == (True, None)
    dumped = told("quarantine", "show", ids["encoding"]).stdout
    assert GARBAGE[:4].hex(" ") in dumped
    assert "\x1b" not in dumped
    assert "hash matches" in dumped
    text = told("quarantine", "show", ids["type"]).stdout
    assert telemetry(NOW, pm10_ug_m3="[bold]", noise_db=50).decode() in text

    next((folder / "smartsite-data" / "frames").glob("??/??/*.jpg")).write_bytes(b"another")
    assert parsed(told("quarantine", "show", frame, "--json"))["payload_intact"] is False
    do(database_url, "UPDATE segments SET body = NULL")
    assert "aged out" in told("quarantine", "show", ids["type"]).stdout


def test_unknown_devices_are_adopted_and_what_they_said_comes_back(
    told: Smartsite, database_url: str
) -> None:
    pending = parsed(told("devices", "pending", "--json"))
    assert [
        (one["site"], one["device"], one["kind"], one["messages"], one["site_registered"])
        for one in pending
    ] == [
        ("nowhere", "crane-9", "crane", 1, False),
        ("yard", "camera-9", "camera", 1, True),
        ("yard", "dust-8", "crane", 1, True),
        ("yard", "dust-8", "dust", 1, True),
        ("yard", "dust-9", "dust", 2, True),
    ]
    refused = told("devices", "adopt", "yard/dust-8")
    assert refused.returncode != 0
    assert "--kind" in refused.stderr

    adopted = told("devices", "adopt", "yard/dust-9", "--every", "5", "--make", "Acme")
    assert adopted.returncode == 0
    assert "registered yard/dust-9, a dust" in adopted.stderr
    # The single reading and the first of the batch are one minute's row in two parts.
    assert "2 messages read again, 2 came back: 3 dust stored, 1 merged" in adopted.stderr
    again = parsed(told("devices", "adopt", "yard/dust-8", "--kind", "dust", "--json"))
    assert again["adopted"] == [{"site": "yard", "device": "dust-8", "kind": "dust"}]
    assert again["retried"]["stored"] == {"dust": 1}
    assert again["retried"]["refused"] == {"topic": 1}
    assert balance_of(database_url).adds_up

    (device,) = ask(database_url, "SELECT * FROM devices WHERE device = 'dust-9'")
    assert (device["make"], device["expected_every_s"]) == ("Acme", 5)
    chosen = ("--device", "yard/dust-9", "--all", "--json")
    history = parsed(told("quarantine", "list", *chosen))
    assert all(row["resolved_at"] for row in history["rows"])
    assert history["totals"] == [{"reason": "unknown_device", "rows": 2, "open": 0}]


def test_a_retry_says_what_came_back_and_what_did_not(told: Smartsite, database_url: str) -> None:
    (found,) = parsed(told("quarantine", "list", "--reason", "type", "--json"))["rows"]
    one = parsed(told("quarantine", "retry", "--id", str(found["id"]), "--json"))
    assert (one["messages"], one["refused"]) == (1, {"type": 1})
    do(
        database_url,
        "INSERT INTO devices (site_id, device, kind, expected_every_s)"
        " VALUES ('yard', 'dust-9', 'dust', 60)",
    )
    run = told("quarantine", "retry")
    assert run.returncode == 0
    assert "8 messages read again, 2 came back" in run.stderr
    assert "still refused, unknown_device: 4" in run.stderr
    assert len(ask(database_url, "SELECT FROM dust_readings")) == 4


def test_a_retired_device_is_gone_until_it_is_taken_back(
    told: Smartsite, database_url: str
) -> None:
    assert told("devices", "retire", "yard/dust-1").returncode == 0
    refused = told("devices", "retire", "yard/dust-1")
    assert refused.returncode != 0
    assert "yard/dust-1 is not registered" in refused.stderr
    (row,) = ask(database_url, "SELECT retired_at FROM devices WHERE device = 'dust-1'")
    assert row["retired_at"] is not None


def test_devices_show_their_clock_and_their_silence(told: Smartsite, database_url: str) -> None:
    for device, offset_us, until in (
        ("dust-1", 28_800_000_000, "infinity"),
        ("dust-2", 28_800_000_000, "2026-11-20"),
        ("crane-1", None, "infinity"),
    ):
        do(
            database_url,
            "INSERT INTO clock_offsets (device_id, reported_from, reported_to, offset_us,"
            " decided_at, reason) SELECT id, '2026-11-19', %(until)s, %(offset)s, now(), 'test'"
            " FROM devices WHERE device = %(device)s",
            {"device": device, "offset": offset_us, "until": until},
        )
    listed = {one["device"]: one for one in parsed(told("devices", "--json"))}
    assert {name: one["clock_offset_s"] for name, one in listed.items()} == {
        "dust-1": 28_800.0,
        "dust-2": None,
        "crane-1": None,
        "camera-1": None,
    }
    shown = " ".join(told("devices").stdout.split())
    assert "+8 h 0 min" in shown
    assert "not believed" in shown
