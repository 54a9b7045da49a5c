"""The careful way a block goes in when some of its readings are there already.

The block is copied into a temporary table of the same columns, then moved in rounds: the first
row of each key is inserted where there is none yet; what is left meets a stored row and is
sorted out in one statement. A quantity the stored row lacks is merged in, an equal one is a
duplicate, another value is a conflict: the first stays.
"""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import sql

from device_profiles.vocabulary import QUANTITIES, Kind
from ingest.blocks import Met, columns_of, table_of

KEY = "device_id, series, observed_at"


class Merging:
    """The statements of one kind, written once."""

    def __init__(self, kind: Kind) -> None:
        self.incoming = f"incoming_{kind}"
        table = table_of(kind)
        columns = columns_of(kind)
        names = [quantity.name for quantity in QUANTITIES[kind]]
        plain = [*names, "alarms"] if "alarms" in columns else names
        same_key = (
            "{a}.device_id = {b}.device_id AND {a}.series = {b}.series"
            " AND {a}.observed_at = {b}.observed_at"
        )
        listed = ", ".join(columns)
        self.copy = f"COPY {self.incoming} ({listed}) FROM STDIN (FORMAT BINARY)"
        self.create = (
            f"CREATE TEMP TABLE IF NOT EXISTS {self.incoming} (LIKE {table},"
            " n integer GENERATED ALWAYS AS IDENTITY) ON COMMIT DELETE ROWS"
        )
        firsts = f"SELECT DISTINCT ON ({KEY}) * FROM {self.incoming} ORDER BY {KEY}, n"
        self.insert_new = f"""
            WITH firsts AS ({firsts}),
            inserted AS (
                INSERT INTO {table} ({listed}) SELECT {listed} FROM firsts
                ON CONFLICT DO NOTHING RETURNING {KEY})
            DELETE FROM {self.incoming} i USING firsts f, inserted s
            WHERE {same_key.format(a="f", b="s")} AND i.n = f.n"""
        adds = " OR ".join(f"(t.{name} IS NULL AND f.{name} IS NOT NULL)" for name in plain)
        adds += " OR NOT COALESCE(t.extra, '{}') ?& ARRAY(SELECT jsonb_object_keys(f.extra))"
        differs = [
            f"CASE WHEN t.{name} <> f.{name} THEN '{name}' END, f.{name}::text" for name in plain
        ]
        differs.append(
            "CASE WHEN (t.extra || f.extra) <> (f.extra || t.extra) THEN 'extra' END, f.extra::text"
        )
        pairs = ", ".join(f"jsonb_build_array({pair})" for pair in differs)
        sets = ", ".join(f"{name} = COALESCE(t.{name}, f.{name})" for name in [*plain, "seq"])
        self.meet = f"""
            WITH firsts AS ({firsts}),
            met AS (
                SELECT f.n, ({adds}) AS merged, ARRAY[{pairs}] AS pairs
                FROM firsts f JOIN {table} t ON {same_key.format(a="t", b="f")}),
            merged AS (
                UPDATE {table} t SET {sets},
                    extra = CASE WHEN f.extra IS NULL THEN t.extra
                                 ELSE f.extra || COALESCE(t.extra, '{{}}') END
                FROM firsts f JOIN met ON met.n = f.n AND met.merged
                WHERE {same_key.format(a="t", b="f")}
                RETURNING f.device_id, f.series, f.observed_at, f.worker_id, f.segment,
                          f.segment_index),
            parts AS (
                INSERT INTO reading_parts SELECT * FROM merged ON CONFLICT DO NOTHING),
            gone AS (
                DELETE FROM {self.incoming} i USING met WHERE i.n = met.n
                RETURNING i.n, i.device_id, i.segment_index)
            SELECT gone.device_id, gone.segment_index, met.merged, met.pairs
            FROM gone JOIN met ON met.n = gone.n ORDER BY gone.n"""
        self.left = f"SELECT EXISTS (SELECT FROM {self.incoming})"


_MERGING = {kind: Merging(kind) for kind in QUANTITIES}


def _statement(text: str) -> sql.SQL:
    # Built above from the vocabulary alone, never from what a peer sent.
    return sql.SQL(text)


async def merge(
    connection: psycopg.AsyncConnection[Any], kind: Kind, copy_bytes: bytes
) -> list[Met]:
    """Write a block of which some readings may be stored already.

    Args:
        connection: In a transaction, which the caller commits.
        kind: Of the block.
        copy_bytes: The block as binary COPY.

    Returns:
        The rows that met a stored reading; all others were stored.
    """
    merging = _MERGING[kind]
    met: list[Met] = []
    async with connection.cursor(binary=True) as cursor:
        await cursor.execute(_statement(merging.create))
        async with cursor.copy(_statement(merging.copy)) as copy:
            await copy.write(copy_bytes)
        while True:
            await cursor.execute(_statement(merging.insert_new))
            await cursor.execute(_statement(merging.meet))
            for device_id, index, merged, pairs in await cursor.fetchall():
                conflicts = {name: text for name, text in pairs if name is not None}
                met.append(Met(device_id, index, bool(merged), conflicts))
            await cursor.execute(_statement(merging.left))
            row = await cursor.fetchone()
            if row is None or not row[0]:
                return met
