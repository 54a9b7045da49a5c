"""The folder of an embedded server: whose it is, and which port it had last time.

Two locks, both told by the kernel (``flock``) so that neither can go stale:

- ``owner.lock`` is held by the smartsite process that runs the server. Another one is refused.
- ``server.lock`` is inherited by the server and all its processes. It stays held while one of
  them lives, even when its owner was killed; the next owner waits for it.
"""

import contextlib
import fcntl
import logging
import os
import secrets
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from smartsite.errors import Misconfigured, Unavailable

LOOPBACK = "127.0.0.1"
# Below the range from which Linux (32768) and macOS (49152) take ports for outgoing connections,
# so that a remembered port is seldom taken by chance.
_FIRST_PORT, _LAST_PORT = 20_000, 32_000
_POLL_SECONDS = 0.02

_logger = logging.getLogger(__name__)


class ServiceFolder:
    """One embedded server's folder.

    Args:
        path: the folder; made if missing.
        service: what the server is called in messages.
        mode: permissions of the folder.
    """

    def __init__(self, path: Path, *, service: str, mode: int = 0o700) -> None:
        self.path = path
        self.service = service
        self._mode = mode
        self._owner_lock: int | None = None

    def claim(self) -> None:
        """Make the folder if need be and become its owner.

        Raises:
            Misconfigured: another smartsite owns it, or we may not write there.
        """
        if self._owner_lock is not None:
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if self.path.stat().st_uid == os.geteuid():
                self.path.chmod(self._mode)
            lock = self._open_lock("owner.lock")
        except OSError as error:
            raise Misconfigured(
                f"The {self.service} folder {self.path} cannot be used ({error.strerror}). "
                "Choose another folder, or run as the user it belongs to."
            ) from error
        if not _try_lock(lock):
            owner = os.pread(lock, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(lock)
            raise Misconfigured(
                f"The {self.service} folder {self.path} is in use by another smartsite "
                f"(process {owner}). Stop that one, or choose another folder."
            )
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        self._owner_lock = lock

    def release(self) -> None:
        """Give the folder up."""
        if self._owner_lock is not None:
            os.close(self._owner_lock)
            self._owner_lock = None

    @contextlib.contextmanager
    def server_lock(self, seconds: float) -> Iterator[int]:
        """Lend the lock that the server is to inherit, once the previous server is gone.

        Args:
            seconds: how long to wait for a previous server that is still ending.

        Raises:
            Unavailable: it has not ended in time.
        """
        lock = self._open_lock("server.lock")
        try:
            deadline = time.monotonic() + seconds
            while not _try_lock(lock):
                if time.monotonic() > deadline:
                    raise Unavailable(
                        f"A {self.service} left over from an earlier run still works in "
                        f"{self.path} after {seconds:.0f} s. Wait for its end, or end it by hand."
                    )
                time.sleep(_POLL_SECONDS)
            yield lock
        finally:
            os.close(lock)

    def choose_port(self, wanted: int, *, avoid: int | None = None) -> int:
        """Choose the server's port: the wanted one, else last time's, else a free one.

        Args:
            wanted: a fixed port, or 0 for any.
            avoid: a port that was just seen to be taken.

        Returns:
            A port of the loopback interface that was free a moment ago.

        Raises:
            Unavailable: the wanted port is taken.
            Misconfigured: the wanted port is reserved for root.
        """
        if wanted:
            try:
                free = _becomes_free(wanted)
            except PermissionError:
                raise Misconfigured(
                    f"The {self.service} may not listen on port {wanted}: ports below 1024 are "
                    "root's. Set a higher port (0: any free one)."
                ) from None
            if not free:
                raise Unavailable(
                    f"The port {wanted} that the {self.service} should listen on is taken by "
                    "another program. End that program, or set another port (0: any free one)."
                )
            return wanted
        last = self._last_port()
        if last and last != avoid and _becomes_free(last):
            return last
        while True:
            port = _FIRST_PORT + secrets.randbelow(_LAST_PORT - _FIRST_PORT)
            if port != avoid and _is_free(port):
                break
        if last:
            _logger.warning("%s: port %d is taken, using %d from now on", self.service, last, port)
        return port

    def remember_port(self, port: int) -> None:
        """Note the port for the next start."""
        if port != self._last_port():
            write_private(self.path / "port", f"{port}\n")

    def running_port(self) -> int | None:
        """The port of the server that works here, whoever runs it; None if there is none."""
        try:
            lock = os.open(self.path / "server.lock", os.O_RDONLY)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return self._last_port()
        finally:
            os.close(lock)
        return None

    def _last_port(self) -> int | None:
        try:
            port = int((self.path / "port").read_text())
        except (OSError, ValueError):
            return None
        return port if 0 < port < 65_536 else None

    def _open_lock(self, name: str) -> int:
        return os.open(self.path / name, os.O_RDWR | os.O_CREAT, 0o600)


def write_private(path: Path, text: str) -> None:
    """Replace a file's text at once, durably, readable by its owner alone."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(descriptor)
    temporary.replace(path)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _becomes_free(port: int, seconds: float = 0.5) -> bool:
    """Whether a port is free, or is given up within moments by a server that just ended."""
    deadline = time.monotonic() + seconds
    while not _is_free(port):
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As the servers do: a closed connection that lingers does not make a port taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except PermissionError:
            raise
        except OSError:
            return False
    return True
