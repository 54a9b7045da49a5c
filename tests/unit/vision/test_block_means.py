"""Means of blocks are what libjpeg decodes at an eighth, level by level, or libjpeg is asked."""

import random
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.vision.means import CODE, MOST_BYTES, block_means, build
from detectors.vision.motion import grey_of
from detectors.vision.picture import Image

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


def test_it_is_what_the_gate_sees() -> None:
    data = jpeg(noise(1280, 720, 3, 16))
    means = block_means(data)
    assert means is not None
    assert (grey_of(data) == means).all()


def segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Marker and bytes of each segment, the last with all that comes after it."""
    at = 2
    while True:
        marker, (length,) = data[at + 1], struct.unpack_from(">H", data, at + 2)
        if marker == 0xDA:
            yield marker, data[at:]
            return
        yield marker, data[at : at + 2 + length]
        at += 2 + length


def without(data: bytes, marker: int) -> bytes:
    return data[:2] + b"".join(part for kind, part in segments(data) if kind != marker)


def adobe(transform: int) -> bytes:
    return b"\xff\xee\0\x0eAdobe" + struct.pack(">HHHB", 100, 0, 0, transform)


PLAIN = jpeg(noise(64, 48, 3, 2))
OWN_CODES = jpeg(noise(64, 48, 3, 7), cv2.IMWRITE_JPEG_OPTIMIZE, 1)


def test_codes_change_from_picture_to_picture() -> None:
    for data in (PLAIN, OWN_CODES, PLAIN, PLAIN, OWN_CODES):
        assert same(data)


def test_nothing_is_taken_from_the_picture_before() -> None:
    assert same(PLAIN)
    for missing in (0xC4, 0xDB, 0xC0):
        assert block_means(without(PLAIN, missing)) is None
    assert same(PLAIN)


def test_a_code_that_is_none_is_not_remembered() -> None:
    at = PLAIN.index(b"\xff\xc4") + 5
    broken = PLAIN[:at] + bytes([9]) + PLAIN[at + 1 :]
    for _ in range(2):
        assert block_means(broken) is None
    assert same(PLAIN)


def test_what_makes_no_difference() -> None:
    comment = b"\xff\xfe\0\x05abc"
    for between in (comment, b"\xff\xff" + comment[1:], adobe(1)):
        assert same(PLAIN[:2] + between + PLAIN[2:])
    assert same(PLAIN + b"more")
    assert same(without(PLAIN, 0xE0))


def rgb() -> bytes:
    return PLAIN[:2] + adobe(0) + without(PLAIN, 0xE0)[2:]


def renamed(data: bytes, names: bytes) -> bytes:
    frame, scan = data.index(b"\xff\xc0"), data.index(b"\xff\xda")
    changed = bytearray(data)
    for number, name in enumerate(names):
        changed[frame + 10 + 3 * number] = changed[scan + 5 + 2 * number] = name
    return bytes(changed)


def test_components_may_have_any_names() -> None:
    assert same(renamed(PLAIN, b"\0\1\2"))


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
        jpeg(noise(64, 48, 3, 2), cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
        rgb(),
        renamed(without(PLAIN, 0xE0), b"RGB"),
        renamed(PLAIN, b"\1\1\1"),
        PLAIN[:2] + PLAIN[20:].replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c"),
        PLAIN.replace(b"\xff\xc0", b"\xff\xc9"),
        PLAIN.replace(b"\x03\x01\x22", b"\x03\x01\x44"),
        PLAIN.replace(b"\x03\x01\x22", b"\x03\x01\x11").replace(b"\x02\x11", b"\x02\x22"),
        PLAIN + bytes(MOST_BYTES),
    ],
    ids=[
        "nothing",
        "a byte",
        "a start",
        "start and end",
        "text",
        "zeros",
        "fill bytes",
        "progressive",
        "RGB by Adobe",
        "RGB by name",
        "names twice",
        "12 bits",
        "arithmetic",
        "too many blocks",
        "colour finer than brightness",
        "too large",
    ],
)
def test_left_to_libjpeg(data: bytes) -> None:
    assert block_means(data) is None


@pytest.mark.parametrize("restarts", [0, 1])
def test_a_picture_cut_off_is_none(restarts: int) -> None:
    data = jpeg(noise(40, 24, 3, 1), cv2.IMWRITE_JPEG_RST_INTERVAL, restarts)
    for length in range(len(data) - 3):
        assert block_means(data[:length]) is None
    assert same(data)


def test_a_claim_of_more_than_there_is() -> None:
    at = PLAIN.index(b"\xff\xc0")
    for height, width in ((48, 65_535), (65_535, 64), (65_535, 65_535), (49, 64)):
        claimed = PLAIN[: at + 5] + struct.pack(">HH", height, width) + PLAIN[at + 9 :]
        assert block_means(claimed) is None


def test_a_level_no_picture_has() -> None:
    at = PLAIN.index(b"\xff\xdb")
    wild = PLAIN[: at + 5] + b"\xff" + PLAIN[at + 6 :]
    assert block_means(wild) is None


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


@pytest.mark.parametrize(
    "count",
    [3_000, pytest.param(2_000_000, marks=[pytest.mark.full, pytest.mark.timeout(3_600)])],
    ids=["some", "many"],
)
def test_what_is_broken_is_none_or_what_libjpeg_makes_of_it(count: int) -> None:
    dice = random.Random(count)
    answered = 0
    for _ in range(count // 10):
        data = some_picture(dice)
        for _ in range(10):
            broken = mutated(dice, data)
            means = block_means(broken)
            if means is None:
                continue
            expected = of_libjpeg(broken)
            answered += 1
            assert expected is None or (means.shape == expected.shape and (means == expected).all())
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


def test_compiling_gives_the_same_bytes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("ziglang", reason="the compiler of means.c: `make means`")
    monkeypatch.setenv("ZIG_LOCAL_CACHE_DIR", str(tmp_path))
    assert build.compiled() == CODE.read_bytes()
