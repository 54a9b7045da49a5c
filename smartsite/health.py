"""Health and metrics over HTTP, on loopback unless told otherwise.

Health is the freshness of what each role handles, read from where it ends up: the database. A
living process that stores nothing is not healthy; a quiet site is not called fresh.
"""

from __future__ import annotations

import html
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import psycopg
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from psycopg.rows import dict_row

from ingest.store.queries import load_queries
from smartsite.settings import Settings

log = logging.getLogger(__name__)

SQL = load_queries(Path(__file__).with_name("health.sql"))

ROLES = ("ingest", "frames", "gateway", "judge", "vision", "deliver", "upkeep")
"""Those whose freshness the database shows; `smartsite run` supervises the same."""

WORKS_OFF = frozenset({"judge", "vision", "deliver", "upkeep"})
"""Roles whose figure is the age of what waits for them: nothing waiting is fresh."""


def roles_in_use(settings: Settings) -> tuple[str, ...]:
    """Say which roles `smartsite run` supervises.

    Args:
        settings: The gateway is one of them where it has an address.

    Returns:
        Their names.
    """
    return tuple(role for role in ROLES if role != "gateway" or settings.hj212.listen is not None)


class RoleHealth(msgspec.Struct):
    """How fresh one role's work is.

    Attributes:
        state: "fresh", "stale", "idle" (nothing is there for it to handle) or "unknown".
        age_s: Of the newest data stored, or of the oldest that waits; None if there is none.
        said: One sentence.
    """

    state: str
    age_s: float | None
    said: str


class Health(msgspec.Struct):
    """How fresh everything is.

    Attributes:
        healthy: Whether nothing is stale or unknown.
        database: "reachable", or why not.
        roles: By name.
        processes: What the supervisor knows of its children, by name.
    """

    healthy: bool
    database: str
    roles: dict[str, RoleHealth]
    processes: dict[str, str]


def judge_freshness(role: str, age_s: float | None, expected: bool, fresh_s: float) -> RoleHealth:
    """Call one role's data fresh or stale.

    Args:
        role: Its name.
        age_s: Age of its newest data, or of the oldest that waits for it; None if there is none.
        expected: Whether devices are registered that ought to feed it.
        fresh_s: From what age on data are stale, seconds.

    Returns:
        The verdict.
    """
    if age_s is None:
        if role in WORKS_OFF:
            return RoleHealth("fresh", None, "nothing waits")
        if role == "gateway":
            return RoleHealth("idle", None, "no device has spoken yet")
        if not expected:
            return RoleHealth("idle", None, "no device is registered for it")
        return RoleHealth("stale", None, "registered devices have sent nothing yet")
    what = "the oldest that waits" if role in WORKS_OFF else "the newest data stored"
    state = "fresh" if age_s <= fresh_s else "stale"
    return RoleHealth(state, round(age_s, 3), f"{what} is {age_s:.1f} s old")


async def look(database_url: str, settings: Settings, processes: dict[str, str]) -> Health:
    """Look how fresh everything is.

    Args:
        database_url: Where everything ends up.
        settings: Names of the workers and what counts as fresh.
        processes: State of the supervised processes, by name.

    Returns:
        The health.
    """
    try:
        async with await psycopg.AsyncConnection.connect(
            database_url, connect_timeout=3, row_factory=dict_row
        ) as connection:
            cursor = await connection.execute(
                SQL["freshness"],
                {
                    "ingest": settings.ingest.worker,
                    "frames": settings.frames.worker,
                    "gateway": settings.hj212.worker,
                },
            )
            row = await cursor.fetchone() or {}
    except psycopg.Error as fault:
        log.warning("health cannot see the database: %s", fault)
        roles = {
            role: RoleHealth("unknown", None, "the database is not reachable")
            for role in roles_in_use(settings)
        }
        return Health(False, "not reachable", roles, processes)
    roles = {}
    in_use = roles_in_use(settings)
    for role in in_use:
        expected = bool(row["cameras"] if role == "frames" else row["sensors"])
        if role == "ingest" and "gateway" in in_use and row["gateway"] is not None:
            expected = False  # they may all speak over TCP
        age = None if row[role] is None else float(row[role])
        roles[role] = judge_freshness(role, age, expected, settings.health.fresh_s)
    healthy = all(role.state in ("fresh", "idle") for role in roles.values())
    healthy = healthy and all(state == "running" for state in processes.values())
    return Health(healthy, "reachable", roles, processes)


def _page(health: Health) -> str:
    verdict = "数据新鲜 · data is fresh" if health.healthy else "数据不新鲜 · data is NOT fresh"
    rows = "".join(
        f"<tr class={html.escape(role.state)}><td>{html.escape(name)}<td>{html.escape(role.state)}"
        f"<td>{html.escape(role.said)}"
        for name, role in health.roles.items()
    )
    processes = "".join(
        f"<tr><td>{html.escape(name)}<td colspan=2>{html.escape(state)}"
        for name, state in health.processes.items()
    )
    return f"""<!doctype html><html lang=zh><meta charset=utf-8><meta http-equiv=refresh content=5>
<title>smartsite</title><style>body{{font:16px system-ui;max-width:46rem;margin:2rem auto}}
td,th{{padding:.3rem .8rem;text-align:left}}.stale,.unknown{{background:#fdd}}
.fresh{{background:#dfd}}</style>
<h1>{verdict}</h1><p>数据库 database: {html.escape(health.database)}
<table><tr><th>角色 role<th>状态 state<th>{rows}<tr><th colspan=3>进程 processes{processes}</table>
<p><a href=metrics>metrics</a> · <a href=health>health (JSON)</a></html>"""


def make_app(
    database_url: str,
    settings: Settings,
    processes: Callable[[], dict[str, str]],
    multiprocess_dir: Path | None,
) -> web.Application:
    """Make the small web application of `[health] listen`.

    Args:
        database_url: Where everything ends up.
        settings: What counts as fresh.
        processes: Tells the state of the supervised processes.
        multiprocess_dir: Where child processes keep their metrics; None: only this process's.

    Returns:
        An application with ``/``, ``/health`` and ``/metrics``.
    """

    async def health(_: web.Request) -> web.Response:
        found = await look(database_url, settings, processes())
        return web.Response(
            body=msgspec.json.encode(found),
            content_type="application/json",
            status=200 if found.healthy else 503,
        )

    async def page(_: web.Request) -> web.Response:
        found = await look(database_url, settings, processes())
        return web.Response(
            text=_page(found), content_type="text/html", status=200 if found.healthy else 503
        )

    async def metrics(_: web.Request) -> web.Response:
        registry: Any = REGISTRY
        if multiprocess_dir is not None:
            registry = CollectorRegistry()
            MultiProcessCollector(registry, path=str(multiprocess_dir))  # type: ignore[no-untyped-call]
        return web.Response(
            body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    app = web.Application()
    app.add_routes([web.get("/", page), web.get("/health", health), web.get("/metrics", metrics)])
    return app


async def serve(app: web.Application, listen: str) -> web.AppRunner:
    """Serve the application.

    Args:
        app: From `make_app`.
        listen: HOST:PORT.

    Returns:
        The runner; its `cleanup` stops serving.

    Raises:
        OSError: The address is taken.
    """
    host, _, port = listen.rpartition(":")
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, int(port)).start()
    except OSError:
        await runner.cleanup()
        raise
    return runner
