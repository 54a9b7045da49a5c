"""Profiles: how makes name devices, and what became of events without a picture."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add what profiles need."""
    connection = op.get_bind().connection.driver_connection
    assert connection is not None  # noqa: S101 - alembic is online here, see env.py
    connection.execute(Path(__file__).with_suffix(".sql").read_bytes())
