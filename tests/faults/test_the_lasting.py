"""A minute, or ten, without a database, on both brokers: back-pressure, not loss; and the like."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future

import pytest

from tests.faults.lasting import SCENARIOS
from tests.faults.stage import Report

LONG = (pytest.mark.full, pytest.mark.timeout(900))


@pytest.mark.parametrize(
    "scenario",
    [pytest.param(name, marks=LONG if name.startswith("600 s") else ()) for name in SCENARIOS],
)
def test_what_lasts(lasting: Mapping[str, Future[str]], scenario: str, report: Report) -> None:
    report(lasting[scenario].result())
