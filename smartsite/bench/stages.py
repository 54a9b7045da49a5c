"""Where the microseconds of a message go: each stage of the service by itself, CPU by CPU.

The stages are the product's own functions, called one after the other on the same messages in
this process, timed from outside: the service itself carries no counters. CPU is user and system
time of this process; of the database's answer only the waiting is told, in wall time.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Iterable, Sequence

import msgspec
import psycopg

from device_profiles.native import Decoder
from ingest.clocks import ClockTerms
from ingest.pipeline import Arrivals, TimeLimits, gather
from ingest.registry import Route, Routes, load_routes
from ingest.segments import pack
from ingest.store.clocks import ClockKeeper
from ingest.store.worker import Worker
from ingest.store.writer import TelemetryWriter
from smartsite.bench.consumer import connection_us_per_message

Pair = tuple[bytes, bytes]
"""Topic and payload."""

HEARD_BYTES = 40_000_000
"""No more is heard to time the connection."""

REST_S = 0.02
"""As the role `ingest` rests between small reads."""

WORKER = "bench-stages"


class Stages(msgspec.Struct, frozen=True, kw_only=True):
    """CPU microseconds a message, by stage.

    Attributes:
        connection: Reading the socket, taking packets apart, acknowledging; the event loop's turns
            included.
        decode: From a payload to typed readings.
        gather: Looking topics up, columns, ranges and times, folding equal keys.
        pack: Compressing and hashing the raw segment.
        encode: From columns to binary COPY.
        write: psycopg: COPY, segment, BEGIN, COMMIT and NOTIFY.
        clocks: Seeing whose clock is off.
        database_wait: Wall time spent waiting for the database, no CPU of ours.
    """

    connection: float
    decode: float
    gather: float
    pack: float
    encode: float
    write: float
    clocks: float
    database_wait: float


class _Stopwatch:
    """CPU and wall microseconds by message, one entry a flush."""

    def __init__(self) -> None:
        self._cpu: dict[str, list[float]] = {}

    def add(self, stage: str, seconds: float, messages: int) -> None:
        self._cpu.setdefault(stage, []).append(seconds / messages * 1e6)

    def median(self, stage: str) -> float:
        return statistics.median(self._cpu[stage])


async def measure_stages(
    database_url: str, broker_url: str, flushes: Iterable[Sequence[Pair]]
) -> Stages:
    """Time every stage.

    Args:
        database_url: A migrated database in which the messages' devices are registered, and
            which may be written to.
        broker_url: The broker.
        flushes: Messages of some flushes, whose readings are not stored yet.

    Returns:
        Medians over the flushes.
    """
    made = list(flushes)
    payload_bytes = len(made[0][0][1])
    heard_us = await connection_us_per_message(
        broker_url,
        messages=min(sum(map(len, made)), HEARD_BYTES // payload_bytes),
        payload_bytes=payload_bytes,
        rest_s=REST_S,
    )
    watch = _Stopwatch()
    worker = Worker(database_url, WORKER)
    writer = TelemetryWriter(worker)
    clocks = ClockKeeper(worker, ClockTerms())
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        routes = await load_routes(connection)
    limits = TimeLimits(past_s=3_650 * 86_400.0)
    try:
        await worker.open()
        for messages in made:
            count = len(messages)
            topics = [topic for topic, _ in messages]
            payloads = [payload for _, payload in messages]
            now_us = time.time_ns() // 1_000
            arrivals = Arrivals(topics, payloads, [1] * count, [now_us] * count)
            decoders = [_decoder(routes, topic) for topic in topics]
            began = time.process_time()
            for decode, payload in zip(decoders, payloads, strict=True):
                decode(payload)
            decode_s = time.process_time() - began
            began = time.process_time()
            pack(arrivals.received_us, topics, payloads, arrivals.flags)
            pack_s = time.process_time() - began
            began = time.process_time()
            flush = gather(arrivals, routes, limits)
            gather_s = time.process_time() - began - decode_s - pack_s
            began = time.process_time()
            for columns in flush.blocks:
                columns.encode(worker.id, worker.next_number)
            encode_s = time.process_time() - began
            began, began_wall = time.process_time(), time.perf_counter()
            outcome = await writer.write(flush)
            write_s, write_wall_s = time.process_time() - began, time.perf_counter() - began_wall
            began = time.process_time()
            clocks.hear(flush.heard, arrivals.flags, arrivals.received_us, outcome.repeated)
            await clocks.repair(routes.clocks)
            clocks_s = time.process_time() - began
            for stage, seconds in (
                ("decode", decode_s),
                ("pack", pack_s),
                ("gather", gather_s),
                ("encode", encode_s),
                ("write", write_s - encode_s),
                ("clocks", clocks_s),
                ("database_wait", write_wall_s - write_s),
            ):
                watch.add(stage, seconds, count)
    finally:
        await worker.close()
    return Stages(
        connection=round(heard_us, 2),
        **{
            stage: round(watch.median(stage), 2)
            for stage in ("decode", "gather", "pack", "encode", "write", "clocks", "database_wait")
        },
    )


def _decoder(routes: Routes, topic: bytes) -> Decoder:
    """How a monitor's telemetry is read."""
    route = routes.known.get(topic) or routes.find(topic)
    assert isinstance(route, Route)  # noqa: S101 - the fleet speaks the native contract
    assert route.decode is not None  # noqa: S101 - and its telemetry alone is timed
    return route.decode


def where_us(
    database_url: str, broker_url: str, flushes: Iterable[Sequence[Pair]]
) -> dict[str, float]:
    """Time every stage; see `measure_stages`."""
    stages = asyncio.run(measure_stages(database_url, broker_url, flushes))
    return {name: getattr(stages, name) for name in Stages.__struct_fields__}
