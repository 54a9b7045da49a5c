"""The demo's live picture in the terminal: the site's instruments and what was found."""

from __future__ import annotations

import time
from zoneinfo import ZoneInfo

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from alerts.listing import ListedViolation
from smartsite.demo import Demo

LINES_AROUND = 16
"""Lines of the picture that are not violations."""

LINES_A_ROW = 4
"""Most lines a violation takes in a terminal of usual width."""
_COLOURS = {"dust": "yellow", "crane": "red", "helmet": "magenta", "device_health": "cyan"}
_WORDS = {
    "dust": "扬尘 dust",
    "crane": "塔机 crane",
    "helmet": "安全帽 helmet",
    "device_health": "设备 device",
}


def picture(demo: Demo, lines: int) -> RenderableType:
    """Draw how the demo stands.

    Args:
        demo: Under way.
        lines: Height of the terminal: as many violations are shown as fit.

    Returns:
        What to show.
    """
    seconds = time.monotonic() - demo.started
    head = Text.assemble(
        ("smartsite ", "bold"),
        "示范工地 demo site   ",
        (f"{seconds:5.0f} s   ", "dim"),
        (demo.doing, "cyan"),
    )
    return Group(
        head,
        _flow(demo),
        _violations(demo, max(1, (lines - LINES_AROUND) // LINES_A_ROW)),
        _foot(demo),
    )


def _flow(demo: Demo) -> RenderableType:
    table = Table.grid(padding=(0, 3))
    readings = demo.counts.readings
    told = {name: len(receiver.received) for name, receiver in demo.receivers.items()}
    table.add_row(
        "已发布 published",
        f"{readings['dust']} dust",
        f"{readings['crane']} crane",
        f"{demo.counts.frames} frames",
    )
    table.add_row(
        "已入库 stored",
        f"{demo.stored.get('dust', 0)} dust",
        f"{demo.stored.get('crane', 0)} crane",
        f"{demo.stored.get('frames', 0)} frames",
    )
    balance = demo.balance
    verdict = Text("平衡 adds up", "green") if balance.adds_up else Text("不平衡", "red")
    table.add_row(
        "对账 balance",
        f"received {balance.received}",
        f"= stored {balance.stored} + duplicate {balance.duplicate}"
        f" + quarantined {balance.quarantined}",
        verdict,
    )
    table.add_row(
        "已告知 told",
        f"施工单位 contractor {told.get('contractor', 0)}",
        f"监管部门 regulator {told.get('regulator', 0)}",
        "",
    )
    return Panel(table, title="MQTT → PostgreSQL → detectors → webhooks", title_align="left")


def _violations(demo: Demo, rows: int) -> RenderableType:
    table = Table(expand=True, show_lines=False)
    table.add_column("时间 time", no_wrap=True)
    table.add_column("违规 violation", no_wrap=True)
    table.add_column("说明 what happened", ratio=1, overflow="fold")
    table.add_column("告知 told", no_wrap=True)
    for violation in demo.found[:rows]:
        table.add_row(*_row(violation))
    title = f"违规 violations: {len(demo.found)}"
    return Panel(table if demo.found else Text("尚无 none yet", "dim"), title=title)


def _row(violation: ListedViolation) -> tuple[RenderableType, ...]:
    zone = ZoneInfo(violation.timezone)
    opened = violation.opened_at.astimezone(zone).strftime("%H:%M:%S")
    closed = (
        violation.closed_at.astimezone(zone).strftime("–%H:%M:%S") if violation.closed_at else "–…"
    )
    delivered = sum(1 for delivery in violation.deliveries if delivery.state == "delivered")
    return (
        opened + closed,
        Text(_WORDS.get(violation.kind, violation.kind), _COLOURS.get(violation.kind, "")),
        Text.assemble(violation.message_zh, "\n", (violation.message_en, "dim")),
        f"{delivered}/{len(violation.deliveries)}",
    )


def _foot(demo: Demo) -> RenderableType:
    return Text.assemble(
        ("health & metrics ", "dim"),
        f"http://{demo.settings.health.listen}",
        ("   data ", "dim"),
        str(demo.settings.data_dir),
        ("   Ctrl-C ", "dim"),
        "停止 stops everything",
    )
