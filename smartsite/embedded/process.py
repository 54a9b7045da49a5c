"""Children that cannot outlive us.

A `Child` runs one program: a server, or a role of our own (``sys.executable -m smartsite run
--role ...``). However we end, be it by kill -9, the operating system sees to the child's end:

- Linux: the kernel sends it ``abort_signal`` at our death (``PR_SET_PDEATHSIG``). That wish is
  tied to the *thread* that forked, so children are forked by one thread that lives as long as
  this process, whoever calls; and it is forgotten at a change of user, so it is made after that.
- elsewhere: a small guardian process in between holds one end of a pipe, and ends the program
  when the other end, ours, closes.

Each child has a session of its own: Ctrl-C in the terminal reaches us alone, and we stop the
children in the order that suits them.
"""

import contextlib
import os
import pwd
import queue
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from smartsite.embedded.launcher import ABORT_SECONDS, KEEP
from smartsite.errors import Misconfigured

Lifeline = Literal["pdeathsig", "guardian"]

LIFELINE: Lifeline = "pdeathsig" if sys.platform == "linux" else "guardian"
LOG_LIMIT_BYTES = 4 * 2**20
_TAIL_BYTES = 64 * 1024
_LAUNCHER = Path(__file__).with_name("launcher.py")


@dataclass(frozen=True, slots=True)
class User:
    """Whom a child runs as when we are root.

    Attributes:
        name: for messages.
        uid: numeric user id.
        gid: numeric group id; supplementary groups are dropped.
    """

    name: str
    uid: int
    gid: int

    @classmethod
    def named(cls, name: str) -> "User":
        """Look a user up by name.

        Raises:
            Misconfigured: the machine has no such user.
        """
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            raise Misconfigured(
                f"There is no user {name!r} on this machine. Name one that exists."
            ) from None
        return cls(name, entry.pw_uid, entry.pw_gid)

    @classmethod
    def numbered(cls, uid: int) -> "User":
        """Look a user up by id.

        Raises:
            Misconfigured: the machine has no such user.
        """
        try:
            entry = pwd.getpwuid(uid)
        except KeyError:
            raise Misconfigured(
                f"There is no user with the id {uid} on this machine. Name one that exists."
            ) from None
        return cls(entry.pw_name, uid, entry.pw_gid)


class Child:
    """One program that ends when we end.

    `start` may be called again after the program has ended; restarting is the caller's decision.

    Args:
        argv: the program, by absolute path, and its arguments.
        name: for messages.
        env: the whole environment; ours if None.
        cwd: working directory; ours if None.
        user: whom to run as, if we are root; ourselves if None.
        log: where standard output and standard error go, appended; ours if None. Held below about
            twice `log_limit_bytes`, with one older file ``<log>.1``, by every look at `alive`.
        log_limit_bytes: size at which the log is set aside.
        stop_signal: asks the program for an orderly end.
        stop_seconds: how long it is given for that.
        abort_signal: the quickest end the program knows; also what it gets when we die.
        lifeline: how it is tied to us; by the platform if None.
    """

    def __init__(
        self,
        argv: Sequence[str | Path],
        *,
        name: str,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        user: User | None = None,
        log: Path | None = None,
        log_limit_bytes: int = LOG_LIMIT_BYTES,
        stop_signal: signal.Signals = signal.SIGTERM,
        stop_seconds: float = 10.0,
        abort_signal: signal.Signals = signal.SIGKILL,
        lifeline: Lifeline | None = None,
    ) -> None:
        self.argv = [os.fspath(word) for word in argv]
        self.name = name
        self.log = log
        self._env = env
        self._cwd = cwd
        self._user = user
        self._log_limit_bytes = log_limit_bytes
        self._log_start = 0
        self._stop_signal = stop_signal
        self._stop_seconds = stop_seconds
        self._abort_signal = abort_signal
        self._lifeline: Lifeline = lifeline or LIFELINE
        self._pipe: int | None = None
        self._popen: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        state = "not started" if self._popen is None else f"pid {self.pid}"
        return f"<Child {self.name}, {state}>"

    def start(self, *, keep_fds: Sequence[int] = ()) -> None:
        """Start the program; when this returns, it runs and is tied to us.

        Args:
            keep_fds: descriptors that the program inherits, such as a lock it holds while it
                lives.

        Raises:
            Misconfigured: the program is missing, or we may not run it.
        """
        if self.alive:
            return
        self._drop_pipe()
        status_read, status_write = os.pipe()
        pipe_read, self._pipe = os.pipe() if self._lifeline == "guardian" else (-1, None)
        user = self._user or User("", KEEP, KEEP)
        numbers = (os.getpid(), self._abort_signal, user.uid, user.gid, status_write, pipe_read)
        command = [
            sys.executable,
            "-I",
            "-S",
            os.fspath(_LAUNCHER),
            self._lifeline,
            *(str(int(number)) for number in numbers),
            *self.argv,
        ]
        inherited = [fd for fd in (status_write, pipe_read, *keep_fds) if fd >= 0]

        def fork(output: int | None) -> None:
            self._popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self._env,
                cwd=self._cwd,
                start_new_session=True,
                pass_fds=inherited,
            )

        with os.fdopen(status_read, "rb") as status:
            try:
                try:
                    with self._opened_log() as output:
                        _forker.run(lambda: fork(output))
                finally:
                    os.close(status_write)
                    if pipe_read >= 0:
                        os.close(pipe_read)
                problem = status.read().decode()
            except OSError as error:
                self._drop_pipe()
                raise Misconfigured(
                    f"{self.name} cannot be started: {error}. "
                    "Check the folders it works in and that the Python environment is complete."
                ) from error
            except BaseException:  # Ctrl-C while it starts
                self.kill()
                raise
        if problem:
            self.kill()
            raise Misconfigured(
                f"{self.name} cannot be started: {problem}. "
                f"Check that {self.argv[0]} exists and may be run"
                + (f" by the user {user.name}." if user.name else ".")
            )

    @property
    def pid(self) -> int | None:
        """Process id of the program (of its guardian, where there is one); None before `start`."""
        return None if self._popen is None else self._popen.pid

    @property
    def alive(self) -> bool:
        """Whether the program runs. Each look also keeps its log within bounds."""
        if self._popen is None:
            return False
        self._bound_log()
        return self._popen.poll() is None

    @property
    def returncode(self) -> int | None:
        """Exit status, negative for a signal; None while it runs or before `start`."""
        return None if self._popen is None else self._popen.poll()

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait for the program's end.

        Args:
            timeout: at most so many seconds; for ever if None.

        Returns:
            The exit status, negative for a signal, or None if it still runs or never ran.
        """
        if self._popen is None:
            return None
        try:
            return self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the program, if it runs."""
        if number == signal.SIGKILL:
            self._kill_group()
        elif self._popen is not None:
            self._popen.send_signal(number)

    def stop(self, timeout: float | None = None) -> int | None:
        """End the program: ask, wait, abort, wait, kill.

        Args:
            timeout: seconds between asking and aborting; `stop_seconds` if None.

        Returns:
            The exit status, or None if it never ran.
        """
        patience = self._stop_seconds if timeout is None else timeout
        self.send_signal(self._stop_signal)
        if self.wait(patience) is None:
            self.send_signal(self._abort_signal)
            if self.wait(ABORT_SECONDS) is None:
                self._kill_group()
        status = self.wait()
        self._drop_pipe()
        return status

    def kill(self) -> None:
        """End the program at once, with no chance to tidy up."""
        self._kill_group()
        self.wait()
        self._drop_pipe()

    def last_lines(self, count: int = 20) -> list[str]:
        """The last lines that the program logged since its last start; none without a log."""
        if self.log is None:
            return []
        try:
            with self.log.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(self._log_start, size - _TAIL_BYTES))
                text = file.read().decode(errors="replace")
        except FileNotFoundError:
            return []
        return text.splitlines()[-count:]

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

    def _kill_group(self) -> None:
        """Kill the program and its guardian; only while we have not yet seen its end."""
        if self._popen is None or self._popen.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            try:
                os.killpg(self._popen.pid, signal.SIGKILL)
            except PermissionError:  # macOS, where a member of the group is not ours
                self._popen.kill()

    def _drop_pipe(self) -> None:
        if self._pipe is not None:
            os.close(self._pipe)
            self._pipe = None

    @contextlib.contextmanager
    def _opened_log(self) -> Iterator[int | None]:
        """Open the log for the program, and remember where this start begins in it."""
        if self.log is None:
            yield None
            return
        descriptor = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            self._bound_log()
            self._log_start = os.fstat(descriptor).st_size
            yield descriptor
        finally:
            os.close(descriptor)

    def _bound_log(self) -> None:
        """Set the log aside when it has grown too long.

        The program keeps its descriptor, opened for appending, so it goes on at the start of the
        emptied file; a line written between copying and emptying is lost.
        """
        if self.log is None or not self.log.exists():
            return
        if self.log.stat().st_size > self._log_limit_bytes:
            shutil.copyfile(self.log, self.log.with_name(self.log.name + ".1"))
            os.truncate(self.log, 0)
            self._log_start = 0


def unusable_path(user: User, paths: Sequence[Path]) -> Path | None:
    """Ask the kernel what a user cannot reach: modes, access lists and mounts all count.

    Args:
        user: who would use the paths; we must be root.
        paths: files to read and folders to enter.

    Returns:
        The first folder or file that stands in the way, None if there is none.

    Raises:
        Misconfigured: we may not become that user.
    """
    numbers = (0, 0, user.uid, user.gid, -1, -1)
    answer = subprocess.run(
        [
            sys.executable,
            "-I",
            "-S",
            _LAUNCHER,
            "probe",
            *map(str, numbers),
            *(path.absolute() for path in paths),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode != 0:
        reason = (answer.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise Misconfigured(
            f"Root may not become the user {user.name} here ({reason}). "
            "Run as an ordinary user, or allow the change of user (CAP_SETUID and CAP_SETGID)."
        )
    return Path(answer.stdout.rstrip("\n")) if answer.stdout else None


class _Forker:
    """Runs what forks in one thread that lives as long as this process."""

    def __init__(self) -> None:
        self._requests: queue.SimpleQueue[tuple[Callable[[], None], Future[None]]]
        self._owner: int | None = None
        self._guard = threading.Lock()

    def run(self, fork: Callable[[], None]) -> None:
        with self._guard:
            if self._owner != os.getpid():  # first use, here or in a fork of ours
                self._requests = queue.SimpleQueue()
                threading.Thread(target=self._serve, name="forker", daemon=True).start()
                self._owner = os.getpid()
        done: Future[None] = Future()
        self._requests.put((fork, done))
        done.result()

    def _serve(self) -> None:
        while True:
            fork, done = self._requests.get()
            try:
                fork()
            except BaseException as error:  # noqa: BLE001 - handed to whoever asked
                done.set_exception(error)
            else:
                done.set_result(None)


_forker = _Forker()
