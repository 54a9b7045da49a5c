"""The consumer with its writer on real brokers: windows, lost sessions, keepalive, credentials."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from prometheus_client import REGISTRY

from ingest.consumer import Consumer
from ingest.flushing import Flushing
from ingest.mqtt.codec import Version
from ingest.mqtt.connection import Options, Phase
from ingest.mqtt.errors import BrokerUnavailable, ConnectRefused
from ingest.mqtt.publisher import Publisher
from ingest.pipeline import Arrivals
from smartsite.embedded.broker import EmbeddedBroker, greet
from tests.integration.mqtt.real_brokers import Mosquitto, RealBroker
from tests.integration.mqtt.scripted_broker import V3, V5, Client, eventually

GREEDY = Flushing(messages=8_192, after_s=0.02, most_bytes=1 << 26)
"""Writes by number only far above any window of these tests; so it has to write by time."""


class Desk:
    """A consumer whose writer writes things down."""

    def __init__(self, url: str, role: str, **options: object) -> None:
        given = {"client_id": role, "filters": (("site/#", 1),)} | options
        self.consumer = Consumer(role, Options(url=url, **given), GREEDY, self._write)  # type: ignore[arg-type]
        self.flushes: list[list[bytes]] = []

    @property
    def payloads(self) -> list[bytes]:
        return [payload for flush in self.flushes for payload in flush]

    async def _write(self, arrivals: Arrivals) -> None:
        self.flushes.append(list(arrivals.payloads))

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        stop = asyncio.Event()
        running = asyncio.create_task(self.consumer.run(stop))
        try:
            await eventually(
                lambda: running.done() or self.consumer.connection.state.phase is Phase.READY
            )
            yield
        finally:
            stop.set()
            await running


def counted(name: str, role: str) -> float:
    return REGISTRY.get_sample_value(f"smartsite_{name}_total", {"role": role}) or 0.0


async def publish(url: str, payloads: list[bytes], version: Version = V3) -> None:
    options = Options(url=url, client_id="publisher", clean=True, version=version)
    async with Publisher(options) as publisher:
        await publisher.publish([b"site/a"] * len(payloads), payloads)


@pytest.mark.parametrize("version", [V3, V5])
async def test_a_window_smaller_than_a_flush_does_not_stand_still(
    start_mosquitto: Callable[..., Mosquitto], version: Version
) -> None:
    """Five messages at a time, though the writer would rather have eight thousand."""
    broker = start_mosquitto(inflight=5)
    desk = Desk(broker.url, "narrow", version=version, receive_maximum=5)
    payloads = [b"%d" % number for number in range(200)]
    async with desk.at_work():
        await publish(broker.url, payloads, version)
        await eventually(lambda: len(desk.payloads) >= 200)
        await eventually(lambda: desk.consumer.connection.unacknowledged == 0)
    assert sorted(desk.payloads) == sorted(payloads)
    assert max(map(len, desk.flushes)) < GREEDY.messages


async def test_a_session_that_the_broker_lost_is_told_counted_and_made_anew(
    real_broker: RealBroker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    desk = Desk(real_broker.url, "forgotten", version=real_broker.version)
    before = counted("broker_sessions_lost", "forgotten")
    connections = counted("broker_connections", "forgotten")
    async with desk.at_work():
        assert "a new session at" in caplog.text
        await publish(real_broker.url, [b"first"])
        await eventually(lambda: desk.payloads == [b"first"])
        # Somebody else under our name, who wants a clean session: ours is gone, and we are out.
        port = urlsplit(real_broker.url).port
        assert port is not None
        assert await asyncio.to_thread(greet, port, "forgotten") == 0
        await eventually(lambda: counted("broker_sessions_lost", "forgotten") > before)
        await eventually(lambda: desk.consumer.connection.state.phase is Phase.READY)
        await publish(real_broker.url, [b"second"])
        await eventually(lambda: desk.payloads == [b"first", b"second"])
    assert counted("broker_sessions_lost", "forgotten") == before + 1
    assert counted("broker_connections", "forgotten") >= connections + 2
    assert "has lost the session, and what waited in it" in caplog.text


async def test_it_pings_and_notices_a_broker_that_does_not_answer(
    start_mosquitto: Callable[..., Mosquitto],
) -> None:
    """One second of keepalive: Mosquitto hangs up after one and a half, and so do we."""
    broker = start_mosquitto()
    async with Client(broker.url, keepalive_s=1) as client:
        await client.ready()
        link = client.connection._link
        assert link is not None
        began = link._wrote_at
        await eventually(lambda: link._wrote_at > began + 2.0)
        assert client.connection.counters.connections == 1
        assert client.errors == []
        assert broker.pid is not None
        os.kill(broker.pid, signal.SIGSTOP)
        try:
            await client.until(lambda: len(client.errors) >= 1)
        finally:
            os.kill(broker.pid, signal.SIGCONT)
        with pytest.raises(BrokerUnavailable, match="has been silent"):
            raise client.errors[0]
        await client.ready(2)
        assert client.connection.state.session_present


@pytest.fixture
def passwords(service_dir: Path) -> Path:
    program = shutil.which("mosquitto_passwd")
    if program is None:
        pytest.skip("mosquitto_passwd is not installed")
    file = service_dir / "passwords"
    subprocess.run([program, "-c", "-b", file, "me", "right"], check=True, capture_output=True)
    file.chmod(0o644)
    return file


@pytest.mark.parametrize("version", [V3, V5])
@pytest.mark.parametrize("wrong", [{}, {"username": "me", "password": "left"}])
async def test_wrong_credentials_refuse_to_start(
    start_mosquitto: Callable[..., Mosquitto],
    passwords: Path,
    version: Version,
    wrong: dict[str, str],
) -> None:
    broker = start_mosquitto("allow_anonymous false", f"password_file {passwords}")
    right = {"username": "me", "password": "right"}
    async with Client(broker.url, version=version, **right) as client:
        await client.ready()
    async with Client(broker.url, version=version, **wrong) as client:
        with pytest.raises(ConnectRefused, match=r"does not let client 'tester' in: not author"):
            await client.ended()


@pytest.mark.parametrize("version", [V3, V5])
async def test_a_session_is_drained_before_its_worker_is_retired(
    start_mosquitto: Callable[..., Mosquitto], version: Version
) -> None:
    """Unsubscribed, it takes what waits and nothing new: nothing is lost, nothing left behind."""
    broker = start_mosquitto()
    shared = "$share/group/site/#"
    staying = Desk(broker.url, "staying", version=version, filters=((shared, 1),))
    leaving = Desk(broker.url, "leaving", version=version, filters=((shared, 1),))
    async with staying.at_work():
        async with leaving.at_work():
            pass
        # A member that is away is still given its share, which waits for it.
        await publish(broker.url, [b"%d" % number for number in range(100)], version)
        await eventually(lambda: len(staying.payloads) == 50)
        drained = Desk(
            broker.url, "leaving", version=version, filters=(), retired_filters=(shared,)
        )
        async with drained.at_work():
            await eventually(lambda: len(drained.payloads) == 50)
            await publish(broker.url, [b"%d" % number for number in range(100, 200)], version)
            await eventually(lambda: len(staying.payloads) == 150)
            await eventually(lambda: drained.consumer.connection.unacknowledged == 0)
        assert sorted(map(int, staying.payloads + drained.payloads)) == list(range(200))
        assert len(drained.payloads) == 50


async def test_on_nats_an_unsubscription_forgets_what_waits(service_dir: Path) -> None:
    """Why a session of nats-server must not be drained, and why the settings refuse it."""
    with EmbeddedBroker(service_dir) as broker:
        async with Desk(broker.url, "retiring").at_work():
            pass
        await publish(broker.url, [b"waits"])
        options = {"client_id": "retiring", "filters": (), "retired_filters": ("site/#",)}
        async with Client(broker.url, **options) as client:
            await client.ready()
        async with Client(broker.url, client_id="retiring") as client:
            await client.ready()
            await publish(broker.url, [b"new"])
            await client.until(lambda: bool(client.payloads))
            assert client.payloads == [b"new"]
            client.acknowledge()
