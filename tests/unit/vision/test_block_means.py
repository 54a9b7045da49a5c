"""Means of blocks are what libjpeg decodes at an eighth, level by level, or libjpeg is asked."""

import random
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wasmtime import WasmtimeError

from detectors.vision import means as sandbox
from detectors.vision.means import CODE, MOST_BYTES, block_means, build
from detectors.vision.motion import MotionGate, grey_of
from detectors.vision.picture import Image, decode
from device_profiles.errors import Reason, Rejected
from device_profiles.jpeg import read_jpeg_header

SAMPLINGS = {
    "4:4:4": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    "4:2:2": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422,
    "4:2:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    "4:4:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440,
    "4:1:1": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411,
}
EIGHTH = cv2.IMREAD_REDUCED_GRAYSCALE_8 | cv2.IMREAD_IGNORE_ORIENTATION


def jpeg(image: Image, *options: int) -> bytes:
    return cv2.imencode(".jpg", image, options)[1].tobytes()


def noise(width: int, height: int, channels: int, grain: int, seed: int = 1) -> Image:
    """Noise whose grains have so many pixels: 1 fills every coefficient of a block."""
    shape = (-(-height // grain), -(-width // grain), channels)
    coarse = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    return coarse.repeat(grain, 0).repeat(grain, 1)[:height, :width]


def of_libjpeg(data: bytes) -> Image | None:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), EIGHTH)
    except cv2.error:
        return None
    return None if image is None else image.astype(np.uint8, copy=False)


def same(data: bytes) -> bool:
    means, expected = block_means(data), of_libjpeg(data)
    assert means is not None
    assert expected is not None
    return means.shape == expected.shape and bool((means == expected).all())


@pytest.mark.parametrize("quality", [1, 10, 50, 85, 100])
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_every_subsampling_and_quality(sampling: str, quality: int) -> None:
    for width, height, grain in ((128, 96, 1), (97, 63, 3), (16, 17, 16), (1, 1, 1)):
        options = (
            cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
            SAMPLINGS[sampling],
            cv2.IMWRITE_JPEG_QUALITY,
            quality,
        )
        assert same(jpeg(noise(width, height, 3, grain), *options))


@given(
    width=st.integers(1, 80),
    height=st.integers(1, 80),
    channels=st.sampled_from([1, 3]),
    grain=st.sampled_from([1, 2, 5, 8, 100]),
    quality=st.integers(1, 100),
    sampling=st.sampled_from(list(SAMPLINGS.values())),
    own_codes=st.booleans(),
    restarts=st.sampled_from([0, 1, 2, 5, 9]),
    seed=st.integers(0, 1_000),
)
@settings(deadline=None)
def test_whatever_an_encoder_may_choose(
    *,
    width: int,
    height: int,
    channels: int,
    grain: int,
    quality: int,
    sampling: int,
    own_codes: bool,
    restarts: int,
    seed: int,
) -> None:
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_OPTIMIZE, int(own_codes)]
    options += [cv2.IMWRITE_JPEG_RST_INTERVAL, restarts]
    if channels == 3:
        options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling]
    assert same(jpeg(noise(width, height, channels, grain, seed), *options))


def test_more_than_eight_restarts() -> None:
    assert same(jpeg(noise(160, 96, 3, 4), cv2.IMWRITE_JPEG_RST_INTERVAL, 3))


def test_it_is_what_gate_and_fitness_see(monkeypatch: pytest.MonkeyPatch) -> None:
    data = jpeg(noise(1280, 720, 3, 16))
    header = read_jpeg_header(data)
    mark = np.full((90, 160), 7, np.uint8)
    monkeypatch.setattr("detectors.vision.picture.block_means", lambda _data: mark)
    gate = MotionGate()
    assert gate.still(data, datetime(2026, 1, 1, tzinfo=UTC)) is None
    assert gate.grey is not None
    assert (gate.grey == 7).all()
    assert (grey_of(data) == 7).all()
    # And nothing else is: in colours, larger, or turned.
    assert decode(data, header, 160).shape == (90, 160, 3)
    assert decode(data, header, 320, grey=True).shape == (180, 320)
    assert (decode(data, header, 160, grey=True, upright=True) != 7).any()


PLAIN = jpeg(noise(64, 48, 3, 2))
OWN_CODES = jpeg(noise(64, 48, 3, 7), cv2.IMWRITE_JPEG_OPTIMIZE, 1)


def segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def code(slot: int, counts: list[int], symbols: list[int]) -> bytes:
    return bytes([slot, *counts, *[0] * (16 - len(counts)), *symbols])


SHORT_MEANS = ([0, 0, 7], [0, 1, 2, 3, 4, 5, 6])
"""Three bits each: how many more tell the difference."""
SHORT_TEXTURES = ([1, 1, 1, 1], [0x00, 0x01, 0xF0, 0x23])
"""An end, one of one bit, sixteen zeros, one of three bits behind two zeros."""


def some_bits(dice: random.Random) -> Iterator[str]:
    """A block in the short codes: any mean, any texture, an end or the last coefficient."""
    size = dice.randrange(7)
    yield f"{size:03b}" + "".join(dice.choices("01", k=size))
    place = 1
    while place < 64:
        way = dice.random()
        if way < 0.3:
            yield "0"
            return
        if way < 0.5 and place + 3 <= 64:
            yield "1110" + "".join(dice.choices("01", k=3))
            place += 3
        elif way < 0.6 and place + 16 <= 64:
            yield "110"
            place += 16
        else:
            yield "10" + dice.choice("01")
            place += 1


def packed(bits: str) -> bytes:
    bits += "1" * (-len(bits) % 8)
    data = bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits), 8))
    return data.replace(b"\xff", b"\xff\0")


class Built(NamedTuple):
    """A JPEG put together by hand; each part can be replaced by a wrong one."""

    width: int = 41
    height: int = 29
    factors: tuple[tuple[int, int], ...] = ((2, 2), (1, 1), (1, 1))
    names: bytes = b"\1\2\3"
    quantisers: bytes = b"\0\0\0"
    scan_names: bytes | None = None
    slots: bytes = bytes(3)
    restarts: int = 0
    first_restart: int = 0
    before: bytes = b""
    quanta: bytes = segment(0xDB, bytes([0] + [3] * 64))
    codes: bytes = segment(0xC4, code(0, *SHORT_MEANS)) + segment(0xC4, code(16, *SHORT_TEXTURES))
    behind: bytes = b""
    body: bytes | None = None

    @property
    def blocks(self) -> list[int]:
        """Of each component, of an MCU."""
        return [1] if len(self.factors) == 1 else [wide * tall for wide, tall in self.factors]

    def stretches(self) -> Iterator[bytes]:
        one = len(self.factors) == 1
        wide = 8 if one else 8 * max(wide for wide, _ in self.factors)
        tall = 8 if one else 8 * max(tall for _, tall in self.factors)
        count = -(-self.width // wide) * -(-self.height // tall)
        dice = random.Random(7)
        each = self.restarts or count
        for first in range(0, count, each):
            bits = ""
            for _ in range(first, min(count, first + each)):
                for _ in range(sum(self.blocks)):
                    bits += "".join(some_bits(dice))
            yield packed(bits)

    @property
    def frame(self) -> bytes:
        frame = struct.pack(">BHHB", 8, self.height, self.width, len(self.factors))
        for name, (wide, tall), which in zip(
            self.names, self.factors, self.quantisers, strict=False
        ):
            frame += bytes([name, wide << 4 | tall, which])
        return frame

    @property
    def data(self) -> bytes:
        scan = bytes([len(self.factors)])
        for name, (_, slot) in zip(
            self.scan_names or self.names, zip(self.factors, self.slots, strict=False), strict=False
        ):
            scan += bytes([name, slot])
        body = self.body
        if body is None:
            first, *others = self.stretches()
            body = first
            for number, stretch in enumerate(others, self.first_restart):
                body += bytes([0xFF, 0xD0 + number % 8]) + stretch
        interval = segment(0xDD, struct.pack(">H", self.restarts)) if self.restarts else b""
        return (
            b"\xff\xd8"
            + self.before
            + self.quanta
            + segment(0xC0, self.frame)
            + self.codes
            + interval
            + self.behind
            + segment(0xDA, scan + b"\0\x3f\0")
            + body
            + b"\xff\xd9"
        )


FACTORS = [(wide, tall) for wide in (1, 2, 3, 4) for tall in (1, 2, 3, 4)]
GREY = Built(factors=((1, 1),))
EVEN = GREY._replace(body=bytes(100))
"""All bits 0: no difference and an end, in any code that has such words."""


@pytest.mark.parametrize("restarts", [0, 1, 3])
@pytest.mark.parametrize("factors", FACTORS)
def test_grey_of_any_factors_is_row_by_row(factors: tuple[int, int], restarts: int) -> None:
    assert same(Built(factors=(factors,), restarts=restarts).data)


@pytest.mark.parametrize("restarts", [0, 1, 5])
@pytest.mark.parametrize("factors", FACTORS)
def test_colours_of_any_factors(factors: tuple[int, int], restarts: int) -> None:
    for colour in FACTORS:
        picture = Built(factors=(factors, colour, (1, 1)), restarts=restarts)
        few = sum(picture.blocks) <= 10
        if few and colour[0] <= factors[0] and colour[1] <= factors[1]:
            assert same(picture.data), colour
        else:
            assert block_means(picture.data) is None, colour


def adobe(transform: int, name: bytes = b"Adobe") -> bytes:
    return segment(0xEE, name + struct.pack(">HHHB", 100, 0, 0, transform))


HIGH = segment(0xDB, bytes([0x10] + [0, 3] * 64))
TWICE = segment(0xC4, code(0, *SHORT_MEANS) * 2_700)


@pytest.mark.parametrize(
    "data",
    [
        Built(before=segment(0xFE, b"a comment")).data,
        Built(before=b"\xff\xff\xff" + segment(0xFE, b"behind fill bytes")).data,
        Built(before=adobe(1)).data,
        Built(before=adobe(0, b"Other")).data,
        Built(factors=((1, 1),), before=adobe(0)).data,
        Built(names=b"\0\1\2").data,
        Built(quanta=HIGH).data,
        Built(quanta=Built().quanta + segment(0xDB, bytes([0] + [9] * 64))).data,
        Built(codes=TWICE * 30 + Built().codes).data,
        Built(codes=segment(0xC4, code(1, [3], [0, 0, 0])) + Built().codes).data,
        Built().data + b"more",
        jpeg(noise(64, 48, 3, 2))[:2] + jpeg(noise(64, 48, 3, 2))[20:],
    ],
    ids=[
        "a comment",
        "fill bytes",
        "Adobe's YCbCr",
        "another's APP14",
        "Adobe's grey",
        "components by other names",
        "quanta of 16 bits",
        "quanta told twice",
        "codes told 81,000 times",
        "a wrong code that is not used",
        "bytes behind the end",
        "without JFIF",
    ],
)
def test_what_makes_no_difference(data: bytes) -> None:
    assert same(data)


TEXTURES = segment(0xC4, code(16, *SHORT_TEXTURES))
SLOT_4 = segment(0xC4, code(4, *SHORT_MEANS))
FULL_MEANS = segment(0xC4, code(0, [0, 4], [0, 1, 2, 3]))
FULL_TEXTURES = segment(0xC4, code(16, [2], [0, 1]))
CROWDED = segment(0xC4, code(0, [2, 1], [0, 1, 2]))
LARGE = segment(0xC4, code(0, [0, 2], [0, 16]))
COUNTED = segment(0xC4, bytes([0, 200, *bytes(15), 1, 2]))
COLOURS_RISE = Built(
    width=16,
    height=8,
    factors=((1, 1), (1, 1), (1, 1)),
    slots=b"\0\x10\x10",
    codes=Built().codes + segment(0xC4, code(1, [1], [15])),
    body=packed(("0000" + "0111111111111111" + "0" + "0000000000000000" + "0") * 2),
)


def test_the_widest_difference_of_a_short_word() -> None:
    codes = segment(0xC4, code(0, [1, 1], [12, 0])) + TEXTURES
    quanta = segment(0xDB, bytes([0] + [1] * 64))
    bits = "".join(f"0{value:012b}0" for value in (4_091, 0, 4_090, 2_047, 0))
    picture = GREY._replace(width=40, height=8, quanta=quanta, codes=codes, body=packed(bits))
    assert same(picture.data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"\xff\xd8",
        b"\xff\xd8\xff\xd9",
        b"no JPEG",
        bytes(1_000),
        b"\xff" * 1_000,
        b"\xff\xd8" + b"\xff" * 1_000,
        jpeg(noise(64, 48, 3, 2), cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
        PLAIN.replace(b"\xff\xc0", b"\xff\xc9"),
        Built().data.replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c"),
        Built().data.replace(segment(0xC0, Built().frame), segment(0xC0, Built().frame + b"\0")),
        Built(before=adobe(0)).data,
        Built(before=adobe(0) + adobe(1, b"Other")).data,
        Built(names=b"RGB").data,
        Built(names=b"\1\1\1").data,
        Built(scan_names=b"\1\3\2").data,
        Built(factors=((0, 1), (1, 1), (1, 1))).data,
        Built(factors=((5, 1), (1, 1), (1, 1))).data,
        Built(behind=segment(0xC0, Built().frame)).data,
        Built(quanta=b"").data,
        Built(quantisers=b"\0\1\1").data,
        Built(quantisers=b"\4\0\0").data,
        Built(quanta=segment(0xDB, bytes([4] + [3] * 64))).data,
        Built(quanta=segment(0xDB, bytes([0] + [3] * 63))).data,
        Built(codes=b"").data,
        Built(codes=SLOT_4 + Built().codes).data,
        Built(slots=b"\x40\0\0").data,
        Built(slots=b"\4\0\0").data,
        Built(slots=b"\1\0\0").data,
        EVEN._replace(codes=EVEN.codes + FULL_MEANS).data,
        EVEN._replace(codes=EVEN.codes + FULL_TEXTURES).data,
        EVEN._replace(codes=EVEN.codes + CROWDED).data,
        EVEN._replace(codes=EVEN.codes + LARGE).data,
        EVEN._replace(codes=EVEN.codes + COUNTED).data,
        Built(restarts=1, first_restart=1).data,
        Built(behind=segment(0xDD, b"\0\0\0")).data,
        COLOURS_RISE.data,
        GREY._replace(width=65_528, height=8 * 129, body=bytes(8_191 * 129 // 2)).data,
        PLAIN + bytes(MOST_BYTES + 1 - len(PLAIN)),
    ],
    ids=[
        "nothing",
        "a byte",
        "a start",
        "start and end",
        "text",
        "zeros",
        "ones",
        "fill bytes",
        "progressive",
        "arithmetic",
        "12 bits",
        "a frame of another length",
        "RGB by Adobe",
        "RGB by Adobe before another's APP14",
        "RGB by name",
        "names twice",
        "a scan in another order",
        "a factor of 0",
        "a factor of 5",
        "two frames",
        "no quanta",
        "no quanta of the colours",
        "quanta 5 of 4, used",
        "quanta 5 of 4, told",
        "quanta cut short",
        "no codes",
        "codes 5 of 4, told",
        "codes 5 of 4, used for means",
        "codes 5 of 4, used for texture",
        "codes that are not there",
        "a word of ones for means",
        "a word of ones for texture",
        "more words than there are",
        "a difference of 16 bits",
        "more words counted than told",
        "restarts out of order",
        "an interval of three bytes",
        "a level beyond 16 bits",
        "more than a million blocks",
        "too large",
    ],
)
def test_left_to_libjpeg(data: bytes) -> None:
    assert block_means(data) is None


def test_as_many_blocks_and_bytes_as_there_is_room_for() -> None:
    means = block_means(GREY._replace(width=65_528, height=8 * 128, body=bytes(8_191 * 64)).data)
    assert means is not None
    assert means.shape == (128, 8_191)
    assert (means == 128).all()
    assert same(PLAIN + bytes(MOST_BYTES - len(PLAIN)))


def test_codes_change_from_picture_to_picture() -> None:
    for data in (PLAIN, OWN_CODES, PLAIN, PLAIN, OWN_CODES, Built().data):
        assert same(data)


def test_nothing_is_taken_from_the_picture_before() -> None:
    empty = segment(0xC4, code(0, [], [])) + segment(0xC4, code(16, [], []))
    for wrong in (FULL_MEANS, FULL_TEXTURES, CROWDED, LARGE, empty):
        assert same(EVEN.data)
        for _ in range(2):
            assert block_means(EVEN._replace(codes=EVEN.codes + wrong).data) is None
        assert block_means(EVEN._replace(codes=empty).data) is None
    assert same(EVEN.data)
    assert block_means(EVEN._replace(codes=b"").data) is None
    assert block_means(EVEN._replace(quanta=b"").data) is None


@pytest.mark.parametrize("restarts", [0, 1])
def test_a_picture_cut_off_is_none(restarts: int) -> None:
    data = jpeg(noise(40, 24, 3, 1), cv2.IMWRITE_JPEG_RST_INTERVAL, restarts)
    for length in range(len(data) - 2):
        assert block_means(data[:length]) is None
    whole = block_means(data)
    assert whole is not None
    for length in (len(data) - 2, len(data) - 1):
        means = block_means(data[:length])
        assert means is not None
        assert (means == whole).all()


def test_a_claim_of_more_than_there_is() -> None:
    for height, width in ((29, 65_535), (65_535, 41), (65_535, 65_535), (49, 41)):
        assert block_means(Built(body=Built().data[-40:], width=width, height=height).data) is None


def test_a_level_no_picture_has() -> None:
    wild = segment(0xDB, bytes([0] + [255] * 64))
    assert same(Built().data)
    assert block_means(Built(quanta=wild).data) is None


def mutated(dice: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(dice.choice((1, 1, 2, 5))):
        at = dice.randrange(len(changed) + 1)
        way = dice.randrange(4)
        if way == 0:
            changed[at : at + 1] = [dice.choice((0, 0xFF, dice.randrange(256)))]
        elif way == 1 and at < len(changed):
            changed[at] ^= 1 << dice.randrange(8)
        elif way == 2:
            del changed[at : at + dice.choice((1, 2, dice.randrange(1, 50)))]
        else:
            changed[at:at] = dice.randbytes(dice.randrange(1, 5))
    return bytes(changed)


def some_picture(dice: random.Random) -> bytes:
    channels = dice.choice((1, 3))
    image = noise(dice.randint(1, 70), dice.randint(1, 70), channels, dice.choice((1, 3, 8, 70)))
    options = [cv2.IMWRITE_JPEG_QUALITY, dice.randint(1, 100)]
    options += [cv2.IMWRITE_JPEG_OPTIMIZE, dice.randrange(2)]
    options += [cv2.IMWRITE_JPEG_RST_INTERVAL, dice.choice((0, 0, 1, 7))]
    if channels == 3:
        options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, dice.choice(list(SAMPLINGS.values()))]
    return jpeg(image, *options)


def seen(data: bytes) -> Image | Reason:
    try:
        return decode(data, read_jpeg_header(data), 1, grey=True)
    except Rejected as fault:
        return fault.reason


@pytest.mark.parametrize(
    "count",
    [3_000, pytest.param(2_000_000, marks=[pytest.mark.full, pytest.mark.timeout(3_600)])],
    ids=["some", "many"],
)
def test_what_is_broken_is_left_to_libjpeg_or_read_as_it_does(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    dice = random.Random(count)
    answered = 0
    for _ in range(count // 10):
        data = some_picture(dice)
        for _ in range(10):
            broken = mutated(dice, data)
            means = block_means(broken)
            if means is None or max(read_jpeg_header(broken)[:2]) < 8:
                continue
            answered += 1
            with monkeypatch.context() as alone:
                alone.setattr("detectors.vision.picture.block_means", lambda _data: None)
                expected = seen(broken)
            # It has all its blocks, but libjpeg reads ahead: some that lack their end it refuses.
            if expected is not Reason.INCOMPLETE:
                assert not isinstance(expected, Reason)
                assert means.shape == expected.shape
                assert (means == expected).all()
    assert answered > count / 20


def test_from_many_threads_at_once() -> None:
    pictures = [jpeg(noise(160, 96, 3, grain)) for grain in range(1, 9)]
    expected = [of_libjpeg(data) for data in pictures]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(20):
            for means, wanted in zip(pool.map(block_means, pictures), expected, strict=True):
                assert means is not None
                assert wanted is not None
                assert (means == wanted).all()


def test_an_answer_is_nobody_elses() -> None:
    first = block_means(PLAIN)
    assert first is not None
    before = first.copy()
    assert block_means(OWN_CODES) is not None
    assert (first == before).all()


def test_the_module_is_made_of_its_source() -> None:
    assert CODE.read_bytes().endswith(build.SECTION + build.source_hash())


def test_without_a_sandbox_libjpeg_is_asked(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(*_: object) -> None:
        raise WasmtimeError("Cannot allocate memory")

    monkeypatch.setattr(sandbox, "_Sandbox", refused)
    sandbox._sandbox.cache_clear()
    try:
        for _ in range(2):
            assert block_means(PLAIN) is None
            assert isinstance(seen(PLAIN), np.ndarray)
    finally:
        sandbox._sandbox.cache_clear()
    assert [record.message for record in caplog.records] == [
        "still scenes cost twice as much: no sandbox to read them in (Cannot allocate memory)"
    ]


def test_a_broken_module_is_no_lack_of_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "means.wasm"
    broken.write_bytes(CODE.read_bytes()[:-1_000])
    monkeypatch.setattr(sandbox, "CODE", broken)
    sandbox._sandbox.cache_clear()
    try:
        with pytest.raises(WasmtimeError):
            block_means(PLAIN)
    finally:
        sandbox._sandbox.cache_clear()
