"""History: rollups, what ages out, how TimescaleDB lays it down."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add what keeps history small and quick."""
    connection = op.get_bind().connection.driver_connection
    assert connection is not None  # noqa: S101 - alembic is online here, see env.py
    connection.execute(Path(__file__).with_suffix(".sql").read_bytes())
