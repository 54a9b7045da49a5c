"""Databases with TimescaleDB: one in WebAssembly where Node is, one on a server that is named."""

import fcntl
import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from ingest.store.migrate import migrate

HERE = Path(__file__).parent
SERVER_VARIABLE = "SMARTSITE_TEST_TIMESCALE_URL"
OLDEST_NODE = 20
INSTALL_TIMEOUT_S = 90


def _integrity(lock_file: Path) -> dict[str, str]:
    """The hash of every package in a lock file, by its place; none where there is no such file."""
    if not lock_file.is_file():
        return {}
    packages = json.loads(lock_file.read_text("utf-8"))["packages"]
    return {path: package["integrity"] for path, package in packages.items() if path}


def _install() -> None:
    """Install the locked packages unless they are there; skip where that cannot be done."""
    npm = shutil.which("npm")
    lock_file = HERE / "package-lock.json"
    with lock_file.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another session may be testing this very checkout
        if _integrity(HERE / "node_modules" / ".package-lock.json") == _integrity(lock_file):
            return
        if npm is None:
            pytest.skip("npm is not installed here, and the packages of Node are not either")
        try:
            subprocess.run(
                [npm, "ci", "--ignore-scripts"],
                cwd=HERE,
                check=True,
                capture_output=True,
                timeout=INSTALL_TIMEOUT_S,
            )
        except subprocess.TimeoutExpired:
            pytest.skip(f"npm ci did not end within {INSTALL_TIMEOUT_S} s")
        except subprocess.CalledProcessError as fault:
            said = fault.stderr.decode("utf-8", "replace").strip().splitlines()
            errors = [line for line in said if line.startswith("npm error")]
            pytest.skip(f"npm ci is not possible here: {' '.join(errors[:3]) or fault}")


@contextmanager
def _webassembly(log: Path) -> Iterator[str]:
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node is not installed here")
    version = subprocess.run([node, "--version"], check=True, capture_output=True, text=True).stdout
    if int(version.strip().removeprefix("v").split(".")[0]) < OLDEST_NODE:
        pytest.skip(f"Node {OLDEST_NODE} or later is needed, here is {version.strip()}")
    _install()
    with (
        log.open("w") as errors,
        subprocess.Popen(
            [node, HERE / "server.js"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as server,
    ):
        assert server.stdout is not None
        port = server.stdout.readline().strip()
        assert port, log.read_text("utf-8")
        try:
            yield f"postgresql://postgres:postgres@127.0.0.1:{port}/postgres"
        finally:
            assert server.stdin is not None
            server.stdin.close()  # it ends with its input, also when this process is killed


@contextmanager
def _full_server() -> Iterator[str]:
    url = os.environ.get(SERVER_VARIABLE)
    if not url:
        pytest.skip(f"{SERVER_VARIABLE} names no server with TimescaleDB")
    name = f"smartsite_test_{secrets.token_hex(6)}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    try:
        yield make_conninfo(url, dbname=name)
    finally:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(
                sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name))
            )


@pytest.fixture(scope="session", params=["webassembly", "server"])
def timescale_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A database that our migrations found with TimescaleDB at hand; take `timescale_url`."""
    with ExitStack() as stack:
        if request.param == "webassembly":
            log = tmp_path_factory.mktemp("timescale") / "server.log"
            url = stack.enter_context(_webassembly(log))
        else:
            url = stack.enter_context(_full_server())
        before, _ = migrate(url)
        assert before is None
        yield url


@pytest.fixture
def timescale_url(timescale_server: str) -> str:
    """Connection string of a migrated database with TimescaleDB, emptied before each test.

    The one in WebAssembly serves one connection at a time: close one before the next is opened.
    """
    with psycopg.connect(timescale_server) as connection:
        tables = connection.execute(
            "SELECT tablename FROM pg_tables"
            " WHERE schemaname = 'public' AND tablename <> 'alembic_version'"
        ).fetchall()
        connection.execute(
            sql.SQL("TRUNCATE {} RESTART IDENTITY").format(
                sql.SQL(", ").join(sql.Identifier(name) for (name,) in tables)
            )
        )
    return timescale_server
