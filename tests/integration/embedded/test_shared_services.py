"""The fixtures that other tests stand on."""

from collections.abc import Callable

import psycopg
import pytest

from smartsite.embedded.broker import EmbeddedBroker, greet


@pytest.mark.parametrize("turn", [1, 2])
def test_every_test_has_an_empty_database(database_url: str, turn: int) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("CREATE TABLE mine (turn int)")
        connection.execute("INSERT INTO mine VALUES (%s)", [turn])
        assert connection.execute("SELECT turn FROM mine").fetchall() == [(turn,)]


def test_the_broker_takes_clients(
    broker_server: EmbeddedBroker,
    broker_url: str,
    mqtt_prefix: str,
    mqtt_client_id: Callable[[str], str],
) -> None:
    assert broker_server.port is not None
    assert broker_url.endswith(f":{broker_server.port}")
    assert mqtt_prefix.isalnum()
    assert mqtt_client_id("worker") != mqtt_client_id("worker")
    assert greet(broker_server.port, mqtt_client_id("worker")) == 0
