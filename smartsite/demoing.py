"""Presents the demo: live on a terminal, line by line elsewhere, silent for machines."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live

from smartsite.demo import Demo, result_of, run_demo
from smartsite.settings import Settings
from smartsite.showing import picture


def present(
    settings: Settings,
    seconds: float | None,
    seed: int,
    extra: tuple[str, Path] | None,
    *,
    as_json: bool,
) -> dict[str, Any]:
    """Run the demo and show it.

    Args:
        settings: The user's.
        seconds: How long; None until Ctrl-C.
        seed: Of the simulation.
        extra: URL and secret file of one more recipient.
        as_json: Keep standard output for the result alone.

    Returns:
        The result, as `smartsite.demo.result_of` says.
    """
    console = Console(stderr=as_json)
    if as_json or not console.is_terminal:
        demo = asyncio.run(_run(settings, seconds, seed, extra, _Lines()))
    else:
        with Live(console=console, refresh_per_second=4, screen=False) as live:
            demo = asyncio.run(
                _run(
                    settings,
                    seconds,
                    seed,
                    extra,
                    lambda demo: live.update(picture(demo, console.height)),
                )
            )
    result = result_of(demo)
    if not as_json:
        _say_what_next(console, demo, result)
    return result


async def _run(
    settings: Settings,
    seconds: float | None,
    seed: int,
    extra: tuple[str, Path] | None,
    show: Any,
) -> Demo:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return await run_demo(settings, seconds=seconds, seed=seed, extra=extra, show=show, stop=stop)


class _Lines:
    """Says on standard error what has changed, for logs and pipes."""

    def __init__(self) -> None:
        self._doing = ""
        self._known: set[str] = set()

    def __call__(self, demo: Demo) -> None:
        """Show how it stands."""
        if demo.doing != self._doing:
            self._doing = demo.doing
            print(demo.doing, file=sys.stderr, flush=True)
        for violation in reversed(demo.found):
            if violation.id not in self._known:
                self._known.add(violation.id)
                said = f"{violation.kind}: {violation.message_zh} {violation.message_en}"
                print(said, file=sys.stderr, flush=True)


def _say_what_next(console: Console, demo: Demo, result: dict[str, Any]) -> None:
    found = ", ".join(f"{count} {kind}" for kind, count in result["violations"].items())
    console.print(f"found {found} in {result['seconds']} s; nothing is left running")
    console.print(f"look again: smartsite violations   (data in {demo.settings.data_dir})")
