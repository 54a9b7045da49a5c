"""Real brokers of a test's own: nats-server always, Mosquitto where it is installed."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ingest.mqtt.codec import Version
from tests.integration.mqtt.certificates import Certificates
from tests.integration.mqtt.real_brokers import Mosquitto, Nats, RealBroker


@pytest.fixture
def start_mosquitto(service_dir: Path) -> Iterator[Callable[..., Mosquitto]]:
    """Starts brokers of the test's own; arguments as those of `Mosquitto` after the folder."""
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
    if program is None:
        pytest.skip("mosquitto is not installed: nothing here was tried on it")
    brokers: list[Mosquitto] = []

    def start(*listener: str, scheme: str = "mqtt", inflight: int = 1_000) -> Mosquitto:
        folder = Path(tempfile.mkdtemp(dir=service_dir))
        broker = Mosquitto(program, folder, *listener, scheme=scheme, inflight=inflight)
        brokers.append(broker)
        broker.start()
        return broker

    yield start
    for broker in brokers:
        broker.stop()


@pytest.fixture(
    params=[
        ("nats-server", Version.V3_1_1),
        ("mosquitto", Version.V3_1_1),
        ("mosquitto", Version.V5),
    ],
    ids=lambda each: f"{each[0]}-{each[1]}",
)
def real_broker(request: pytest.FixtureRequest, service_dir: Path) -> Iterator[RealBroker]:
    """One broker of a test's own, and the version to speak to it."""
    name, version = request.param
    if name == "mosquitto":
        broker: RealBroker = request.getfixturevalue("start_mosquitto")()
        broker.version = version
        yield broker
        return
    broker = Nats(service_dir)
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture(scope="session")
def certificates(service_root: Path) -> Certificates:
    """Authorities and certificates, made once."""
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("openssl is not installed: no certificates to test TLS with")
    folder = Path(tempfile.mkdtemp(dir=service_root))
    folder.chmod(0o755)
    return Certificates(program, folder)
