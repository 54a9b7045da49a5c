"""The balance: whatever comes, and however often, every reading is accounted for."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingest.registry import Routes
from ingest.store.worker import Worker
from ingest.store.writer import TelemetryWriter
from tests.integration.yard import (
    NOW,
    NOW_US,
    ask,
    balance_of,
    do,
    flush_of,
    register,
    routes_of,
    site_file,
    topic_of,
)

Values = dict[str, object]


@dataclass(frozen=True)
class Sent:
    """One reading as it is sent, and whether it can be read."""

    second: int
    values: Values
    readable: bool = True


@dataclass(frozen=True)
class Message:
    """One message: what is in it, and how many units of the balance that is."""

    device: str
    sent: tuple[Sent, ...]
    body: bytes | None = None
    known: bool = True

    @property
    def bytes(self) -> tuple[str, bytes]:
        if self.body is not None:
            return topic_of(self.device), self.body
        elements = [
            {"ts": NOW + timedelta(seconds=one.second), "values": one.values} for one in self.sent
        ]
        return topic_of(self.device), msgspec.json.encode(
            elements if len(elements) != 1 else elements[0]
        )

    @property
    def units(self) -> int:
        return len(self.sent) if self.known and self.body is None else 1


@dataclass
class Model:
    """What the store ought to hold: for each key the first value of each quantity."""

    received: int = 0
    rows: dict[tuple[str, int], Values] = field(default_factory=dict)

    def take(self, message: Message) -> None:
        self.received += message.units
        if not message.known or message.body is not None:
            return
        for one in message.sent:
            if one.readable:
                row = self.rows.setdefault((message.device, one.second), {})
                for name, value in one.values.items():
                    if isinstance(value, float) and 0 <= value <= 160:
                        row.setdefault(name, value)


quantity = st.sampled_from((1.0, 2.0))
readable = st.builds(
    Sent,
    st.integers(0, 4),
    st.fixed_dictionaries(
        {}, optional={"pm10_ug_m3": quantity, "noise_db": quantity, "humidity_pct": quantity}
    ).filter(bool),
)
partly = st.builds(
    Sent,
    st.integers(0, 4),
    st.fixed_dictionaries(
        {
            "pm10_ug_m3": st.sampled_from(("three", True, -1.0, 1e9, [])),
            "noise_db": quantity,
        }
    ),
)
unreadable = st.one_of(
    st.just(Sent(0, {}, readable=False)),
    st.just(Sent(1, {"noise_db": "loud"}, readable=False)),
    st.just(Sent(2, {"noise_db": -5.0}, readable=False)),
    st.just(Sent(10**6, {"noise_db": 5.0}, readable=False)),
)
dust = st.sampled_from(("dust-1", "dust-2"))
message = st.one_of(
    st.builds(Message, dust, st.lists(readable, min_size=1, max_size=6).map(tuple)),
    st.builds(
        Message,
        dust,
        st.lists(st.one_of(readable, partly, unreadable), min_size=1, max_size=4).map(tuple),
    ),
    st.builds(Message, dust, st.just(()), st.sampled_from((b"", b"{", b"[]", b"7", b"\xff"))),
    st.builds(
        Message, st.just("dust-9"), st.lists(readable, min_size=1).map(tuple), known=st.just(False)
    ),
)
flushes = st.lists(
    st.tuples(st.sampled_from(("one", "other")), st.lists(message, min_size=1, max_size=8)),
    min_size=1,
    max_size=5,
)


async def write_all(
    database_url: str,
    routes: Routes,
    given_: Sequence[tuple[str, Sequence[Message]]],
    received_us: int,
) -> None:
    workers = {name: Worker(database_url, name) for name in ("one", "other")}
    writers = {name: TelemetryWriter(worker) for name, worker in workers.items()}
    try:
        for place, (name, messages) in enumerate(given_):
            flush = flush_of(
                routes,
                *(message.bytes for message in messages),
                received_us=received_us + 1_000 * place,
            )
            outcome = await writers[name].write(flush)
            counted = (
                outcome.stored.total()
                + outcome.duplicates
                + outcome.merged
                + outcome.conflicts
                + outcome.quarantined
            )
            assert counted == flush.readings == sum(message.units for message in messages)
    finally:
        for worker in workers.values():
            await worker.close()


def rows_of(database_url: str) -> dict[tuple[str, int], Values]:
    rows = ask(
        database_url,
        "SELECT d.device, r.observed_at, pm10_ug_m3, noise_db, humidity_pct"
        " FROM dust_readings r JOIN devices d ON d.id = r.device_id",
    )
    return {
        (row["device"], round((row["observed_at"] - NOW).total_seconds())): {
            name: row[name]
            for name in ("pm10_ug_m3", "noise_db", "humidity_pct")
            if row[name] is not None
        }
        for row in rows
    }


@settings(
    max_examples=25,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(given_=flushes)
def test_every_reading_is_accounted_for_also_when_all_comes_again(
    database_url: str, given_: list[tuple[str, list[Message]]]
) -> None:
    do(
        database_url,
        "TRUNCATE segments, dust_readings, reading_parts, quarantine, ingest_exceptions",
    )
    register(database_url, site_file())
    routes = asyncio.run(routes_of(database_url))
    model = Model()
    for _, messages in given_:
        for one in messages:
            model.take(one)

    asyncio.run(write_all(database_url, routes, given_, NOW_US))
    once = balance_of(database_url)
    assert once.received == model.received
    assert once.stored == len(model.rows)
    assert once.adds_up
    assert rows_of(database_url) == model.rows

    again = [(name, list(reversed(messages))) for name, messages in reversed(given_)]
    asyncio.run(write_all(database_url, routes, again, NOW_US + 1_000_000))
    twice = balance_of(database_url)
    assert twice.received == 2 * model.received
    assert twice.stored == once.stored
    assert twice.adds_up
    assert rows_of(database_url) == model.rows
