"""It reads, or says what is wrong in the declared way; never another error, however it is cut."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_profiles.errors import Reason, Rejected
from device_profiles.hj212.commands import answer_to
from device_profiles.hj212.frames import Fault, Frame, Tolerance
from device_profiles.hj212.reader import Reader, read_frames
from device_profiles.hj212.readings import Hj212Decoder
from tests.unit.hj212.hj212_wire import HEAD, MINUTE, USUAL, cut, fed, mutated, wire, with_cp

SEEDS = [
    wire(USUAL),
    wire(MINUTE),
    wire(USUAL) + wire(MINUTE),
    b"noise##" + wire(USUAL, end=""),
    wire(with_cp("", "9015")),
    wire(USUAL.replace("Flag=5", "Flag=7;PNUM=2;PNO=1", 1)),
    wire(USUAL.replace("Flag=5", "Flag=9", 1)),
    wire(USUAL.replace(",", "，")),
    wire(HEAD + "&&"),
    wire(USUAL, length="300"),
]
REASONS = {
    Reason.CRC,
    Reason.LENGTH,
    Reason.INCOMPLETE,
    Reason.TOO_LARGE,
    Reason.ENCODING,
}
PIECES = [b"##", b"0012", b"QN=", b"CP=&&", b"&&", b"12AB", b"\r\n", b";", b",", b"#", b"&", b"x"]
PIECES += [b"a34001-Rtd=5", b"DataTime=20260803141500", b"CN=2011", b"Flag=9", wire("CN=1;CP=&&&&")]
STRICT = Hj212Decoder()
LENIENT = Hj212Decoder(tolerances=Tolerance, dust_unit="mg/m³")


def check(data: bytes) -> None:
    for decoder in (STRICT, LENIENT):
        contents = decoder.read(data)
        assert contents.events
        for event in contents.events:
            if isinstance(event, Frame):
                answer_to(event)
                event.segment.groups()
            else:
                assert event.reason in REASONS
                assert 0 <= event.offset <= len(data)
                event.segment()
        if not contents.frames:
            with pytest.raises(Rejected):
                decoder(data)
            continue
        decoded = decoder(data)
        assert repr(decoded.readings) == repr([one.telemetry for one in contents.readings])
        assert decoded.refused == contents.refused


def check_cuts(data: bytes, sizes: list[int]) -> None:
    whole = fed([data])
    assert fed(cut(data, sizes)) == whole
    assert fed([data[at : at + 1] for at in range(len(data))]) == whole
    short = fed([data], Tolerance, 60)
    assert fed(cut(data, sizes), Tolerance, 60) == short
    alone = read_frames(data)
    if whole:
        assert [type(event) for event in alone] == [type(event) for event in whole]
    else:
        assert isinstance(alone[0], Fault)


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    check(data)
    check_cuts(data, [3, 1, 50])


@given(
    st.lists(
        st.sampled_from(PIECES),
        max_size=30,
    ),
    st.lists(st.integers(0, 20), max_size=10),
)
def test_any_pieces(pieces: list[bytes], sizes: list[int]) -> None:
    data = b"".join(pieces)
    check(data)
    check_cuts(data, sizes)


@given(st.text(max_size=120))
def test_any_text_in_a_frame_that_is_right(text: str) -> None:
    data = wire(with_cp(f"DataTime=20260803141500;{text}"))
    check(data)


@pytest.mark.parametrize(
    "count",
    [
        2_000,
        pytest.param(150_000, marks=[pytest.mark.full, pytest.mark.timeout(3_600)]),
    ],
    ids=["some", "many"],
)
def test_mutations(count: int) -> None:
    dice = random.Random(count)
    for number in range(count):
        data = mutated(dice, dice.choice(SEEDS))
        check(data)
        if number % 5 == 0:
            check_cuts(data, [dice.randrange(60) for _ in range(6)])


@pytest.mark.parametrize(
    "piece",
    [b"#", b"##", b"##0", b"##0151", b"&", b"&&", b"&&12AB", b"CP=&&", b"##9999&&", b"\0", b"a=b;"],
)
def test_no_input_is_held_or_told_at_length(piece: bytes) -> None:
    """However much comes, memory is bounded, and there are no more events than beginnings."""
    reader = Reader()
    told = 0
    for _ in range(200):
        told += len(reader.feed(piece * (1_000 // len(piece))))
        assert reader.held_bytes <= 10_020
    assert told + len(reader.finish()) <= 200_000 // len(piece)
