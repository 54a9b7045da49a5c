"""`smartsite hj212`: what is asked of devices over their own connections."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated

import psycopg
import typer

from device_profiles.hj212.commands import Command, ExeRtn, QnRtn
from ingest.store.commands import Ending, cancel_command, ending_of, put_command
from ingest.store.migrate import require_latest
from smartsite.commands.common import ConfigOption, JsonOption, print_json, say, site_and_device
from smartsite.errors import Misconfigured
from smartsite.services import database
from smartsite.settings import load_settings

app = typer.Typer(
    no_args_is_help=True,
    help="Ask devices that are connected to the gateway: set their clock, have data sent again.",
)

LOOK_EVERY_S = 0.2

DeviceArgument = Annotated[str, typer.Argument(metavar="SITE/DEVICE", help="Which.")]
WaitOption = Annotated[
    float,
    typer.Option(
        "--wait", min=1, max=86_400, help="How long to wait for the device to connect, s."
    ),
]


class Series(StrEnum):
    """What data of the past are."""

    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"


_CN = {
    Series.MINUTE: Command.MINUTE_DATA,
    Series.HOUR: Command.HOUR_DATA,
    Series.DAY: Command.DAY_DATA,
}


@app.command("set-clock")
def set_clock(
    device: DeviceArgument,
    wait_s: WaitOption = 30.0,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Set a device's clock to the time of this machine (1012)."""
    _ask(device, Command.SET_CLOCK, None, wait_s, config, as_json=as_json)


@app.command("ask")
def ask(
    device: DeviceArgument,
    since: Annotated[datetime, typer.Option("--from", help="Start of the first period, UTC.")],
    until: Annotated[datetime, typer.Option("--to", help="Start of the last period, UTC.")],
    series: Annotated[Series, typer.Option(help="What is asked for.")] = Series.MINUTE,
    wait_s: WaitOption = 30.0,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Have a device send data of the past again (2051, 2061, 2031), after a gap.

    What comes is stored like all else; what was there already is counted as duplicate.
    """
    span = since.replace(tzinfo=UTC), until.replace(tzinfo=UTC)
    if span[1] < span[0]:
        raise Misconfigured("--to lies before --from")
    _ask(device, _CN[series], span, wait_s, config, as_json=as_json)


def _ask(
    name: str,
    cn: Command,
    span: tuple[datetime, datetime] | None,
    wait_s: float,
    config: ConfigOption,
    *,
    as_json: bool,
) -> None:
    """Put a command, wait for what becomes of it, and tell."""
    settings = load_settings(config)
    if settings.hj212.listen is None:
        say("hj212.listen is not set here: this waits for a gateway elsewhere")
    device = site_and_device(name)
    with database(settings) as url, psycopg.connect(url, autocommit=True) as connection:
        require_latest(connection)
        now = datetime.now(UTC)
        expires_at = now + timedelta(seconds=wait_s)
        command_id = put_command(connection, device, cn, now, expires_at, span)
        ending = ending_of(connection, command_id)
        try:
            while not ending.is_over:
                if ending.state == "waiting" and datetime.now(UTC) > expires_at:
                    detail = "the device did not connect in time"
                    cancel_command(connection, command_id, datetime.now(UTC), detail)
                time.sleep(LOOK_EVERY_S)
                ending = ending_of(connection, command_id)
        except KeyboardInterrupt:
            cancel_command(connection, command_id, datetime.now(UTC), "taken back")
            raise
    if as_json:
        print_json(ending)
    else:
        say(f"{name}: {told(ending)}")
    if ending.state != "done":
        raise typer.Exit(1)


def told(ending: Ending) -> str:
    """Write what became of a command, for people.

    Args:
        ending: What.

    Returns:
        One line.
    """
    words = [ending.state]
    if ending.qn_rtn is not None and ending.qn_rtn != QnRtn.READY:
        words.append(f"QnRtn {ending.qn_rtn} ({_word(QnRtn(ending.qn_rtn))})")
    if ending.exe_rtn is not None and ending.exe_rtn != ExeRtn.DONE:
        words.append(f"ExeRtn {ending.exe_rtn} ({_word(ExeRtn(ending.exe_rtn))})")
    if ending.frames:
        words.append(f"{ending.frames} frames came")
    if ending.state == "unanswered":
        words.append(f"sent {ending.sendings} times")
    if ending.detail:
        words.append(ending.detail)
    return "; ".join(words)


def _word(number: QnRtn | ExeRtn) -> str:
    return number.name.lower().replace("_", " ")
