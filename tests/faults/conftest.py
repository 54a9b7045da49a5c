"""What the tests of faults share: seeds, servers of their own, and figures at the end."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from inspect import signature
from pathlib import Path

import pytest

from smartsite.embedded.postgres import EmbeddedPostgres
from tests.faults.brokers import MAKES, Broker, StartBroker, running_broker
from tests.faults.databases import new_database
from tests.faults.lasting import SCENARIOS
from tests.faults.ledger import Ledger
from tests.faults.stage import Report

SEED_VARIABLE = "SMARTSITE_FAULTS_SEED"
"""Set it to the seed that a failure names, to throw the same dice."""

_figures = pytest.StashKey[list[str]]()


@pytest.fixture(scope="session")
def seed() -> int:
    """Of all dice; random, unless the environment names one."""
    given = os.environ.get(SEED_VARIABLE)
    return int(given) if given else secrets.randbits(32)


@pytest.fixture
def ledger(seed: int) -> Ledger:
    return Ledger(seed)


@pytest.fixture
def report(request: pytest.FixtureRequest, seed: int) -> Report:
    """Has a figure printed at the end of the run, with the seed."""

    def add(said: object) -> None:
        lines = request.config.stash.setdefault(_figures, [])
        lines.append(f"{request.node.name}: seed {seed}: {said}")

    print(f"{SEED_VARIABLE}={seed}")  # noqa: T201 - shown when the test fails
    return add


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    lines = config.stash.get(_figures, [])
    if lines:
        terminalreporter.section("faults")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session", autouse=True)
def lasting(
    request: pytest.FixtureRequest, service_root: Path, seed: int, migrated_template: str
) -> Iterator[Mapping[str, Future[str]]]:
    """The lasting scenarios that were asked for, begun with the first test here, side by side."""
    assert migrated_template  # no other migration is at work, for they share what is global
    wanted: list[str] = [
        str(item.callspec.params["scenario"])
        for item in request.session.items
        if isinstance(item, pytest.Function) and "lasting" in signature(item.function).parameters
    ]
    with ThreadPoolExecutor(max(len(wanted), 1), "lasting") as pool:
        yield {
            name: pool.submit(asyncio.run, SCENARIOS[name](service_root, seed)) for name in wanted
        }


@pytest.fixture(scope="module")
def mortal_postgres(service_root: Path) -> Iterator[EmbeddedPostgres]:
    """A server that tests may kill: durable as in production, small."""
    folder = Path(tempfile.mkdtemp(dir=service_root))
    folder.chmod(0o755)
    settings = {"max_connections": "15", "superuser_reserved_connections": "1"}
    with EmbeddedPostgres(folder, settings=settings) as server:
        yield server
    shutil.rmtree(folder)


@pytest.fixture
def mortal_database_url(mortal_postgres: EmbeddedPostgres) -> Iterator[str]:
    """A database on it."""
    with new_database(mortal_postgres) as url:
        yield url


@pytest.fixture
def start_broker(service_dir: Path) -> Iterator[StartBroker]:
    """Starts a broker of a make."""
    with ExitStack() as stack:
        yield lambda make: stack.enter_context(running_broker(make, service_dir))


@pytest.fixture(params=MAKES)
def broker(request: pytest.FixtureRequest, start_broker: StartBroker) -> Broker:
    """Each broker in turn."""
    return start_broker(request.param)
