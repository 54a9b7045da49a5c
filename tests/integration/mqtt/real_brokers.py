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

from smartsite.embedded.broker import EmbeddedBroker, greet

_PATIENCE_S = 30.0


class RealBroker(ABC):
    """What the tests need of either."""

    url: str

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
    """Mosquitto, which forgets on kill -9 what it has not saved: so it is asked to end."""

    def __init__(self, program: str, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port: int = probe.getsockname()[1]
        self.url = f"mqtt://127.0.0.1:{self._port}"
        self._log = folder / "mosquitto.log"
        self._command = [program, "-c", str(folder / "mosquitto.conf")]
        (folder / "mosquitto.conf").write_text(
            f"listener {self._port} 127.0.0.1\n"
            "allow_anonymous true\n"
            # Started by root it would otherwise become a user who may not write here.
            f"user {pwd.getpwuid(os.geteuid()).pw_name}\n"
            f"persistence true\npersistence_location {folder}/\n"
            "max_queued_messages 0\nmax_inflight_messages 1000\n",
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
                greet(self._port, "readiness")
            except OSError:
                time.sleep(0.01)
            else:
                return

    def end(self) -> None:
        self.stop()

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(_PATIENCE_S)
            self._process = None
