"""Stands between us and a program so that the program cannot outlive us.

Run by path in an isolated interpreter (``python -I -S launcher.py ...``) and never imported by
the product: it imports nothing but a few modules of the standard library and starts in about
13 ms. Two ways:

``pdeathsig`` (Linux)
    Give up root if told to, ask the kernel for a signal at our parent's death, check that the
    parent has not died meanwhile, and become the program. No process is left in between.

``guardian`` (elsewhere)
    Start the program as a child, forward signals to it, and end it when the pipe inherited from
    our parent reports end of file, which the kernel sees to however the parent dies.

A third, ``probe``, answers a question: which of these paths can a user not use?

Problems are written to the ``status`` pipe, which closes by itself when the program is running;
so the caller knows, when it reads end of file, that the lifeline is tied.
"""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False  # typing is not worth its import time here
if TYPE_CHECKING:
    from types import FrameType
    from typing import NoReturn

PR_SET_PDEATHSIG = 1  # linux/prctl.h
KEEP = -1  # a user or group id that means: stay who you are
ABORT_SECONDS = 6.0  # a little more than PostgreSQL itself waits before it kills its children

_FORWARDED = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
)


def drop_privileges(uid: int, gid: int) -> None:
    """Become another user for good, with no supplementary groups."""
    if uid == KEEP:
        return
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)


def default_signals() -> None:
    """Undo what exec would hand on: ignored and blocked signals.

    Python ignores SIGPIPE and SIGXFSZ, and a shell starts background jobs with SIGINT and
    SIGQUIT ignored; the program should see none of that.
    """
    for number in (signal.SIGPIPE, signal.SIGXFSZ, *_FORWARDED):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def become(argv: list[str], *, parent: int, abort: int, uid: int, gid: int) -> NoReturn:
    """Tie this process to its parent's life and turn into the program."""
    import ctypes  # before root is given up: the interpreter may lie where only root can read

    libc = ctypes.CDLL(None, use_errno=True)
    drop_privileges(uid, gid)
    # Only now: the kernel forgets the wish whenever the user id changes.
    if libc.prctl(PR_SET_PDEATHSIG, abort, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        os._exit(128 + abort)  # it died before the wish was made: nobody will signal us
    default_signals()
    os.execv(argv[0], argv)  # noqa: S606 - an argument list, and no shell wanted


def guard(
    argv: list[str], *, status: int, lifeline: int, abort: int, uid: int, gid: int
) -> NoReturn:
    """Run the program as a child and end it when the lifeline reports end of file."""
    import select
    import subprocess

    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)

    keep = uid == KEEP
    child = subprocess.Popen(
        argv,
        user=None if keep else uid,
        group=None if keep else gid,
        extra_groups=None if keep else [],
        close_fds=False,  # descriptors meant for the program are inheritable, ours are not
        preexec_fn=default_signals,
    )

    def forward(number: int, _frame: FrameType | None) -> None:
        child.send_signal(number)

    for number in _FORWARDED:
        signal.signal(number, forward)
    os.close(status)

    while child.poll() is None:
        ready, _, _ = select.select([lifeline, wake_read], [], [])
        if wake_read in ready:
            os.read(wake_read, 4096)
        if lifeline in ready and not os.read(lifeline, 1):
            child.send_signal(abort)
            try:
                child.wait(ABORT_SECONDS)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
    _end_like(child.returncode)


def _end_like(returncode: int) -> NoReturn:
    """Exit as the program did, by the same signal if it was one."""
    if returncode < 0:
        if -returncode not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-returncode, signal.SIG_DFL)
        os.kill(os.getpid(), -returncode)
    os._exit(returncode if returncode >= 0 else 128 - returncode)


def probe(paths: list[str], *, uid: int, gid: int) -> None:
    """Print the first path, or folder on the way to one, that the user cannot read or enter."""
    from pathlib import Path

    drop_privileges(uid, gid)
    for text in paths:
        path = Path(text)
        for folder in reversed(path.parents):
            if not os.access(folder, os.X_OK):
                print(folder)
                return
        if not os.access(path, os.X_OK if path.is_dir() else os.R_OK):
            print(path)
            return


def main(arguments: list[str]) -> None:
    """Read the numbers the parent passed, then do what the first word says."""
    mode, numbers, argv = arguments[0], [int(word) for word in arguments[1:7]], arguments[7:]
    parent, abort, uid, gid, status, lifeline = numbers
    for descriptor in (status, lifeline):
        if descriptor >= 0:
            os.set_inheritable(descriptor, False)
    try:
        if mode == "pdeathsig":
            become(argv, parent=parent, abort=abort, uid=uid, gid=gid)
        if mode == "guardian":
            guard(argv, status=status, lifeline=lifeline, abort=abort, uid=uid, gid=gid)
        probe(argv, uid=uid, gid=gid)
    except OSError as error:
        if status < 0:
            raise
        os.write(status, str(error).encode())
        os._exit(127)


if __name__ == "__main__":
    main(sys.argv[1:])
