"""A real Mosquitto under the configuration of `deploy/`, on free ports of loopback."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import aiomqtt

PASSWD = "mosquitto_passwd"
PATIENCE_SECONDS = 30.0
POLL_SECONDS = 0.01


class Mosquitto:
    """One broker with the users of a `secrets` folder; blocking, but for its clients.

    Attributes:
        devices: Port of the listener for devices.
        service: Port of the listener for the service.
    """

    def __init__(self, program: str, deploy: Path, folder: Path) -> None:
        self.devices, self.service = _free_ports()
        self._program = program
        self._database = folder / "mosquitto.db"
        self._log = folder / "mosquitto.log"
        self._configuration = folder / "mosquitto.conf"
        self._process: subprocess.Popen[bytes] | None = None
        text = (deploy / "mosquitto" / "mosquitto.conf").read_text("utf-8")
        for ours, here in {
            "/mosquitto/access/passwords": str(deploy / "broker" / "passwords"),
            "/mosquitto/access/acl": str(deploy / "broker" / "acl"),
            "/mosquitto/data/": f"{folder}/",
            "\nlistener 1883\n": f"\nlistener {self.devices} 127.0.0.1\n",
            "\nlistener 1884\n": f"\nlistener {self.service} 127.0.0.1\n",
        }.items():
            assert text.count(ours) == 1, ours
            text = text.replace(ours, here)
        # Started by root it would otherwise become a user who may not enter a test's folders.
        user = pwd.getpwuid(os.geteuid()).pw_name
        self._configuration.write_text(f"{text}\nuser {user}\n", "utf-8")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end(signal.SIGTERM)

    @property
    def log(self) -> str:
        """What it has said so far."""
        return self._log.read_text("utf-8", "replace")

    def start(self) -> None:
        """Start it and return when it listens."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [self._program, "-c", str(self._configuration)],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not all(_listens(port) for port in (self.devices, self.service)):
            assert self._process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(POLL_SECONDS)

    def kill(self) -> None:
        """End it at once, as kill -9 does."""
        self._end(signal.SIGKILL)

    def reload(self) -> None:
        """Have it read its passwords and its ACL again."""
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)

    def wait_until_saved(self) -> None:
        """Return when what it has acknowledged by now is on the disk."""
        now = time.time_ns()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (self._database.exists() and self._database.stat().st_mtime_ns > now):
            assert time.monotonic() < deadline, "it has not saved"
            time.sleep(POLL_SECONDS)

    def as_device(
        self,
        user: str,
        password: str,
        identifier: str | None = None,
        will: aiomqtt.Will | None = None,
    ) -> aiomqtt.Client:
        """A client of the devices' listener."""
        return aiomqtt.Client(
            "127.0.0.1",
            self.devices,
            username=user,
            password=password,
            identifier=identifier,
            will=will,
            timeout=PATIENCE_SECONDS,
        )

    def as_service(
        self, password: str, identifier: str, *, lasting: bool = False
    ) -> aiomqtt.Client:
        """A client of the service's listener, with a session that lasts or none."""
        return aiomqtt.Client(
            "127.0.0.1",
            self.service,
            username="smartsite",
            password=password,
            identifier=identifier,
            clean_session=not lasting,
            timeout=PATIENCE_SECONDS,
        )

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(PATIENCE_SECONDS)
            self._process = None


def find_program(program: str) -> str | None:
    """Where a program of Mosquitto is, if it is installed."""
    # Debian keeps servers where only root's PATH looks.
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin")


def shell_environment(deploy: Path) -> dict[str, str]:
    """With `mosquitto_passwd`, or what stands in for it where there is no broker either."""
    environment = dict(os.environ)
    found = find_program(PASSWD)
    if found is None:
        stand_in = deploy / "bin" / PASSWD
        stand_in.parent.mkdir(exist_ok=True)
        stand_in.write_text('#!/bin/sh\necho "$3:unhashed" >>"$2"\n', "utf-8")
        stand_in.chmod(0o755)
        found = str(stand_in)
    environment["PATH"] = f"{Path(found).parent}:{environment['PATH']}"
    return environment


async def accepted(client: aiomqtt.Client) -> bool:
    """Whether the broker lets a client in."""
    try:
        async with client:
            return True
    except aiomqtt.MqttError:
        return False


def _free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
