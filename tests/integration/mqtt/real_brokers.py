"""Real brokers that a test may end and bring back: nats-server from its wheel, and Mosquitto."""

from __future__ import annotations

import os
import pwd
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from pathlib import Path

from ingest.mqtt.codec import Version
from smartsite.embedded.broker import EmbeddedBroker

_PATIENCE_S = 30.0


class RealBroker(ABC):
    """What the tests need of either.

    Attributes:
        url: Where it listens.
        version: Which MQTT a test should speak to it.
    """

    url: str
    version = Version.V3_1_1

    @abstractmethod
    def start(self) -> None:
        """Start it, and return when clients may connect."""

    @abstractmethod
    def end(self) -> None:
        """End it as hard as it can bear without losing sessions."""

    @abstractmethod
    def stop(self) -> None:
        """End it for good."""


class Nats(RealBroker):
    """nats-server, which bears kill -9."""

    def __init__(self, folder: Path) -> None:
        self._broker = EmbeddedBroker(folder, ack_wait_seconds=1.0)

    def start(self) -> None:
        self._broker.start()
        self.url = self._broker.url

    def end(self) -> None:
        assert self._broker.pid is not None
        os.kill(self._broker.pid, signal.SIGKILL)
        self._broker.wait(_PATIENCE_S)

    def stop(self) -> None:
        self._broker.stop()


class Mosquitto(RealBroker):
    """Mosquitto, which forgets on kill -9 what it has not saved: so it is asked to end.

    Args:
        program: Where it lies.
        folder: For its files.
        listener: Lines of configuration for its listener.
        scheme: That of its URL.
        inflight: Its `max_inflight_messages`.
    """

    def __init__(
        self,
        program: str,
        folder: Path,
        *listener: str,
        scheme: str = "mqtt",
        inflight: int = 1_000,
    ) -> None:
        if "allow_anonymous" not in "".join(listener):
            listener = ("allow_anonymous true", *listener)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port: int = probe.getsockname()[1]
        self.url = f"{scheme}://127.0.0.1:{self._port}"
        self._log = folder / "mosquitto.log"
        self._command = [program, "-c", str(folder / "mosquitto.conf")]
        (folder / "mosquitto.conf").write_text(
            f"listener {self._port} 127.0.0.1\n"
            + "".join(f"{line}\n" for line in listener)
            # Started by root it would otherwise become a user who may not write here.
            + f"user {pwd.getpwuid(os.geteuid()).pw_name}\n"
            f"persistence true\npersistence_location {folder}/\n"
            f"max_queued_messages 0\nmax_inflight_messages {inflight}\n",
            "utf-8",
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            assert self._process.poll() is None, self._log.read_text("utf-8")
            assert time.monotonic() < deadline, self._log.read_text("utf-8")
            try:
                socket.create_connection(("127.0.0.1", self._port), timeout=5).close()
            except OSError:
                time.sleep(0.01)
            else:
                return

    @property
    def pid(self) -> int | None:
        """Of its process, while it runs."""
        return None if self._process is None else self._process.pid

    @property
    def log(self) -> str:
        """What it has said so far."""
        return self._log.read_text("utf-8", "replace")

    def end(self) -> None:
        self.stop()

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(_PATIENCE_S)
            self._process = None
