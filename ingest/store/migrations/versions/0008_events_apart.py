"""Events apart: their pictures are no frames of the stream."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Mark them in the queue and in what was seen."""
    connection = op.get_bind().connection.driver_connection
    assert connection is not None  # noqa: S101 - alembic is online here, see env.py
    connection.execute(Path(__file__).with_suffix(".sql").read_bytes())
