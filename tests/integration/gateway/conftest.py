"""A gateway in front of a database of the test's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.gateway.stage import Stage


@pytest.fixture
def stage(database_url: str, tmp_path: Path) -> Stage:
    stage = Stage(database_url, tmp_path)
    stage.register()
    return stage
