"""Both servers end with the process that started them, for root and for an ordinary user."""

import json
import os
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

import smartsite
from smartsite.embedded.folders import LOOPBACK
from smartsite.embedded.process import User, unusable_path

DEADLINE = 60.0
HOLD_SERVERS = Path(__file__).with_name("hold_servers.py")

Start = Callable[[Path], "subprocess.Popen[str]"]


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


def silent(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((LOOPBACK, port)) != 0


def usable_python(user: User) -> str:
    """An interpreter like ours that the user can run with our packages; skips if none."""
    needed = [HOLD_SERVERS, Path(smartsite.__path__[0]), Path(psycopg.__path__[0])]
    obstacles = []
    for python in (sys.executable, f"/usr/bin/python{sys.version_info[0]}.{sys.version_info[1]}"):
        if not Path(python).exists():
            continue
        obstacle = unusable_path(user, [Path(python).resolve(), *needed])
        if obstacle is None:
            return python
        obstacles.append(str(obstacle))
    pytest.skip(f"{user.name} cannot reach {' nor '.join(obstacles)}")


@pytest.fixture(params=["ourselves", "nobody"])
def start(request: pytest.FixtureRequest, service_dir: Path) -> Start:
    """Starts hold_servers.py, as ourselves or as an ordinary user with a home of its own."""
    user: dict[str, Any] = {}
    python = sys.executable
    if request.param == "nobody":
        if os.geteuid() != 0:
            pytest.skip("only root can become another user")
        nobody = User.named("nobody")
        python = usable_python(nobody)
        home = service_dir / "home"
        home.mkdir(mode=0o700)
        os.chown(home, nobody.uid, nobody.gid)
        os.chown(service_dir, nobody.uid, nobody.gid)
        packages = [
            sysconfig.get_path("purelib"),
            *(str(Path(p).parent) for p in smartsite.__path__),
        ]
        user = {
            "user": nobody.uid,
            "group": nobody.gid,
            "extra_groups": [],
            "cwd": home,
            "env": {
                "HOME": str(home),
                "PATH": os.defpath,
                "PYTHONPATH": os.pathsep.join(packages),
                "PYTHONDONTWRITEBYTECODE": "1",
            },
        }

    def begin(folder: Path) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [python, HOLD_SERVERS, folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            **user,
        )

    return begin


def said_by(parent: "subprocess.Popen[str]") -> dict[str, Any]:
    assert parent.stdout is not None
    said: dict[str, Any] = json.loads(parent.stdout.readline())
    return said


def test_nothing_is_left_of_a_killed_parent(start: Start, service_dir: Path) -> None:
    with start(service_dir) as parent:
        said = said_by(parent)
        assert not any(map(silent, said["ports"]))
        with psycopg.connect(said["database_url"]) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 7 AS value")
        # A session at work when the end comes.
        busy = psycopg.connect(said["database_url"])
        busy.execute("INSERT INTO kept VALUES (8)")
        parent.kill()
        until(lambda: all(map(gone, said["pids"])))
        until(lambda: all(map(silent, said["ports"])))
        busy.close()

    with start(service_dir) as parent:  # at once: it waits for what is still ending
        again = said_by(parent)
        assert again["ports"] == said["ports"]
        with psycopg.connect(again["database_url"]) as connection:
            assert connection.execute("SELECT value FROM kept").fetchall() == [(7,)]
        assert parent.stdin is not None
        parent.stdin.close()
        assert parent.wait(DEADLINE) == 0
    assert all(map(gone, again["pids"]))


def test_a_parent_killed_while_it_sets_up_can_start_anew(start: Start, service_dir: Path) -> None:
    with start(service_dir) as parent:
        until(lambda: (service_dir / "postgres" / "pgdata.new").exists())
        parent.kill()
    with start(service_dir) as parent:
        said = said_by(parent)
        assert parent.stdin is not None
        parent.stdin.close()
        assert parent.wait(DEADLINE) == 0
    assert all(map(gone, said["pids"]))
    assert not (service_dir / "postgres" / "pgdata.new").exists()
