"""A database with one site, its contractor and its regulator, and receivers for both."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
import pytest

from alerts.receiver import Receiver
from tests.integration.alerts.stage import SECRETS, Clock, Stage


@pytest.fixture
def clock() -> Clock:
    return Clock()


@asynccontextmanager
async def listening(receiver: Receiver) -> AsyncIterator[Receiver]:
    await receiver.start()
    try:
        yield receiver
    finally:
        await receiver.stop()


@pytest.fixture
async def builder(clock: Clock) -> AsyncIterator[Receiver]:
    """The contractor's end."""
    async with listening(Receiver(SECRETS["builder"], clock=clock)) as receiver:
        yield receiver


@pytest.fixture
async def bureau(clock: Clock) -> AsyncIterator[Receiver]:
    """The regulator's end."""
    async with listening(Receiver(SECRETS["bureau"], clock=clock)) as receiver:
        yield receiver


@pytest.fixture
async def stage(
    database_url: str, clock: Clock, builder: Receiver, bureau: Receiver
) -> AsyncIterator[Stage]:
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        stage = Stage(database_url, connection, clock)
        await stage.register(builder.url, bureau.url)
        yield stage
