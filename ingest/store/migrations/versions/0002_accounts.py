"""Accounts: clocks, what came back from quarantine, credentials, rollups, what ages out."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add what the accounts need."""
    connection = op.get_bind().connection.driver_connection
    assert connection is not None  # noqa: S101 - alembic is online here, see env.py
    connection.execute(Path(__file__).with_suffix(".sql").read_bytes())
