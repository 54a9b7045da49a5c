"""Each named query of the store gives the same answer on hypertables as on plain tables."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from ingest.store import queries
from ingest.store.queries import load_queries
from tests.integration.yard import SITE, register, site_file

NOW = datetime(2026, 11, 21, 8, 0, tzinfo=UTC)
HASH = bytes(range(32))

QUERIES = {
    f"{file.stem}.{name}": query
    for file in sorted((Path(queries.__file__).parent / "sql").glob("*.sql"))
    if file.stem != "timescale"  # what plain PostgreSQL does not understand
    for name, query in load_queries(file).items()
    if name != "history_server"  # asks which of the two it is
}

# By parameter, whatever query it stands in; those of a new query are added here. Device 4 is the
# yard's camera.
VALUES: dict[str, Any] = {
    "after_id": 0,
    "apart": 100,
    "application": "nobody's",
    "at_most": 10,
    "attempts_at_most": 3,
    "before": NOW + timedelta(days=1),
    "begin_at": NOW,
    "body": Jsonb({"what": "a test"}),
    "boxes": Jsonb([["helmet", 0.9, 1, 2, 3, 4]]),
    "bytes": [90_000, 90_000],
    "camera": Jsonb({"fixed": True}),
    "cn": "2051",
    "command_id": 1,
    "contractor": "builder",
    "counts": [1, 2],
    "day": NOW,
    "default_every_s": 60.0,
    "detail": "a test",
    "device": "new",
    "device_id": 4,
    "device_ids": [4, 4],
    "devices": ["dust-1"],
    "district": "",
    "end": NOW + timedelta(hours=1),
    "event": False,
    "events_too_old": NOW - timedelta(hours=1),
    "end_at": NOW + timedelta(hours=1),
    "exe_rtn": 1,
    "expected_every_s": 1.0,
    "expires_at": NOW + timedelta(hours=1),
    "external_id": None,
    "field": None,
    "firmware": "1",
    "fitness": Jsonb({}),
    "first": 1,
    "frame_sha256": HASH,
    "frame_count": 3,
    "froms": [NOW - timedelta(days=1)],
    "hashes": [HASH, HASH],
    "height": 720,
    "heights": [720, 720],
    "horizon": NOW,
    "hours": [NOW, NOW],
    "id": "new",
    "index": 0,
    "indices": [0, 1],
    "kind": "dust",
    "last": 9,
    "living": None,
    "make": "",
    "mark": "registered_itself",
    "may_wait": 10,
    "messages": 1,
    "model": "",
    "model_sha256": HASH,
    "mosquitto": "$7$",
    "name": "new",
    "nats": "$2b$",
    "newer_than": NOW - timedelta(days=30),
    "next_number": 2,
    "notes": [],
    "now": NOW,
    "number": 1,
    "observed": [NOW, NOW + timedelta(days=8)],
    "observed_at": NOW,
    "observed_days": [NOW.date()],
    "observed_from": NOW - timedelta(days=1),
    "observed_to": NOW + timedelta(days=1),
    "offset_us": 1_000_000,
    "offsets": [1_000_000],
    "online": True,
    "organisation": "builder",
    "payload_bytes": 1,
    "payload_sha256": HASH,
    "pid": 0,
    "qn": "20261121160000000",
    "qn_rtn": 1,
    "quarantine_id": 1,
    "quarantine_ids": [1, 2],
    "quarantined_before": NOW,
    "raw_bytes": 1,
    "readings": 1,
    "reason": "overload",
    "received": [NOW, NOW],
    "received_at": NOW,
    "received_from": NOW,
    "received_to": NOW,
    "redelivered": 0,
    "regulator": "bureau",
    "reported_from": NOW,
    "reported_to": NOW + timedelta(days=1),
    "resolved_too": False,
    "scene": b"scene",
    "scope": "message",
    "score": None,
    "secret": "env:NAME",
    "segment": 1,
    "sendings": 1,
    "series": 0,
    "settings": Jsonb({}),
    "second_look_sha256": HASH,
    "sha256": HASH,
    "since": NOW,
    "skipped": 0,
    "site": SITE,
    "site_ids": [SITE],
    "start": NOW,
    "state": "done",
    "still": False,
    "timezone": "Asia/Shanghai",
    "too_old": NOW - timedelta(hours=1),
    "topic": "site/yard/dust/dust-1/telemetry",
    "topic_pattern": "dust",
    "tos": [NOW],
    "unfit": None,
    "units": 1,
    "until": NOW + timedelta(seconds=30),
    "url": "http://127.0.0.1:1/",
    "value": None,
    "what": "dust_readings",
    "whats": ["duplicate", "merged"],
    "width": 1280,
    "widths": [1280, 1280],
    "worker_id": 1,
}

BEFORE: list[tuple[str, dict[str, Any]]] = [
    ("writing.put_segment", {"body": b"packed"}),
    ("writing.put_status", {}),
    ("writing.add_exceptions", {}),
    # One frame is the same as the query will bring, the other one lies in another chunk.
    ("frames.put_frames", {"observed": [NOW, NOW - timedelta(days=8)]}),
    ("frames.put_detections", {"observed_at": NOW - timedelta(days=8)}),
    ("upkeep.create_touched", {}),
]
# Queries that would meet a row from BEFORE bring another key.
OVERRIDES: dict[str, dict[str, Any]] = {
    "writing.put_segment": {"number": 2, "body": b"packed"},
    "writing.put_status": {"segment": 2},
}


def _answers(url: str, names: list[str]) -> dict[str, tuple[str | None, list[Any]]]:
    """Fill a database with a little of everything, then ask; nothing of it stays."""
    register(url, site_file())
    answers = {}
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE devices SET registered_at = %s", (NOW,))
        connection.execute("INSERT INTO workers (name) VALUES ('ingest')")
        for earlier, values in BEFORE:
            connection.execute(QUERIES[earlier], VALUES | values)
        for days in range(3):
            for device, table in ((1, "dust_readings"), (3, "crane_readings")):
                connection.execute(
                    f"INSERT INTO {table} (device_id, series, observed_at, received_at,"  # noqa: S608
                    " worker_id, segment, segment_index) VALUES (%s, 0, %s, %s, 1, 1, 0)".encode(),
                    (device, NOW - timedelta(days=days), NOW),
                )
        for name in names:
            with connection.transaction(force_rollback=True):
                cursor = connection.execute(QUERIES[name], VALUES | OVERRIDES.get(name, {}))
                rows = cursor.fetchall() if cursor.description else []
            answers[name] = cursor.statusmessage, rows
        connection.rollback()
    return answers


@pytest.mark.parametrize("file", sorted({name.partition(".")[0] for name in QUERIES}))
def test_queries_answer_as_on_plain_tables(
    file: str, timescale_url: str, database_url: str
) -> None:
    names = [name for name in QUERIES if name.startswith(f"{file}.")]
    assert _answers(timescale_url, names) == _answers(database_url, names)
