"""The broker and the database that a command works with: our own children, or somebody else's.

While `smartsite run` keeps embedded services, a private file in the data folder says where
they are, so that `smartsite violations` and the like find them; otherwise such a command starts
the embedded database for as long as it runs.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import msgspec
import psutil
import psycopg.conninfo

from smartsite.embedded.broker import EmbeddedBroker
from smartsite.embedded.folders import write_private
from smartsite.embedded.postgres import EmbeddedPostgres
from smartsite.errors import Unavailable
from smartsite.settings import Settings, resolve_secret

EMBEDDED = "embedded"
DEMO_FOLDER = "demo"
"""Where below the data folder the demo keeps its own."""


class Whereabouts(msgspec.Struct):
    """Where the services of a running `smartsite run` are; kept readable by its owner alone.

    Attributes:
        pid: The supervisor's.
        started: When that process was started, so that another of its number is told apart.
        broker_url: Of the broker; "" where the command started none.
        database_url: Of the database, password included.
    """

    pid: int
    started: float
    broker_url: str
    database_url: str


def _file(settings: Settings) -> Path:
    return settings.data_dir / "services.json"


def running(settings: Settings) -> Whereabouts | None:
    """Find the services of a running supervisor over the same data folder.

    Args:
        settings: Its data folder counts.

    Returns:
        Where they are; None if no supervisor runs.
    """
    try:
        found = msgspec.json.decode(_file(settings).read_bytes(), type=Whereabouts)
    except (OSError, msgspec.MsgspecError):
        return None
    try:
        alive = psutil.Process(found.pid).create_time() == found.started
    except psutil.Error:
        alive = False
    return found if alive else None


def external_database_url(settings: Settings) -> str:
    """The connection string of a database that is not embedded, password included."""
    if settings.database.password is None:
        return settings.database.url
    return psycopg.conninfo.make_conninfo(
        settings.database.url,
        password=resolve_secret(settings.database.password, "database.password"),
    )


def password_environment(database_url: str) -> dict[str, str]:
    """Hand a connection string to a child process: the password apart from the URL.

    Args:
        database_url: Password included.

    Returns:
        Environment variables for `database.url` and `database.password`.
    """
    parts = urlsplit(database_url)
    if parts.password is None:
        return {"SMARTSITE_DATABASE__URL": database_url}
    host = parts.netloc.rpartition("@")[2]
    bare = parts._replace(netloc=f"{parts.username}@{host}").geturl()
    return {
        "SMARTSITE_DATABASE__URL": bare,
        "SMARTSITE_DATABASE__PASSWORD": "env:SMARTSITE_DATABASE_SECRET",
        "SMARTSITE_DATABASE_SECRET": unquote(parts.password),
    }


class Services:
    """Broker and database of `smartsite run`, embedded or not; blocking.

    Attributes:
        postgres: The embedded database; None if it is somebody else's.
        broker: The embedded broker; None likewise, or not wanted.
    """

    def __init__(self, settings: Settings, *, with_broker: bool = True) -> None:
        self._settings = settings
        data = settings.data_dir
        self.postgres = (
            EmbeddedPostgres(data / "postgres", port=settings.database.port)
            if settings.database.url == EMBEDDED
            else None
        )
        self.broker = (
            EmbeddedBroker(data / "broker", port=settings.broker.port)
            if with_broker and settings.broker.url == EMBEDDED
            else None
        )

    @property
    def database_url(self) -> str:
        """Connection string, password included: not for logs."""
        return self.postgres.url if self.postgres else external_database_url(self._settings)

    @property
    def broker_url(self) -> str:
        """Where devices publish."""
        return self.broker.url if self.broker else self._settings.broker.url

    def start(self) -> None:
        """Start what is embedded and say where it is.

        Raises:
            SmartsiteError: Something cannot be started; what was started is stopped again.
        """
        self._settings.data_dir.mkdir(parents=True, exist_ok=True)
        try:
            if self.postgres:
                self.postgres.start()
            if self.broker:
                self.broker.start()
        except BaseException:
            self.stop()
            raise
        if self.postgres or self.broker:
            started = psutil.Process().create_time()
            here = Whereabouts(os.getpid(), started, self.broker_url, self.database_url)
            write_private(_file(self._settings), msgspec.json.encode(here).decode())

    def revive(self) -> list[str]:
        """Start again what died.

        Returns:
            The names of what was started again.
        """
        revived = []
        for name, service in (("PostgreSQL", self.postgres), ("broker", self.broker)):
            if service is not None and not service.alive:
                service.start()
                revived.append(name)
        return revived

    def stop(self) -> None:
        """Stop what is embedded, the broker first: the database takes what is under way."""
        with contextlib.suppress(FileNotFoundError):
            found = running(self._settings)
            if found is not None and found.pid == os.getpid():
                _file(self._settings).unlink()
        if self.broker:
            self.broker.stop()
        if self.postgres:
            self.postgres.stop()


def locate(settings: Settings) -> Settings:
    """Find the data folder a command is to look into: the demo's, where there is no other.

    Args:
        settings: As configured.

    Returns:
        The same, or with the demo's data folder.

    Raises:
        Unavailable: There is nothing to look at yet.
    """
    if settings.database.url != EMBEDDED or (settings.data_dir / "postgres").exists():
        return settings
    demo = settings.data_dir / DEMO_FOLDER
    if not (demo / "postgres").exists():
        raise _nothing_there(settings)
    print(f"smartsite: showing the demo's data in {demo}", file=sys.stderr)
    return settings.model_copy(update={"data_dir": demo})


@contextlib.contextmanager
def database(settings: Settings) -> Iterator[str]:
    """The database for a command that only looks or writes a little.

    Args:
        settings: Which database.

    Yields:
        Its connection string, password included.

    Raises:
        Unavailable: There is nothing to look at yet.
    """
    if settings.database.url != EMBEDDED:
        yield external_database_url(settings)
        return
    settings = locate(settings)
    found = running(settings)
    if found is not None:
        yield found.database_url
        return
    services = Services(settings, with_broker=False)
    if services.postgres is not None:
        with services.postgres:
            yield services.postgres.url


def _nothing_there(settings: Settings) -> Unavailable:
    return Unavailable(
        f"there is no database in {settings.data_dir} yet: start `smartsite run` or"
        " `smartsite demo`, or name another folder by data_dir"
    )
