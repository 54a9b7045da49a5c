"""Fixtures for everyone: one real database server and one real broker for a whole test session.

Nothing starts before a test asks for it, so tests of pure code pay nothing.
"""

import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from ingest.store.migrate import migrate
from smartsite.embedded.broker import EmbeddedBroker, greet
from smartsite.embedded.postgres import EmbeddedPostgres

_ROOMY_BYTES = 4 * 2**30


def _open_to_all(folder: Path) -> bool:
    return all(
        part.stat().st_mode & stat.S_IXOTH for part in (folder.resolve(), *folder.resolve().parents)
    )


@pytest.fixture(scope="session")
def service_root() -> Iterator[Path]:
    """A folder for the files of servers, removed at the end.

    Started by root, PostgreSQL runs as another user, who cannot enter pytest's own temporary
    folders.
    """
    places = [Path(tempfile.gettempdir()), Path("/var/tmp"), Path("/tmp")]
    memory = Path("/dev/shm")
    # Many short-lived servers: memory spares a slow disk, where there is enough of it.
    if memory.is_dir() and shutil.disk_usage(memory).free > _ROOMY_BYTES:
        places.insert(0, memory)
    base = next((place for place in places if place.is_dir() and _open_to_all(place)), places[0])
    root = Path(tempfile.mkdtemp(prefix="smartsite-test-", dir=base))
    root.chmod(0o755)
    yield root
    shutil.rmtree(root)


@pytest.fixture
def service_dir(service_root: Path) -> Iterator[Path]:
    """A folder of one test's own for the files of servers it starts itself."""
    folder = Path(tempfile.mkdtemp(dir=service_root))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def postgres_server(service_root: Path) -> Iterator[EmbeddedPostgres]:
    """The session's database server; tests take `database_url` instead.

    It does not wait for the disk: what survives a crash is tested with servers that do.
    """
    hasty = {"fsync": "off", "full_page_writes": "off", "autovacuum": "off"}
    with EmbeddedPostgres(service_root / "postgres", settings=hasty) as server:
        yield server


def _database(server: EmbeddedPostgres, template: str) -> Iterator[str]:
    name = f"test_{secrets.token_hex(6)}"
    with psycopg.connect(server.url_of("postgres"), autocommit=True) as connection:
        connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy").format(
                sql.Identifier(name), sql.Identifier(template)
            )
        )
        yield server.url_of(name)
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture(scope="session")
def migrated_template(postgres_server: EmbeddedPostgres) -> str:
    """Name of the migrated database that every test's database is a copy of.

    Nobody may stay connected to it: PostgreSQL copies no database that is in use.
    """
    name = "smartsite_template"
    with psycopg.connect(postgres_server.url_of("postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    migrate(postgres_server.url_of(name))
    return name


@pytest.fixture
def empty_database_url(postgres_server: EmbeddedPostgres) -> Iterator[str]:
    """Connection string of a database of the test's own without any schema."""
    yield from _database(postgres_server, "template1")


@pytest.fixture
def database_url(postgres_server: EmbeddedPostgres, migrated_template: str) -> Iterator[str]:
    """Connection string of a database of the test's own, dropped afterwards."""
    yield from _database(postgres_server, migrated_template)


@pytest.fixture(scope="session")
def broker_server(service_root: Path) -> Iterator[EmbeddedBroker]:
    """The session's broker; tests take `broker_url` instead."""
    with EmbeddedBroker(service_root / "broker") as server:
        yield server


@pytest.fixture
def broker_url(broker_server: EmbeddedBroker) -> str:
    """Where to connect: ``mqtt://127.0.0.1:PORT``.

    The broker is shared: use `mqtt_prefix` in topics and `mqtt_client_id` for clients, so that
    no test hears another one's messages or resumes its session.
    """
    return broker_server.url


@pytest.fixture
def mqtt_prefix() -> str:
    """A first level for topics that no other test uses; retained messages stay behind it."""
    return f"t{secrets.token_hex(4)}"


@pytest.fixture
def mqtt_client_id(broker_server: EmbeddedBroker) -> Iterator[Callable[[str], str]]:
    """Makes client ids of the test's own, whose sessions the broker forgets afterwards."""
    given: list[str] = []

    def make(role: str = "client") -> str:
        given.append(f"{role}-{secrets.token_hex(4)}")
        return given[-1]

    yield make
    assert broker_server.port is not None
    for client_id in given:
        greet(broker_server.port, client_id)
