"""Brokers that may be killed: both as they are meant to be run."""

from __future__ import annotations

import math
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import pytest

from smartsite.embedded.broker import EmbeddedBroker
from tests.integration.deploy.mosquitto import find_program
from tests.integration.mqtt.real_brokers import Mosquitto
from tests.integration.service.roles import held

MAKES = ("nats-server", "mosquitto")

_PATIENCE_S = 30.0


class Broker(Protocol):
    """What the tests need of either.

    Attributes:
        keep_reading: How the service treats it while the database is away.
    """

    keep_reading: bool

    @property
    def url(self) -> str:
        """Where it listens."""

    def start(self) -> None:
        """Start it, or bring it back."""

    def saved_at(self) -> float:
        """What it did before this time is on its disk, seconds since 1970."""

    def kill(self) -> float:
        """End it by kill -9; what it acknowledged before the time returned is on its disk."""

    def stop(self) -> None:
        """End it for good."""


class KillableNats:
    """nats-server, which has on disk what it acknowledged."""

    keep_reading = True

    def __init__(self, folder: Path, ack_wait_seconds: float = 1.0) -> None:
        self.embedded = EmbeddedBroker(folder, ack_wait_seconds=ack_wait_seconds)

    @property
    def url(self) -> str:
        """Where it listens."""
        return self.embedded.url

    def start(self) -> None:
        """Start it, or bring it back."""
        self.embedded.start()

    def is_drained(self) -> bool:
        """Whether nothing waits in any session, and everything delivered is acknowledged."""
        return held(self.embedded) == (0, 0)

    def saved_at(self) -> float:
        """Whatever it acknowledged is there."""
        return math.inf

    def kill(self) -> float:
        """End it by kill -9; it has saved everything."""
        assert self.embedded.pid is not None
        os.kill(self.embedded.pid, signal.SIGKILL)
        self.embedded.wait(_PATIENCE_S)
        return self.saved_at()

    def stop(self) -> None:
        """End it for good."""
        self.embedded.stop()


class KillableMosquitto(Mosquitto):
    """Mosquitto, persisting as in `deploy/mosquitto/mosquitto.conf`: once a second."""

    keep_reading = False

    def __init__(self, program: str, folder: Path, *, inflight: int, autosave_s: int) -> None:
        super().__init__(program, folder, inflight=inflight)
        self._database = folder / "mosquitto.db"
        with (folder / "mosquitto.conf").open("a", encoding="utf-8") as file:
            file.write(
                f"autosave_on_changes false\nautosave_interval {autosave_s}\n"
                "set_tcp_nodelay true\nmax_queued_bytes 4294967296\n"
            )

    def saved_at(self) -> float:
        """When it last was done with saving: it does nothing else meanwhile."""
        return self._database.stat().st_mtime if self._database.exists() else 0.0

    def kill(self) -> float:
        """End it by kill -9; it has saved what it did before its last save was complete."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(_PATIENCE_S)
        self._process = None
        return self.saved_at()


StartBroker = Callable[[str], Broker]


@contextmanager
def running_broker(make: str, folder: Path, *, for_long: bool = False) -> Iterator[Broker]:
    """A broker of a make, in a new folder below one; skips where Mosquitto is not installed.

    Args:
        make: One of `MAKES`.
        folder: Below which it keeps its files.
        for_long: It has to wait with much: nats-server sends it again less often, Mosquitto saves
            it not at all, and sends all it may.

    Yields:
        The broker.
    """
    own = Path(tempfile.mkdtemp(dir=folder))
    own.chmod(0o755)
    broker: Broker
    if make == "mosquitto":
        program = find_program("mosquitto")
        if program is None:
            pytest.skip("mosquitto is not installed: nothing here was tried on it")
        broker = KillableMosquitto(
            program,
            own,
            inflight=65_535 if for_long else 4_000,
            autosave_s=3_600 if for_long else 1,
        )
    else:
        broker = KillableNats(own, 10.0 if for_long else 1.0)
    broker.start()
    try:
        yield broker
    finally:
        broker.stop()
