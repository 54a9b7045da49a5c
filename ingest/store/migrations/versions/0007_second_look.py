"""Second look: what it said stands beside what the detector said."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Add the hash of its file."""
    connection = op.get_bind().connection.driver_connection
    assert connection is not None  # noqa: S101 - alembic is online here, see env.py
    connection.execute(Path(__file__).with_suffix(".sql").read_bytes())
