"""Rollups are what a GROUP BY over the readings says, however late and often the readings came."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg import sql

from device_profiles.vocabulary import Kind
from ingest.store import rollups
from ingest.store.rollups import LEVELS, MEASURES, Rollups, rollup_tables
from ingest.store.worker import Worker, connect
from ingest.store.writer import TelemetryWriter
from tests.integration.yard import (
    NOW,
    NOW_US,
    ask,
    do,
    flush_of,
    register,
    routes_of,
    site_file,
    telemetry,
    topic_of,
)

DUST, CRANE = topic_of("dust-1"), topic_of("crane-1")
Message = tuple[str | bytes, bytes]

PLAIN: dict[Kind, LiteralString] = {
    Kind.DUST: """
        SELECT device_id, series, date_trunc(%(unit)s, observed_at, 'UTC') AS bucket,
               count(*) AS n, count(pm10_ug_m3) AS pm10_ug_m3_n, avg(pm10_ug_m3) AS pm10_ug_m3_mean,
               min(pm10_ug_m3) AS pm10_ug_m3_min, max(pm10_ug_m3) AS pm10_ug_m3_max,
               avg(tsp_ug_m3) AS tsp_ug_m3_mean, avg(pm2_5_ug_m3) AS pm2_5_ug_m3_mean,
               10 * log(avg(10 ^ (noise_db / 10))) AS noise_db_leq, max(noise_db) AS noise_db_max,
               avg(temperature_c) AS temperature_c_mean, min(humidity_pct) AS humidity_pct_min,
               max(wind_speed_m_s) AS wind_speed_m_s_max
        FROM dust_readings GROUP BY 1, 2, 3 ORDER BY 1, 2, 3""",
    Kind.CRANE: """
        SELECT device_id, series, date_trunc(%(unit)s, observed_at, 'UTC') AS bucket,
               count(*) AS n, max(load_t) AS load_t_max, max(moment_pct) AS moment_pct_max,
               avg(wind_speed_m_s) AS wind_speed_m_s_mean,
               max(wind_speed_m_s) AS wind_speed_m_s_max, min(tilt_deg) AS tilt_deg_min,
               max(tilt_deg) AS tilt_deg_max,
               count(tilt_deg) AS tilt_deg_n
        FROM crane_readings GROUP BY 1, 2, 3 ORDER BY 1, 2, 3""",
}
UNITS = {"1min": "minute", "1h": "hour", "1d": "day"}


class Yard:
    """Two writers' pens and the rollups, on one database."""

    def __init__(self, url: str, connection: psycopg.AsyncConnection[Any]) -> None:
        self.url = url
        self.connection = connection
        self.rollups = Rollups(connection)

    async def write(self, *messages: Message, worker: str = "ingest", late_s: int = 0) -> None:
        routes = await routes_of(self.url)
        pen = Worker(self.url, worker)
        try:
            await TelemetryWriter(pen).write(
                flush_of(routes, *messages, received_us=NOW_US + late_s * 1_000_000)
            )
        finally:
            await pen.close()

    async def roll_up(self) -> int:
        done = 0
        while more := await self.rollups.step():
            done += more
        return done

    def require_exact(self) -> None:
        """Every rollup is what the readings say."""
        for kind, query in PLAIN.items():
            for level, _ in LEVELS:
                expected = ask(self.url, query, {"unit": UNITS[level]})
                assert expected
                found = {_key(row): row for row in self.rows(f"{kind}_{level}")}
                assert set(found) == {_key(row) for row in expected}
                for row in expected:
                    mine = found[_key(row)]
                    said = {name: value for name, value in row.items() if name != "bucket"}
                    assert {name: mine[name] for name in said} == pytest.approx(said, abs=1e-9)

    def rows(self, table: str) -> list[dict[str, Any]]:
        with psycopg.connect(self.url) as connection:
            cursor = connection.execute(sql.SQL("SELECT * FROM {} ").format(sql.Identifier(table)))
            names = [column.name for column in cursor.description or ()]
            return [dict(zip(names, row, strict=True)) for row in sorted(cursor.fetchall())]


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["device_id"], row["series"], row["bucket"]


@pytest.fixture
async def yard(database_url: str) -> AsyncIterator[Yard]:
    register(database_url, site_file())
    async with await connect(database_url, "a test") as connection:
        yield Yard(database_url, connection)


def dust(at: datetime, **values: object) -> Message:
    return DUST, telemetry(at, **values)


def crane(at: datetime, **values: object) -> Message:
    return CRANE, telemetry(at, **values)


def a_site(dice: random.Random, count: int) -> list[Message]:
    """Readings of a monitor and a crane over some days, one in five of them lacking something."""
    messages: list[Message] = []
    for _ in range(count):
        at = NOW - timedelta(seconds=dice.choice((1, 60, 3_600, 86_400)) * dice.randrange(72))
        at += timedelta(microseconds=dice.randrange(1_000_000))
        quantities = {
            "pm10_ug_m3": round(dice.uniform(0, 400), 1),
            "pm2_5_ug_m3": round(dice.uniform(0, 200), 1),
            "tsp_ug_m3": round(dice.uniform(0, 900), 1),
            "noise_db": round(dice.uniform(35, 110), 1),
            "temperature_c": round(dice.uniform(-20, 45), 1),
            "humidity_pct": round(dice.uniform(0, 100), 1),
            "wind_speed_m_s": round(dice.uniform(0, 30), 1),
        }
        loads = {
            "load_t": round(dice.uniform(0, 8), 2),
            "moment_pct": round(dice.uniform(0, 110), 1),
            "wind_speed_m_s": round(dice.uniform(0, 30), 1),
            "tilt_deg": round(dice.uniform(-2, 2), 2),
        }
        for topic, said in ((DUST, quantities), (CRANE, loads)):
            kept = {name: value for name, value in said.items() if dice.random() > 0.2}
            messages.append((topic, telemetry(at, **(kept or {next(iter(said)): 1}))))
    return messages


@pytest.mark.parametrize("seed", range(3))
async def test_rollups_are_what_the_readings_say(
    yard: Yard, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches of any order, some sent twice, by two workers, the rollups following in between."""
    dice = random.Random(seed)
    monkeypatch.setattr(rollups, "READINGS_AT_ONCE", 40)
    messages = a_site(dice, 80)
    for turn in range(12):
        batch = dice.sample(messages, 20)
        await yard.write(*batch, worker=dice.choice(("ingest", "second")), late_s=turn)
        if dice.random() < 0.5:
            await yard.rollups.step()
    await yard.write(*messages, late_s=60)
    await yard.roll_up()
    assert yard.rollups.behind == 0
    yard.require_exact()


async def test_late_data_amend_the_buckets_they_belong_to_and_no_others(yard: Yard) -> None:
    await yard.write(*(dust(NOW - timedelta(days=days), pm10_ug_m3=days) for days in range(10)))
    await yard.roll_up()
    do(yard.url, "UPDATE dust_1min SET pm10_ug_m3_max = -1")  # what is computed anew is seen by it
    await yard.write(
        dust(NOW, pm10_ug_m3=0), dust(NOW - timedelta(days=9, seconds=-1), pm10_ug_m3=99), late_s=1
    )
    await yard.roll_up()
    anew = [row["bucket"] for row in yard.rows("dust_1min") if row["pm10_ug_m3_max"] >= 0]
    assert anew == [NOW - timedelta(days=9)]
    (day,) = [row for row in yard.rows("dust_1d") if row["bucket"].day == 12]
    assert (day["n"], day["pm10_ug_m3_min"]) == (2, 9)


async def test_a_merged_part_is_in_the_rollup(yard: Yard) -> None:
    await yard.write(dust(NOW, pm10_ug_m3=50))
    await yard.write(crane(NOW, load_t=2))
    await yard.roll_up()
    await yard.write(dust(NOW, noise_db=70), late_s=1)
    await yard.write(crane(NOW, tilt_deg=1), late_s=1, worker="second")
    await yard.roll_up()
    (row,) = yard.rows("dust_1h")
    assert (row["n"], row["pm10_ug_m3_n"], row["noise_db_n"]) == (1, 1, 1)
    yard.require_exact()


async def test_what_came_twice_counts_once(yard: Yard) -> None:
    messages = [dust(NOW + timedelta(seconds=s), pm10_ug_m3=s) for s in range(30)]
    messages += [crane(NOW + timedelta(seconds=s), load_t=s) for s in range(30)]
    await yard.write(*messages)
    await yard.roll_up()
    before = [yard.rows(table) for kind in MEASURES for table in rollup_tables(kind)]
    await yard.write(*messages, late_s=5)
    assert await yard.roll_up() == 1
    assert [yard.rows(table) for kind in MEASURES for table in rollup_tables(kind)] == before
    assert await yard.roll_up() == 0


async def test_levels_of_sound_are_added_as_energies(yard: Yard) -> None:
    # 60 dB and 70 dB: 10·lg((10^6 + 10^7) / 2) = 67.4036 dB, not 65.
    await yard.write(
        dust(NOW, noise_db=60), dust(NOW + timedelta(minutes=1), noise_db=70), crane(NOW, load_t=1)
    )
    await yard.roll_up()
    (hour,) = yard.rows("dust_1h")
    assert hour["noise_db_leq"] == pytest.approx(67.40362689)
    assert [row["noise_db_leq"] for row in yard.rows("dust_1min")] == pytest.approx([60, 70])
    yard.require_exact()


async def test_rows_and_place_are_one_transaction(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at any statement of a step, nothing of it is there; the next step does it whole."""
    await yard.write(dust(NOW, pm10_ug_m3=1), crane(NOW, load_t=1))
    await yard.roll_up()
    kept = ("dust_1min", "dust_1h", "dust_1d", "rollup_places")
    before = [yard.rows(table) for table in kept]
    await yard.write(dust(NOW, noise_db=50), dust(NOW + timedelta(minutes=2), pm10_ug_m3=3))
    execute = yard.connection.execute
    statements: list[str] = []
    dies_at = 1

    async def dying(query: Any, *args: Any, **kwargs: Any) -> Any:
        statements.append(str(query))
        if len(statements) == dies_at:
            raise asyncio.CancelledError
        return await execute(query, *args, **kwargs)

    monkeypatch.setattr(yard.connection, "execute", dying)
    deaths = 0
    while True:
        try:
            done = await yard.rollups.step()
        except asyncio.CancelledError:
            deaths += 1
            assert [yard.rows(table) for table in kept] == before
            dies_at += 1
            statements.clear()
        else:
            break
    assert done == 1
    assert "rollup_places" in statements[-1]
    assert deaths == len(statements) >= 10
    yard.require_exact()


async def test_what_has_aged_out_is_never_computed_again(yard: Yard) -> None:
    """A bucket whose readings are gone stays as it was when a late reading falls into it."""
    old = NOW - timedelta(days=100)
    await yard.write(*(dust(old + timedelta(seconds=s), pm10_ug_m3=s) for s in range(10)))
    await yard.roll_up()
    kept = yard.rows("dust_1d")
    do(yard.url, "DELETE FROM dust_readings")
    do(
        yard.url,
        "INSERT INTO history_bounds VALUES ('dust_readings', %(since)s)",
        {"since": NOW - timedelta(days=90)},
    )
    await yard.write(
        dust(old + timedelta(seconds=30), pm10_ug_m3=500), dust(NOW, pm10_ug_m3=7), late_s=1
    )
    await yard.roll_up()
    assert yard.rows("dust_1d")[:-1] == kept
    assert yard.rows("dust_1d")[-1]["n"] == 1


async def test_a_segment_that_does_not_say_its_days_is_followed_all_the_same(yard: Yard) -> None:
    await yard.write(*(dust(NOW - timedelta(days=d), pm10_ug_m3=d) for d in (0, 3, 40)))
    await yard.write(crane(NOW, load_t=1))
    do(yard.url, "UPDATE segments SET observed_days = NULL")
    await yard.roll_up()
    yard.require_exact()


@pytest.mark.parametrize("kind", list(MEASURES))
def test_the_tables_have_what_is_computed(kind: Kind, database_url: str) -> None:
    expected = {"device_id", "series", "bucket", "n"}
    for measure in MEASURES[kind]:
        expected |= {f"{measure.name}_n", *(f"{measure.name}_{part}" for part in measure.kept)}
        expected |= {f"{measure.name}_mean"} if "sum" in measure.kept else set()
        expected |= {f"{measure.name}_leq"} if "energy" in measure.kept else set()
    for table in rollup_tables(kind):
        columns = ask(
            database_url,
            "SELECT column_name FROM information_schema.columns WHERE table_name = %(table)s",
            {"table": table},
        )
        assert {row["column_name"] for row in columns} == expected


ZONES = [
    ("Asia/Shanghai", timedelta(hours=8)),
    ("Asia/Kathmandu", timedelta(hours=5, minutes=45)),
    ("America/St_Johns", timedelta(hours=-3, minutes=-30)),
]


@pytest.mark.parametrize(("zone", "offset"), ZONES)
async def test_a_local_day_is_the_sites_own(yard: Yard, zone: str, offset: timedelta) -> None:
    do(yard.url, "UPDATE sites SET timezone = %(zone)s", {"zone": zone})
    midnight = datetime(2026, 1, 20, tzinfo=UTC) - offset
    await yard.write(
        dust(midnight - timedelta(seconds=1), pm10_ug_m3=1, noise_db=60),
        dust(midnight, pm10_ug_m3=2, noise_db=60),
        dust(midnight + timedelta(hours=24, seconds=-1), pm10_ug_m3=4, noise_db=70),
        dust(midnight + timedelta(hours=24), pm10_ug_m3=9, noise_db=60),
        crane(midnight, load_t=1),
    )
    await yard.roll_up()
    days = ask(
        yard.url,
        "SELECT day::text, n, pm10_ug_m3_mean AS mean, pm10_ug_m3_max AS most, noise_db_leq AS leq"
        " FROM dust_local_day WHERE device = 'dust-1' ORDER BY day",
    )
    assert [(row["day"], row["n"], row["mean"], row["most"]) for row in days] == [
        ("2026-01-19", 1, 1, 1),
        ("2026-01-20", 2, 3, 4),
        ("2026-01-21", 1, 9, 9),
    ]
    assert days[1]["leq"] == pytest.approx(10 * math.log10((10**6 + 10**7) / 2))
    cranes = ask(yard.url, "SELECT day::text, load_t_max FROM crane_local_day")
    assert cranes == [{"day": "2026-01-20", "load_t_max": 1}]


async def test_a_day_of_23_hours_is_a_day(yard: Yard) -> None:
    """Where clocks are put forward: 29 March 2026 in Berlin lasts from 23:00 UTC to 22:00 UTC."""
    do(yard.url, "UPDATE sites SET timezone = 'Europe/Berlin'")
    start = datetime(2026, 3, 28, 23, tzinfo=UTC)
    await yard.write(
        *(dust(start + timedelta(hours=h), pm10_ug_m3=h + 1) for h in range(-1, 25)),
        crane(start, load_t=1),
    )
    await yard.roll_up()
    days = ask(yard.url, "SELECT day::text, n FROM dust_local_day ORDER BY day")
    assert [(row["day"], row["n"]) for row in days] == [
        ("2026-03-28", 1),
        ("2026-03-29", 23),
        ("2026-03-30", 2),
    ]
