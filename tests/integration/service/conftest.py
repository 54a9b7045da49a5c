"""A service: the shared broker, a database of the test's own, workers of unique names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from smartsite.embedded.broker import EmbeddedBroker
from tests.integration.service.roles import ROLES, Service


@pytest.fixture
def service(
    broker_server: EmbeddedBroker,
    database_url: str,
    mqtt_prefix: str,
    mqtt_client_id: Callable[[str], str],
    tmp_path: Path,
) -> Service:
    workers = {
        role: mqtt_client_id(f"smartsite-{role}").removeprefix("smartsite-") for role in ROLES
    }
    service = Service(broker_server, database_url, mqtt_prefix, tmp_path, workers)
    service.register()
    return service
