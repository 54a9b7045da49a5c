"""The supervisor: keeps embedded services and role processes running, and shows their health.

Each role is a process of its own, restarted with back-off when it ends. A role that refuses to
start because something is misconfigured is not restarted: its reason is shown and the rest is
stopped, for a person has to change something.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client.multiprocess import mark_process_dead

from smartsite.embedded.process import Child
from smartsite.errors import Misconfigured, SmartsiteError
from smartsite.health import ROLES as ROLES
from smartsite.health import make_app, roles_in_use, serve
from smartsite.services import Services
from smartsite.settings import Settings

log = logging.getLogger(__name__)

EXIT_MISCONFIGURED = 78
"""What a role exits with when only a person can help: sysexits' EX_CONFIG."""

LOOK_EVERY_S = 0.25
FIRST_DELAY_S = 0.5
LONGEST_DELAY_S = 30.0
STARTING_S = 30.0
"""Until then a misconfigured role stops everything; later the others are worth more."""

CALM_AFTER_S = 60.0
"""A process that ran this long is forgiven its earlier ends."""


@dataclass
class _Role:
    name: str
    child: Child
    delay_s: float = FIRST_DELAY_S
    started: float = 0.0
    restart_at: float | None = None
    restarts: int = field(default=0)

    @property
    def state(self) -> str:
        """What people are told."""
        if self.child.alive:
            return "running"
        return f"ended, restarts in a moment (restart {self.restarts + 1})"


class Supervisor:
    """Runs roles as processes.

    Attributes:
        services: Broker and database; started and stopped by whoever made them.
    """

    def __init__(
        self,
        settings: Settings,
        services: Services,
        roles: Sequence[str] | None = None,
        file: Path | None = None,
    ) -> None:
        self._settings = settings
        self.services = services
        self._began = 0.0
        self._revive_at = 0.0
        self._revive_delay_s = FIRST_DELAY_S
        self._metrics_dir = (settings.data_dir / "metrics").absolute()
        log_dir = settings.data_dir / "log"
        log_dir.mkdir(parents=True, exist_ok=True)
        environment = self._environment()
        self._roles = [
            _Role(
                name,
                Child(
                    [
                        sys.executable,
                        "-m",
                        "smartsite",
                        "run",
                        "--role",
                        name,
                        *(("--config", str(file.absolute())) if file else ()),
                    ],
                    name=name,
                    env=environment,
                    log=log_dir / f"{name}.log",
                ),
            )
            for name in (roles_in_use(settings) if roles is None else roles)
        ]

    def _environment(self) -> dict[str, str]:
        """The children's environment: where the embedded services are, and metrics go."""
        environment = dict(os.environ)
        environment["PROMETHEUS_MULTIPROC_DIR"] = str(self._metrics_dir)
        environment["SMARTSITE_DATA_DIR"] = str(self._settings.data_dir.absolute())
        environment["PYTHONUNBUFFERED"] = "1"
        return environment

    def processes(self) -> dict[str, str]:
        """State of each role's process, by name."""
        return {role.name: role.state for role in self._roles}

    async def run(self, stop: asyncio.Event) -> None:
        """Keep everything running until told to stop.

        Args:
            stop: Set from outside.

        Raises:
            Misconfigured: A role, or the health page, cannot work until a person helps.
        """
        self._began = time.monotonic()
        shutil.rmtree(self._metrics_dir, ignore_errors=True)
        self._metrics_dir.mkdir(parents=True)
        app = make_app(
            self.services.database_url, self._settings, self.processes, self._metrics_dir
        )
        try:
            runner = await serve(app, self._settings.health.listen)
        except OSError as fault:
            raise Misconfigured(
                f"health.listen {self._settings.health.listen} cannot be used"
                f" ({fault.strerror}): choose another port"
            ) from None
        try:
            for role in self._roles:
                self._start(role)
            while not stop.is_set():
                await self._look()
                try:
                    await asyncio.wait_for(stop.wait(), LOOK_EVERY_S)
                except TimeoutError:
                    continue
        finally:
            await runner.cleanup()
            await asyncio.to_thread(self._stop)

    def _start(self, role: _Role) -> None:
        role.started = time.monotonic()
        role.restart_at = None
        try:
            role.child.start()
        except OSError as fault:  # no process or memory to be had: later, perhaps
            log.error("the role %s cannot be started: %s", role.name, fault)  # noqa: TRY400

    async def _look(self) -> None:
        now = time.monotonic()
        if now >= self._revive_at:
            await self._revive(now)
        for role in self._roles:
            if role.child.alive:
                continue
            if role.restart_at is None:
                self._plan_restart(role, now)
            elif now >= role.restart_at:
                role.restarts += 1
                self._start(role)

    async def _revive(self, now: float) -> None:
        try:
            for name in await asyncio.to_thread(self.services.revive):
                log.error("%s had died and was started again", name)
        except SmartsiteError as fault:
            log.error("%s", fault)  # noqa: TRY400 - a sentence for people, not a bug's trace
            self._revive_delay_s = min(self._revive_delay_s * 2, LONGEST_DELAY_S)
            self._revive_at = now + self._revive_delay_s
        else:
            self._revive_delay_s = FIRST_DELAY_S

    def _plan_restart(self, role: _Role, now: float) -> None:
        status = role.child.returncode
        last = "\n    ".join(role.child.last_lines(8))
        if role.child.pid is not None:
            mark_process_dead(role.child.pid, str(self._metrics_dir))  # type: ignore[no-untyped-call]
        if status == EXIT_MISCONFIGURED and now - self._began < STARTING_S:
            raise Misconfigured(f"the role {role.name} refuses to start:\n    {last}")
        role.delay_s = (
            FIRST_DELAY_S
            if now - role.started > CALM_AFTER_S
            else min(role.delay_s * 2, LONGEST_DELAY_S)
        )
        role.restart_at = now + role.delay_s
        log.error(
            "the role %s ended with status %s and restarts in %.1f s; its last words:\n    %s",
            role.name,
            status,
            role.delay_s,
            last,
        )

    def _stop(self) -> None:
        for role in reversed(self._roles):
            role.child.stop()
