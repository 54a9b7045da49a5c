"""The role `gateway` in front of a real database: what devices say ends where MQTT's ends."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Literal

import psycopg
import pytest
from psycopg import sql
from typer.testing import CliRunner

from device_profiles.catalogue import load_profiles
from device_profiles.hj212.commands import Command
from device_profiles.hj212.crc import Checksum
from device_profiles.sites import Device
from device_profiles.vocabulary import Kind
from ingest.exporting import recorded
from ingest.frame_store import FrameStore
from ingest.pipeline import TimeLimits
from ingest.profiles import Readers
from ingest.retrying import Retried, retry
from ingest.segments import Flag, unpack
from smartsite.errors import Misconfigured
from smartsite.health import look
from tests.integration.gateway.stage import (
    MN,
    OTHER_MN,
    PW,
    Stage,
    carries,
    factors,
    full_second,
    monitor,
    sent_by,
    until_slow,
)
from tests.integration.yard import SITE, ask, balance_of, do
from tests.unit.hj212.hj212_wire import wire


def now_in(segment: str, at: datetime) -> str:
    """A data segment with the DataTime of now."""
    digits = (at + timedelta(hours=8)).strftime("%Y%m%d%H%M%S")
    return re.sub(r"DataTime=\d+", f"DataTime={digits}", segment)


def head(mn: str = MN, cn: str = "2011") -> str:
    return f"QN=20260803141502371;ST=39;CN={cn};PW={PW};MN={mn};Flag=5;"


async def test_two_devices_readings_are_stored_then_answered(stage: Stage) -> None:
    at = full_second()
    async with (
        stage.running(),
        monitor(stage.port) as one,
        monitor(stage.port, OTHER_MN) as other,
    ):
        for place in range(3):
            moment = at - timedelta(seconds=place)
            assert await one.say(one.data(moment, factors(50 + place))[0])
            assert await other.say(other.data(moment, factors(80 + place))[0])
        assert [row["pm10_ug_m3"] for row in stage.readings()] == [52, 51, 50]
    assert [row["pm10_ug_m3"] for row in stage.readings("dust-2")] == [82, 81, 80]
    first = stage.readings()[-1]
    assert (first["observed_at"], first["pm2_5_ug_m3"], first["noise_db"]) == (at, 20, 60)
    balance = balance_of(stage.database_url)
    assert (balance.received, balance.stored, balance.adds_up) == (6, 6, True)
    segments = ask(
        stage.database_url,
        "SELECT s.body FROM segments s JOIN workers w ON w.id = s.worker_id"
        " WHERE w.name = 'gateway' ORDER BY number",
    )
    messages = [
        (topic, payload, flags)
        for row in segments
        for segment in [unpack(row["body"])]
        for topic, payload, flags in zip(
            segment.topics, segment.payloads, segment.flags, strict=True
        )
    ]
    assert len(messages) == 6
    assert {topic for topic, _, _ in messages} == {
        b"site/yard/dust/dust-1/telemetry",
        b"site/yard/dust/dust-2/telemetry",
    }
    assert all(payload.startswith(b"##") for _, payload, _ in messages)
    assert {flags for _, _, flags in messages} == {1 | Flag.TCP}


async def test_every_series_and_a_split_packet(stage: Stage) -> None:
    hour = full_second().replace(minute=0, second=0) - timedelta(hours=2)
    minutes = [
        {"a34002-Min": "40", "a34002-Avg": "57.3", "a34002-Max": "66", "a34002-Flag": "N"},
        {"a34004-Min": "20", "a34004-Avg": "31.5", "a34004-Max": "36", "a34004-Flag": "N"},
        {"a01001-Min": "20", "a01001-Avg": "21.5", "a01001-Max": "23", "a01001-Flag": "N"},
        {"LA-Min": "50", "LA-Avg": "61.5", "LA-Max": "73", "LA-Flag": "N"},
    ]
    async with stage.running(), monitor(stage.port) as device:
        packets = device.data(hour, minutes, cn=Command.MINUTE_DATA, most_bytes=100)
        assert len(packets) == 4
        for packet in packets:
            assert await device.say(packet)
        (whole,) = device.data(hour, minutes[:1], cn=Command.HOUR_DATA)
        assert await device.say(whole)
    rows = {row["series"]: row for row in stage.readings()}
    assert len(rows) == 2
    minute = next(row for row in rows.values() if row["pm2_5_ug_m3"] is not None)
    assert minute["observed_at"] == hour
    assert (minute["pm10_ug_m3"], minute["pm2_5_ug_m3"], minute["temperature_c"]) == (
        57.3,
        31.5,
        21.5,
    )
    assert 61.5 in (minute["noise_db"], minute["leq_db"])
    balance = balance_of(stage.database_url)
    assert (balance.received, balance.stored, balance.merged) == (5, 2, 3)
    assert balance.adds_up


async def test_a_frame_sent_again_is_answered_again_and_makes_no_second_row(stage: Stage) -> None:
    async with stage.running(), monitor(stage.port) as device:
        (frame,) = device.data(full_second(), factors(50))
        for _ in range(4):
            assert await device.say(frame)
        assert sum(one.cn == "9014" for one in device.heard) == 4
    assert len(stage.readings()) == 1
    balance = balance_of(stage.database_url)
    assert (balance.received, balance.duplicate, balance.adds_up) == (4, 3, True)


DEVIATIONS: dict[str, Callable[[str], bytes]] = {
    "lower-case checksum": lambda text: wire(text)[:-6] + wire(text)[-6:].lower(),
    "no QN": lambda text: wire(text.replace("QN=20260803141502371;", "")),
    "no PW": lambda text: wire(text.replace(f"PW={PW};", "")),
    "full-width separators": lambda text: wire(text.replace(";a3", "；a3")),
    "stray separator": lambda text: wire(text[:-2] + ";&&"),
    "17 digits": lambda text: wire(re.sub(r"(DataTime=\d+)", r"\g<1>000", text)),
    "garbage before": lambda text: b"\x00\xff+++\r\n" + wire(text),
    "no line end": lambda text: wire(text, end=""),
    "upper-case keys": lambda text: wire(text.replace("Flag=5", "FLAG=5")),
    "GBK text": lambda text: wire(text[:-2].encode() + b";Name=" + "站".encode("gbk") + b"&&"),
}


@pytest.mark.parametrize("deviation", DEVIATIONS)
async def test_field_practice_is_stored_and_answered(stage: Stage, deviation: str) -> None:
    at = full_second()
    text = now_in(f"{head()}CP=&&DataTime=0;a34002-Rtd=57.3,a34002-Flag=N&&", at)
    async with stage.running(), monitor(stage.port) as device:
        device.send(DEVIATIONS[deviation](text))
        device.send(device.notice(Command.HEARTBEAT))  # ends a frame that has no end of its own
        await until_slow(
            lambda: any(one.cn == "9014" for one in device.heard), "the frame is answered"
        )
    (row,) = stage.readings()
    assert (row["pm10_ug_m3"], row["observed_at"]) == (57.3, at)


REFUSED: dict[str, tuple[Callable[[str], bytes], str]] = {
    "another checksum": (lambda text: wire(text, crc="1234"), "crc"),
    "a wrong length": (lambda text: wire(text, length="0999"), "length"),
    "a time that is none": (
        lambda text: wire(re.sub(r"DataTime=\d{8}", "DataTime=20261399", text)),
        "time",
    ),
    "another frame within": (lambda text: wire(text)[:80] + wire(text), "incomplete"),
    "no number": (lambda text: wire(text.replace("57.3", "5x7")), "type"),
    "out of range": (lambda text: wire(text.replace("57.3", "-57.3")), "range"),
}


@pytest.mark.parametrize("fault", REFUSED)
async def test_what_is_refused_is_quarantined_as_on_mqtt(stage: Stage, fault: str) -> None:
    make, reason = REFUSED[fault]
    text = now_in(f"{head()}CP=&&DataTime=0;a34002-Rtd=57.3,a34002-Flag=N&&", full_second())
    async with stage.running(), monitor(stage.port) as device:
        device.send(make(text))
        rows = await stage.until_quarantined(1)
    assert rows[0]["reason"] == reason
    assert rows[0]["topic"] == "site/yard/dust/dust-1/telemetry"
    assert "yard/dust-1" in rows[0]["detail"]
    assert balance_of(stage.database_url).adds_up


@pytest.mark.parametrize("kind", [Checksum.MODBUS, Checksum.SWAPPED, Checksum.MODBUS_SWAPPED])
async def test_a_tolerated_checksum_is_taken_by_name(stage: Stage, kind: Checksum) -> None:
    tolerant = Device(
        site=SITE,
        id="dust-3",
        kind=Kind.DUST,
        profile="hj212",
        external_id="TOLERANT",
        tolerate=(f"crc_{kind}",),
    )
    stage.register(tolerant)
    async with stage.running(), monitor(stage.port, "TOLERANT", checksum=kind) as device:
        assert await device.say(sent_by(device, either_way=False))
        assert carries(device.heard[0], kind)
    assert len(stage.readings("dust-3")) == 1


async def test_a_stranger_is_adopted_with_what_it_said(stage: Stage) -> None:
    at = full_second()
    async with stage.running(), monitor(stage.port, "NEWCOMER-7") as device:
        (frame,) = device.data(at, factors(50))
        device.send(frame)
        (row,) = await stage.until_quarantined(1)
        assert device.heard == []
        assert (row["reason"], row["topic"]) == ("unknown_device", "hj212/NEWCOMER-7")
        status, said = await _typed(stage, "devices", "pending", "--json")
        assert status == 0
        assert [(one["external_id"], one["messages"]) for one in json.loads(said)] == [
            ("NEWCOMER-7", 1)
        ]
        adopting = ("adopt", f"{SITE}/dust-7", "--external-id", "NEWCOMER-7", "--profile", "hj212")
        status, said = await _typed(stage, "devices", *adopting)
        assert status == 0, said
        assert [one["observed_at"] for one in stage.readings("dust-7")] == [at]
        # Heard from now on, as soon as the gateway has read the registry again.
        device.timeout_s, device.resends = 0.5, 100
        assert await device.say(frame)
    assert len(stage.readings("dust-7")) == 1
    balance = balance_of(stage.database_url)
    assert (balance.stored, balance.adds_up) == (1, True)


async def test_a_wrong_password_never_becomes_a_reading(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_TEST_PW", "654321")
    guarded = Device(
        site=SITE,
        id="dust-3",
        kind=Kind.DUST,
        profile="hj212",
        external_id="GUARDED",
        password="env:GATEWAY_TEST_PW",
    )
    stage.register(guarded)
    async with stage.running():
        async with monitor(stage.port, "GUARDED", pw="111111") as wrong:
            wrong.send(wrong.data(full_second(), factors(50))[0])
            (row,) = await stage.until_quarantined(1)
            assert wrong.heard == []
        async with monitor(stage.port, "GUARDED", pw="654321") as right:
            assert await right.say(right.data(full_second(), factors(60))[0])
    assert row["topic"] == "hj212/GUARDED/wrong-password"
    assert "another PW" in row["detail"]
    done = await _retried(stage, [row["id"]])
    assert (done.back, done.stored.total()) == (0, 0)
    assert [one["pm10_ug_m3"] for one in stage.readings("dust-3")] == [60]


async def _retried(stage: Stage, rows: list[int]) -> Retried:
    readers = Readers(load_profiles())
    now = datetime.now(UTC)
    return await retry(stage.database_url, rows, TimeLimits(), now, readers=readers)


async def test_a_recording_holds_what_came_as_messages_of_mqtt(stage: Stage) -> None:
    since = datetime.now(UTC) - timedelta(minutes=1)
    async with stage.running(), monitor(stage.port) as device:
        (frame,) = device.data(full_second(), factors(50))
        assert await device.say(frame)
    with psycopg.connect(stage.database_url) as connection:
        (message,) = recorded(
            connection,
            FrameStore(stage.data_dir / "frames"),
            since,
            datetime.now(UTC),
            lambda _: True,
        )
    assert message.topic == "site/yard/dust/dust-1/telemetry"
    assert message.payload + b"\r\n" == frame
    assert (message.qos, message.retain) == (1, False)


async def test_a_database_that_is_away_for_a_while_loses_nothing(stage: Stage) -> None:
    name = str(psycopg.conninfo.conninfo_to_dict(stage.database_url)["dbname"])
    elsewhere = psycopg.conninfo.make_conninfo(stage.database_url, dbname="postgres")
    with psycopg.connect(elsewhere, autocommit=True) as keeper:
        async with stage.running(), monitor(stage.port) as device:
            at = full_second()
            assert await device.say(device.data(at, factors(50))[0])
            keeper.execute(_allowing(name, "false"))
            keeper.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,)
            )
            frames = [
                device.data(at - timedelta(seconds=place), factors(50 + place))[0]
                for place in range(1, 41)
            ]
            device.timeout_s = 1.0  # so that it sends again while nobody can write
            saying = [asyncio.create_task(device.say(frame)) for frame in frames]
            await asyncio.sleep(2.5)
            assert len(device.answered) == 1
            device.timeout_s = 60.0
            keeper.execute(_allowing(name, "true"))
            await until_slow(lambda: len(device.answered) == 41, "all are answered")
            assert all(await asyncio.gather(*saying))
    assert len(stage.readings()) == 41
    balance = balance_of(stage.database_url)
    assert (balance.stored, balance.quarantined, balance.adds_up) == (41, 0, True)
    assert balance.duplicate == balance.received - 41 > 0


def _allowing(name: str, wanted: Literal["true", "false"]) -> sql.Composed:
    statement = sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}")
    return statement.format(sql.Identifier(name), sql.SQL(wanted))


async def test_commands_reach_a_device_and_tell_what_became_of_them(stage: Stage) -> None:
    minute = full_second().replace(second=0) - timedelta(minutes=10)
    async with stage.running(), monitor(stage.port, clock_off_s=3_600) as device:
        heartbeat = device.notice(Command.HEARTBEAT)
        assert await device.say(heartbeat)
        for place in range(4):
            device.data(
                minute + timedelta(minutes=place),
                [{"a34002-Avg": f"{50 + place}", "a34002-Flag": "N"}],
                cn=Command.MINUTE_DATA,
            )
        done = await _command(stage, "set-clock", f"{SITE}/dust-1")
        assert done == (0, "yard/dust-1: done")
        assert abs(device.clock_off_s) < 30
        span = [f"--from={minute + timedelta(minutes=1):%Y-%m-%dT%H:%M:%S}"]
        span += [f"--to={minute + timedelta(minutes=2):%Y-%m-%dT%H:%M:%S}"]
        done = await _command(stage, "ask", f"{SITE}/dust-1", *span)
        assert done == (0, "yard/dust-1: done; 2 frames came")
        done = await _command(stage, "ask", f"{SITE}/dust-1", "--series=hour", *span)
        assert done == (1, "yard/dust-1: failed; ExeRtn 100 (no data)")
        done = await _command(stage, "set-clock", f"{SITE}/dust-2", "--wait=1")
        assert done == (1, "yard/dust-2: failed; the device did not connect in time")
    assert [row["pm10_ug_m3"] for row in stage.readings()] == [51, 52]
    states = ask(
        stage.database_url, "SELECT cn, state, frames, exe_rtn FROM gateway_commands ORDER BY id"
    )
    assert [tuple(row.values()) for row in states] == [
        ("1012", "done", 0, 1),
        ("2051", "done", 2, 1),
        ("2061", "failed", 0, 100),
        ("1012", "failed", 0, None),
    ]


async def _command(stage: Stage, *words: str) -> tuple[int, str]:
    """Ask a device; status and last line."""
    status, said = await _typed(stage, "hj212", *words)
    return status, said.strip().splitlines()[-1]


async def _typed(stage: Stage, *words: str) -> tuple[int, str]:
    """Type a command; its status and what it says."""
    from smartsite import cli

    parts = psycopg.conninfo.conninfo_to_dict(stage.database_url)
    config = stage.data_dir / "smartsite.toml"
    settings = (
        f'data_dir = "."\n[database]\nurl = "postgresql://{parts["user"]}@{parts["host"]}:'
        f'{parts["port"]}/{parts["dbname"]}"\npassword = "env:GATEWAY_TEST_DATABASE"\n'
        f'[hj212]\nlisten = "127.0.0.1:{stage.port}"\n'
    )
    await asyncio.to_thread(config.write_text, settings, "utf-8")
    environment = {"GATEWAY_TEST_DATABASE": str(parts.get("password") or "none")}
    found = await asyncio.to_thread(
        CliRunner().invoke, cli.app, [*words, "-c", str(config)], env=environment
    )
    assert found.exception is None or isinstance(found.exception, SystemExit), found.exception
    return found.exit_code, found.output


async def test_what_an_earlier_gateway_sent_is_given_up(stage: Stage) -> None:
    do(stage.database_url, "INSERT INTO workers (name) VALUES ('gateway')")
    do(
        stage.database_url,
        "INSERT INTO gateway_commands (device_id, cn, asked_at, expires_at, state, worker_id)"
        " SELECT d.id, '1012', now(), now(), 'sent', w.id FROM devices d, workers w"
        " WHERE d.device = 'dust-1'",
    )
    async with stage.running():
        (row,) = ask(stage.database_url, "SELECT state, detail FROM gateway_commands")
    assert (row["state"], row["detail"]) == ("failed", "the gateway ended meanwhile")


async def test_health_shows_the_gateway_where_there_is_one(stage: Stage) -> None:
    settings = stage.settings
    health = await look(stage.database_url, settings, {})
    assert (health.roles["gateway"].state, health.roles["ingest"].state) == ("idle", "stale")
    async with stage.running(), monitor(stage.port) as device:
        assert await device.say(device.data(full_second(), factors(50))[0])
        health = await look(stage.database_url, settings, {})
        assert (health.roles["gateway"].state, health.roles["ingest"].state) == ("fresh", "idle")
    stage.terms["listen"] = None
    assert "gateway" not in (await look(stage.database_url, stage.settings, {})).roles


async def test_a_port_that_is_taken_refuses_to_start(stage: Stage) -> None:
    async with stage.running():
        twin = Stage(stage.database_url, stage.data_dir, stage.port, {"worker": "twin"})
        with pytest.raises(Misconfigured, match=r"hj212\.listen"):
            async with asyncio.timeout(60):
                await _run(twin)


async def _run(stage: Stage) -> None:
    from smartsite.roles import gateway
    from smartsite.services import Whereabouts

    where = Whereabouts(0, 0.0, "mqtt://127.0.0.1:1", stage.database_url)
    await gateway.run(stage.settings, where, asyncio.Event())
