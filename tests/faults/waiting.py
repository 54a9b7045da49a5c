"""Waiting for what comes about by itself, bounded by a generous deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

PATIENCE_S = 150.0
"""For a busy machine; what is waited for is mostly there at once."""

LOOK_EVERY_S = 0.05


async def until(
    condition: Callable[[], bool], what: str, *, patience_s: float = PATIENCE_S
) -> None:
    """Wait until a condition holds that is quick to look at.

    Raises:
        AssertionError: In vain.
    """
    deadline = asyncio.get_running_loop().time() + patience_s
    while not condition():
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(f"in vain: {what}")
        await asyncio.sleep(LOOK_EVERY_S)


async def until_slow(
    condition: Callable[[], bool], what: str, *, patience_s: float = PATIENCE_S
) -> None:
    """The same for a condition that asks a server, in a thread of its own.

    Raises:
        AssertionError: In vain.
    """
    deadline = asyncio.get_running_loop().time() + patience_s
    while not await asyncio.to_thread(condition):
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(f"in vain: {what}")
        await asyncio.sleep(LOOK_EVERY_S)
