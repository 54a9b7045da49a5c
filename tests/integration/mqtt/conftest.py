"""Real brokers of a test's own: nats-server always, Mosquitto where it is installed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.mqtt.real_brokers import Mosquitto, Nats, RealBroker


@pytest.fixture
def start_mosquitto(service_dir: Path) -> Iterator[Callable[[], Mosquitto]]:
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
    if program is None:
        pytest.skip("mosquitto is not installed: nothing here was tried on it")
    broker = Mosquitto(program, service_dir)

    def start() -> Mosquitto:
        broker.start()
        return broker

    yield start
    broker.stop()


@pytest.fixture(params=["nats-server", "mosquitto"])
def real_broker(request: pytest.FixtureRequest, service_dir: Path) -> Iterator[RealBroker]:
    """One broker of a test's own."""
    if request.param == "mosquitto":
        yield request.getfixturevalue("start_mosquitto")()
        return
    broker = Nats(service_dir)
    broker.start()
    yield broker
    broker.stop()
