"""It reads, or refuses in the declared way; never another error, never out of proportion."""

import logging
import os
import random
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from tests.profiles.mutating import Target, mutated, refuses_or_reads, targets

LOG = logging.getLogger(__name__)
SEED = int(os.environ.get("SMARTSITE_TEST_SEED", "417"))
TARGETS = targets()
SOME = 100_000
MANY = 10_000_000
CHUNK = 25_000

# Generous: the slowest decoder takes a tenth of it a byte on a slow machine.
BASE_NS = 400_000
NS_A_BYTE = 3_000
TRIES = 12


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_mutations_are_read_or_refused(target: Target) -> None:
    dice = random.Random(f"{SEED} {target.name}")
    LOG.info("seed %s", SEED)
    for _ in range(-(-SOME // len(TARGETS))):
        data = mutated(dice, dice.choice(target.seeds))
        try:
            refuses_or_reads(target, data)
        except Exception as fault:
            fault.add_note(f"{target.name}, seed {SEED}: {data!r}")
            raise


def _chunk(number: int) -> tuple[str, int, list[str]]:
    """Fuzz one decoder with `CHUNK` inputs, timing each; what took too long is tried again."""
    target = TARGETS[number % len(TARGETS)]
    dice = random.Random(f"{SEED} {target.name} {number}")
    faults = []
    for _ in range(CHUNK):
        data = mutated(dice, dice.choice(target.seeds))
        bound = BASE_NS + NS_A_BYTE * len(data)
        try:
            began = time.perf_counter_ns()
            refuses_or_reads(target, data)
            if time.perf_counter_ns() - began > bound and _quickest_ns(target, data) > bound:
                faults.append(f"{target.name}: slower than {bound} ns: {data!r}")
        except Exception as fault:  # noqa: BLE001 - told with the input that raised it
            faults.append(f"{target.name}: {fault!r} on {data!r}")
    return target.name, CHUNK, faults


def _quickest_ns(target: Target, data: bytes) -> int:
    took = []
    for _ in range(TRIES):
        began = time.perf_counter_ns()
        refuses_or_reads(target, data)
        took.append(time.perf_counter_ns() - began)
    return min(took)


@pytest.mark.full
@pytest.mark.timeout(7_200)
def test_ten_million_mutations_in_linear_time() -> None:
    began = time.monotonic()
    counts: Counter[str] = Counter()
    faults: list[str] = []
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        for name, count, found in pool.map(_chunk, range(-(-MANY // CHUNK))):
            counts[name] += count
            faults += found
    rate = counts.total() / (time.monotonic() - began)
    LOG.info("seed %s: %s inputs, %.0f a second", SEED, counts.total(), rate)
    assert not faults, faults[:5]
    assert counts.total() >= MANY
    assert len(counts) == len(TARGETS)


GROWING = (
    b"[", b'{"a":', b'{"a":1},', b"9", b"=", b"a=1;", b",", b"x,", b"##", b"&&", b"\xff",
    b"\xa5\xaa", b'"', b"\\", b" ", b"\n", b"\xff\xd8", b"\xff\xe0\x00\x02", b"1,2,3,4,5,6,7\n",
    b"$DUST,",
)  # fmt: skip


@pytest.mark.full
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_long_inputs_take_time_in_proportion(target: Target) -> None:
    for piece in (*GROWING, *target.seeds):
        for size in (1_000, 30_000, 300_000):
            data = piece * (size // max(1, len(piece)))
            for form in (data, target.seeds[0] + data, target.seeds[0][:-1] + data):
                bound = BASE_NS + NS_A_BYTE * len(form)
                assert _quickest_ns(target, form) < bound, (piece[:40], len(form))
