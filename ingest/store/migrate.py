"""Bring a database to this version's schema, by Alembic; each revision is a plain SQL file."""

from __future__ import annotations

from pathlib import Path

import psycopg
import sqlalchemy
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.pool import NullPool

from ingest.errors import DatabaseUnavailable, SchemaOutdated

MIGRATION_LOCK = 0x736D_6172  # an advisory lock of ours: two starts at once migrate once


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def _engine(database_url: str) -> sqlalchemy.Engine:
    return sqlalchemy.create_engine(
        "postgresql+psycopg://",
        creator=lambda: psycopg.connect(database_url, connect_timeout=10),
        poolclass=NullPool,
    )


def latest_revision() -> str:
    """The revision this version of the code needs.

    Returns:
        Alembic's head.
    """
    head = ScriptDirectory.from_config(_config()).get_current_head()
    assert head is not None  # noqa: S101 - there is at least one revision
    return head


def _known(revision: str) -> bool:
    return any(
        script.revision == revision
        for script in ScriptDirectory.from_config(_config()).walk_revisions()
    )


def _too_new(revision: str) -> str:
    return (
        f"the database is at schema {revision}, which is newer than this version's"
        f" {latest_revision()}: install the version of smartsite that made it"
    )


def migrate(database_url: str) -> tuple[str | None, str]:
    """Run what is missing of the migrations.

    Args:
        database_url: A libpq connection string.

    Returns:
        The revision before and after; equal when there was nothing to do.

    Raises:
        DatabaseUnavailable: PostgreSQL could not be reached.
        SchemaOutdated: A newer version of this software has been here; nothing was changed.
    """
    try:
        with _engine(database_url).connect() as connection:
            connection.execute(
                sqlalchemy.text("SELECT pg_advisory_lock(:lock)"), {"lock": MIGRATION_LOCK}
            )
            connection.commit()
            before = MigrationContext.configure(connection).get_current_revision()
            connection.commit()
            config = _config()
            if before is not None and not _known(before):
                raise SchemaOutdated(_too_new(before))
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            connection.commit()
            return before, latest_revision()
    except sqlalchemy.exc.OperationalError as fault:
        raise DatabaseUnavailable(f"the database cannot be reached: {fault.orig}") from None


def require_latest(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    """Refuse to work on another version's schema.

    Args:
        connection: An open connection; its transaction is used.

    Raises:
        SchemaOutdated: The schema is missing, older or newer.
    """
    found = connection.execute("SELECT to_regclass('alembic_version')").fetchone()
    current = None
    if found and found[0]:
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        current = row[0] if row else None
    if current is not None and not _known(str(current)):
        raise SchemaOutdated(_too_new(str(current)))
    if current != latest_revision():
        raise SchemaOutdated(
            f"the database is at schema {current or 'nothing'}, this version needs"
            f" {latest_revision()}: run `smartsite migrate`"
        )
