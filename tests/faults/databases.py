"""Databases that may be killed."""

from __future__ import annotations

import contextlib
import secrets
import signal
import threading
from collections.abc import Iterator

import psutil
import psycopg
from psycopg import sql

from ingest.store.migrate import migrate
from smartsite.embedded.postgres import EmbeddedPostgres

_one_at_a_time = threading.Lock()
"""Alembic's context is global."""


@contextlib.contextmanager
def new_database(server: EmbeddedPostgres) -> Iterator[str]:
    """A migrated database of its own on a server, which may be dead when this ends."""
    name = f"faults_{secrets.token_hex(6)}"
    with psycopg.connect(server.url_of("postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    with _one_at_a_time:
        migrate(server.url_of(name))
    yield server.url_of(name)


def processes(postgres: EmbeddedPostgres) -> list[psutil.Process]:
    """The server's process and all its children."""
    assert postgres.pid is not None
    parent = psutil.Process(postgres.pid)
    return [parent, *parent.children(recursive=True)]


def send(receivers: list[psutil.Process], number: signal.Signals) -> None:
    """Send a signal to all that still live."""
    for process in receivers:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def kill(postgres: EmbeddedPostgres) -> None:
    """kill -9 of the server and all its processes."""
    send(processes(postgres), signal.SIGKILL)
    postgres.wait()
