"""Keeps what could and could not be judged: spans that do not overlap for a rule and subject."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg

from device_profiles.findings import Coverage
from ingest.store.queries import load_queries

SQL = load_queries(Path(__file__).with_name("coverage.sql"))


async def book_coverage(
    connection: psycopg.AsyncConnection[Any], spans: Sequence[Coverage]
) -> None:
    """Write spans of coverage over whatever was said of the same time before.

    A later run over more complete data replaces what an earlier one said: spans within a new
    one go, spans that stick out of it are cut. Touching spans of the same reason grow together.

    Args:
        connection: In a transaction, which the caller commits.
        spans: In the order the detectors said them.
    """
    async with connection.cursor() as cursor:
        for span in spans:
            if span.to_at <= span.from_at:
                continue
            values = {
                "rule": span.rule,
                "site": span.site,
                "subject": span.subject,
                "from_at": span.from_at,
                "to_at": span.to_at,
                "reason": span.reason,
            }
            await cursor.execute(SQL["keep_what_sticks_out_behind"], values)
            await cursor.execute(SQL["remove_within"], values)
            await cursor.execute(SQL["cut_what_reaches_in"], values)
            await cursor.execute(SQL["grow"], values)
            if cursor.rowcount == 0:
                await cursor.execute(SQL["put"], values)
