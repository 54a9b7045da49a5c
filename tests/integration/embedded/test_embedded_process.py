"""A child cannot outlive us, is stopped in order, and leaves its last words."""

import os
import secrets
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from smartsite.embedded.folders import ServiceFolder
from smartsite.embedded.process import Child, Lifeline, User, unusable_path
from smartsite.errors import Misconfigured, Unavailable

DEADLINE = 30.0
LIFELINES: list[Lifeline] = ["pdeathsig", "guardian"] if sys.platform == "linux" else ["guardian"]

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@pytest.fixture(params=LIFELINES)
def lifeline(request: pytest.FixtureRequest) -> Lifeline:
    chosen: Lifeline = request.param
    return chosen


def python(code: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-u", "-c", textwrap.dedent(code)]


def until(happens: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not happens():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


WAITS = "import signal; print('ready'); signal.pause()"
POLITE = """
    import signal, sys
    def leave(number, frame):
        print('leaving after', signal.Signals(number).name)
        sys.exit(7)
    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGQUIT, leave)
    print('ready')
    while True:
        signal.pause()
"""
STUBBORN = """
    import signal
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print('ready')
    while True:
        signal.pause()
"""


def started(child: Child) -> Child:
    child.start()
    until(lambda: "ready" in child.last_lines() or not child.alive)
    assert child.alive, child.last_lines()
    return child


def test_reports_exit_status_and_last_words(tmp_path: Path, lifeline: Lifeline) -> None:
    code = "import sys; print('one'); print('two', file=sys.stderr); sys.exit(3)"
    child = Child(python(code), name="it", log=tmp_path / "log", lifeline=lifeline)
    assert (child.alive, child.pid, child.returncode, child.wait()) == (False, None, None, None)
    child.start()
    assert child.wait(DEADLINE) == 3
    assert (child.alive, child.returncode) == (False, 3)
    assert child.last_lines() == ["one", "two"]
    assert child.last_lines(1) == ["two"]

    child.start()
    assert child.wait(DEADLINE) == 3
    assert child.last_lines() == ["one", "two"], "the words of the last start alone"


def test_reports_the_signal_that_ended_it(tmp_path: Path, lifeline: Lifeline) -> None:
    code = "import os, signal; os.kill(os.getpid(), signal.SIGTERM)"
    child = Child(python(code), name="it", log=tmp_path / "log", lifeline=lifeline)
    child.start()
    assert child.wait(DEADLINE) == -signal.SIGTERM


def test_stops_politely(tmp_path: Path, lifeline: Lifeline) -> None:
    child = started(Child(python(POLITE), name="it", log=tmp_path / "log", lifeline=lifeline))
    assert child.wait(0) is None
    assert child.stop() == 7
    assert child.last_lines(1) == ["leaving after SIGTERM"]
    assert child.stop() == 7, "stopping twice changes nothing"


def test_aborts_what_does_not_stop(tmp_path: Path, lifeline: Lifeline) -> None:
    child = started(
        Child(
            python(STUBBORN),
            name="it",
            log=tmp_path / "log",
            abort_signal=signal.SIGQUIT,
            lifeline=lifeline,
        )
    )
    assert child.stop(timeout=0.1) == -signal.SIGQUIT


def test_kills(tmp_path: Path, lifeline: Lifeline) -> None:
    child = started(Child(python(STUBBORN), name="it", log=tmp_path / "log", lifeline=lifeline))
    assert child.pid is not None
    family = [child.pid, *(p.pid for p in psutil.Process(child.pid).children(recursive=True))]
    child.kill()
    assert child.returncode == -signal.SIGKILL
    until(lambda: all(map(gone, family)))


def test_a_missing_program_is_misconfiguration(tmp_path: Path, lifeline: Lifeline) -> None:
    child = Child([tmp_path / "no-such-program"], name="The thing", lifeline=lifeline)
    with pytest.raises(Misconfigured, match=r"The thing cannot be started.*no-such-program"):
        child.start()
    assert not child.alive


def test_a_log_that_cannot_be_written_is_misconfiguration(
    tmp_path: Path, lifeline: Lifeline
) -> None:
    log = tmp_path / "no-such-folder" / "log"
    child = Child(python(WAITS), name="The thing", log=log, lifeline=lifeline)
    with pytest.raises(Misconfigured, match=r"The thing cannot be started.*no-such-folder"):
        child.start()
    assert not child.alive


PARENT = """
    import signal, sys
    from pathlib import Path
    from smartsite.embedded.process import Child
    lifeline, log, *program = sys.argv[1:]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for `command &`
    child = Child(program, name="it", log=Path(log), lifeline=lifeline, abort_signal={abort})
    child.start()
    print(child.pid, flush=True)
    try:
        sys.stdin.read()
    except KeyboardInterrupt:
        print("alive after Ctrl-C:", child.alive, flush=True)
        print("stopped with", child.stop(), flush=True)
"""


def parent_of(
    program: list[str], log: Path, lifeline: Lifeline, abort: int
) -> tuple["subprocess.Popen[str]", list[int]]:
    """A process that started the program as its child, and that child with its descendants."""
    code = textwrap.dedent(PARENT).format(abort=f"__import__('signal').Signals({abort})")
    parent = subprocess.Popen(
        [sys.executable, "-c", code, lifeline, log, *program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    until(lambda: log.exists() and "ready" in log.read_text())
    return parent, [pid, *(p.pid for p in psutil.Process(pid).children(recursive=True))]


@pytest.mark.parametrize("abort", [signal.SIGKILL, signal.SIGQUIT])
def test_a_killed_parent_takes_its_child_along(
    tmp_path: Path, lifeline: Lifeline, abort: signal.Signals
) -> None:
    log = tmp_path / "log"
    parent, family = parent_of(python(POLITE), log, lifeline, abort)
    with parent:
        parent.kill()
        until(lambda: all(map(gone, family)))
    assert ("leaving after SIGQUIT" in log.read_text()) == (abort == signal.SIGQUIT)


def test_ctrl_c_reaches_the_parent_alone(tmp_path: Path, lifeline: Lifeline) -> None:
    parent, family = parent_of(python(POLITE), tmp_path / "log", lifeline, signal.SIGKILL)
    with parent:
        os.killpg(parent.pid, signal.SIGINT)  # what a terminal does to its foreground group
        said, _ = parent.communicate(timeout=DEADLINE)
    assert said.splitlines() == ["alive after Ctrl-C: True", "stopped with 7"]
    until(lambda: all(map(gone, family)))


def test_outlives_the_thread_that_started_it(tmp_path: Path, lifeline: Lifeline) -> None:
    child = Child(python(WAITS), name="it", log=tmp_path / "log", lifeline=lifeline)
    thread = threading.Thread(target=started, args=[child])
    thread.start()
    thread.join()
    # Linux signals at the end of the forking thread: were it that one, this would end at once.
    assert child.wait(0.3) is None
    child.stop()


def test_inherits_no_ignored_or_blocked_signals(tmp_path: Path, lifeline: Lifeline) -> None:
    code = """
        import signal
        numbers = (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
        print([signal.getsignal(n) is signal.SIG_IGN for n in numbers])
        print(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
    """
    child = Child(python(code), name="it", log=tmp_path / "log", lifeline=lifeline)
    before = signal.signal(signal.SIGQUIT, signal.SIG_IGN)  # as a shell does for `command &`
    try:
        child.start()
    finally:
        signal.signal(signal.SIGQUIT, before)
    assert child.wait(DEADLINE) == 0
    assert child.last_lines() == ["[False, False, False]", "set()"]


def test_keeps_its_log_within_bounds(tmp_path: Path) -> None:
    code = """
        import time
        for number in range(50):
            print(f"{number:04d}" + "x" * 995)
            time.sleep(0.002)
        while True:
            print("done")
            time.sleep(0.05)
    """
    log = tmp_path / "log"
    limit = 8_000
    with Child(python(code), name="it", log=log, log_limit_bytes=limit) as child:
        until(lambda: child.alive and "done" in child.last_lines())
        assert log.stat().st_size < 2 * limit
        assert (tmp_path / "log.1").exists()


def test_a_lock_it_inherits_is_held_while_it_lives(tmp_path: Path, lifeline: Lifeline) -> None:
    folder = ServiceFolder(tmp_path / "folder", service="thing")
    folder.claim()
    child = Child(python(WAITS), name="it", log=tmp_path / "log", lifeline=lifeline)
    with folder.server_lock(0) as lock:
        child.start(keep_fds=[lock])
    with pytest.raises(Unavailable, match="left over from an earlier run"), folder.server_lock(0):
        pass
    child.kill()
    with folder.server_lock(DEADLINE):
        pass
    folder.release()


def test_works_as_a_context(tmp_path: Path) -> None:
    with Child(python(WAITS), name="it", log=tmp_path / "log") as child:
        assert child.alive
        assert "it, pid" in repr(child)
    assert not child.alive


@needs_root
def test_runs_as_another_user(tmp_path: Path, lifeline: Lifeline) -> None:
    nobody = User.named("nobody")
    # A shell: the user may be unable to reach this interpreter.
    program = ["/bin/sh", "-c", "id -u; id -g; id -G; echo ready; exec sleep 3600"]
    child = started(Child(program, name="it", log=tmp_path / "log", user=nobody, lifeline=lifeline))
    assert child.last_lines()[:3] == [str(nobody.uid), str(nobody.gid), str(nobody.gid)]
    child.stop()


@needs_root
def test_a_killed_parent_takes_a_child_of_another_user_along(
    tmp_path: Path, lifeline: Lifeline
) -> None:
    code = textwrap.dedent(PARENT).format(abort="__import__('signal').SIGQUIT")
    code = code.replace('name="it"', 'name="it", user=User.named("nobody")').replace(
        "import Child", "import Child, User"
    )
    log = tmp_path / "log"
    parent = subprocess.Popen(
        [sys.executable, "-c", code, lifeline, log, "/bin/sleep", "3600"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        family = [pid, *(p.pid for p in psutil.Process(pid).children(recursive=True))]
        assert psutil.Process(family[-1]).uids().effective == User.named("nobody").uid
        parent.kill()
        until(lambda: all(map(gone, family)))


@needs_root
def test_says_what_a_user_cannot_reach(tmp_path: Path, service_dir: Path) -> None:
    nobody = User.named("nobody")
    (service_dir / "open").write_text("")
    (service_dir / "shut").write_text("")
    (service_dir / "shut").chmod(0o600)
    (service_dir / "closed").mkdir(mode=0o700)
    assert unusable_path(nobody, [service_dir, service_dir / "open"]) is None
    assert unusable_path(nobody, [service_dir / "shut"]) == service_dir / "shut"
    assert unusable_path(nobody, [service_dir / "closed" / "x"]) == service_dir / "closed"


def test_an_unknown_user_is_misconfiguration() -> None:
    name = f"nobody-{secrets.token_hex(4)}"
    with pytest.raises(Misconfigured, match=name):
        User.named(name)
    with pytest.raises(Misconfigured, match="1999999999"):
        User.numbered(1_999_999_999)
