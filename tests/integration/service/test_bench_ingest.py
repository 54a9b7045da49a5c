"""The benchmark does what it says: queues, drains with the real role, counts, and adds up."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from smartsite.bench import ingest as bench
from smartsite.cli import app
from smartsite.embedded.broker import EmbeddedBroker, greet
from tests.integration.yard import ask, balance_of


def test_a_small_queue_is_drained_and_every_figure_told(
    broker_server: EmbeddedBroker, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "FLUSHES", 2)
    monkeypatch.setattr(bench, "FLUSH_READINGS", 100)
    result = CliRunner().invoke(
        app,
        [
            *("bench", "ingest", "--json", "--messages", "1000", "--batch", "2"),
            *("--broker", broker_server.url, "--database", database_url),
        ],
    )
    assert broker_server.port is not None
    greet(broker_server.port, "smartsite-ingest")  # which forgets the session
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["messages"], told["readings"], told["stored"]) == (1_000, 2_000, 2_000)
    assert (told["lost"], told["duplicates"], told["runs"]) == (0, 0, 1)
    for figure in (*bench.FIGURES, "cpu_us_range"):
        # Neither database nor broker is the benchmark's own: their CPU is not seen.
        assert (told[figure] is None) == (figure[:3] in ("db_", "bro")), figure
    stages = dict(told["where_us"])
    del stages["database_wait"]
    assert sum(stages.values()) == pytest.approx(told["cpu_us_per_message"], abs=0.1)
    (timed,) = ask(
        database_url,
        "SELECT sum(readings)::int AS n FROM segments s JOIN workers w ON w.id = s.worker_id"
        " WHERE w.name = 'bench-stages'",
    )
    assert timed["n"] == 200
    assert balance_of(database_url).adds_up
