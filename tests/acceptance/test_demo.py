"""`smartsite demo`: everything at once, and nothing left behind."""

import contextlib
import hashlib
import json
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from alerts.receiver import Receiver
from alerts.webhooks import new_secret, parse_secrets

Smartsite = Callable[..., subprocess.CompletedProcess[str]]
Started = Callable[..., subprocess.Popen[str]]

GENEROUS_S = 120.0


def test_a_minute_shows_every_kind_and_the_balance_adds_up(
    smartsite: Smartsite, folder: Path
) -> None:
    run = smartsite("demo", "--for", "32", "--json")
    assert run.returncode == 0, run.stderr
    assert len(run.stdout.splitlines()) == 1
    result = json.loads(run.stdout)
    assert result["published"] == sum(result["readings"].values()) > 0
    assert all(result["violations"][kind] >= 1 for kind in ("dust", "crane", "helmet"))
    assert set(result["deliveries"]) == {"delivered"}
    assert result["frames"] > 0
    balance = result["balance"]
    assert balance["received"] == result["published"]
    assert balance["received"] == (
        balance["stored"] + balance["duplicate"] + balance["merged"] + balance["quarantined"]
    )
    assert 0 < result["latency_ms"]["p50"] <= result["latency_ms"]["p99"]

    listed = smartsite("violations", "--json")
    assert listed.returncode == 0, listed.stderr
    violations = json.loads(listed.stdout)
    assert len(violations) == sum(result["violations"].values())
    for violation in violations:
        assert violation["message_zh"]
        assert violation["message_en"]
        assert violation["evidence"]
        for entry in violation["evidence"]:
            assert len(entry["segment_sha256"]) == 64
            assert len(entry["payload_sha256"]) == 64
        recipients = {delivery["recipient"] for delivery in violation["deliveries"]}
        assert recipients == {"contractor", "regulator"}
    frames = [
        entry["frame_sha256"]
        for violation in violations
        if violation["kind"] == "helmet"
        for entry in violation["evidence"]
    ]
    assert frames
    store = folder / "smartsite-data" / "demo" / "frames"
    for sha256 in frames:
        (file,) = store.rglob(f"{sha256}.jpg")
        assert hashlib.sha256(file.read_bytes()).hexdigest() == sha256

    devices = json.loads(smartsite("devices", "--json").stdout)
    assert {device["kind"] for device in devices} == {"dust", "crane", "camera"}
    assert all(device["last_observed_at"] for device in devices)


async def test_an_outside_receiver_is_told_too(started: Started, folder: Path) -> None:
    secret = new_secret(b"s" * 32)
    secret_file = folder / "secret"
    secret_file.write_text(secret)
    receiver = Receiver(parse_secrets(secret))
    await receiver.start()
    try:
        started("demo", "--json", "--webhook", receiver.url, "--secret-file", str(secret_file))
        await receiver.wait_for(lambda receiver: len(receiver.received) > 0)
        assert receiver.received[0].message.data.site.id == "demo-site"
    finally:
        await receiver.stop()


def _family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def _ports(processes: list[psutil.Process]) -> set[int]:
    ports: set[int] = set()
    for process in processes:
        # A database's helpers come and go.
        with contextlib.suppress(psutil.NoSuchProcess):
            ports |= {
                connection.laddr.port
                for connection in process.net_connections("tcp")
                if connection.status == psutil.CONN_LISTEN
            }
    return ports


def _until_supervising(process: subprocess.Popen[str]) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("supervising the site"):
            return
    pytest.fail(f"the demo ended with status {process.wait()}")


def _await_gone(family: list[psutil.Process], ports: set[int]) -> None:
    deadline = time.monotonic() + GENEROUS_S
    while time.monotonic() < deadline:
        left = [child for child in family if child.is_running() and not _is_zombie(child)]
        taken = {port for port in ports if _answers(port)}
        if not left and not taken:
            return
        time.sleep(0.05)
    pytest.fail(f"left behind: {left}, ports {taken}")


def _is_zombie(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_neither_ctrl_c_nor_kill_9_leaves_a_process_or_a_port(
    started: Started, how: signal.Signals
) -> None:
    process = started("demo", "--json")
    _until_supervising(process)
    family = _family(process)
    ports = _ports([*family, psutil.Process(process.pid)])
    assert len(family) >= 7  # database, broker, five roles
    assert len(ports) >= 4  # database, broker, health, receivers
    process.send_signal(how)
    process.wait(GENEROUS_S)
    _await_gone(family, ports)
    if how is signal.SIGINT:
        assert process.stdout is not None
        result: dict[str, Any] = json.loads(process.stdout.read())
        assert process.returncode == 0
        assert "ok" in result


def test_the_demo_keeps_to_its_own_folder_and_settings(smartsite: Smartsite, folder: Path) -> None:
    """Settings of the environment are the user's: the demo must not touch what they name."""
    elsewhere = folder / "precious"
    elsewhere.mkdir()
    run = smartsite(
        "demo",
        "--for",
        "3",
        "--json",
        SMARTSITE_DATA_DIR=str(elsewhere),
        SMARTSITE_RULES__DUST__LIMIT_UG_M3="5000",
    )
    assert [path.name for path in elsewhere.iterdir()] == ["demo"]
    written = (elsewhere / "demo" / "smartsite.toml").read_text()
    assert "limit_ug_m3 = 150" in written
    assert json.loads(run.stdout)["data"] == str(elsewhere / "demo")
