"""`smartsite detect`: pictures and videos in, what the model sees in them out.

Pictures may be JPEG, PNG, BMP or WebP; videos what OpenCV's FFmpeg reads of the containers below.
What a file is, its first bytes say, not its name. Everything is looked at upright, as the EXIF tag
of a photograph says: boxes, width and height are those of the picture as people see it.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np

from detectors.vision.crops import head_crop
from detectors.vision.model import Least, Model
from detectors.vision.picture import Image, decode
from device_profiles.errors import Reason, Rejected
from device_profiles.jpeg import MAX_PIXELS, MAX_SIDE, read_jpeg_header
from device_profiles.readings import Box

PICTURES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})
VIDEOS = frozenset({".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts"})
"""What is taken from a folder, by the ends of names; a file named by itself may have any name."""

MAX_BYTES = 64 * 2**20
"""Largest picture file."""


class SecondLook(Protocol):
    """From crops of heads to the probability that each of them wears a hard hat, 0 to 1.

    Attributes:
        least: From which probability on it is believed.
    """

    least: float

    def __call__(self, crops: Sequence[Image], /) -> Sequence[float]:
        """Look at crops from `detectors.vision.crops.head_crop`."""
        ...


Conceal = Callable[[Image, Sequence[Box]], Image]
"""Makes people in a picture unrecognisable, before it is drawn on."""

HEADS = frozenset({"helmet", "head"})
COLOURS = {
    "helmet": (60, 180, 60),
    "head": (40, 40, 230),
    "person": (200, 160, 60),
    "vest": (0, 200, 255),
    "no_vest": (200, 60, 200),
}
"""Blue, green, red."""


COUNTED = frozenset({".mp4", ".m4v", ".mov", ".avi"})
"""Videos whose container counts its frames; elsewhere the count is an estimate."""

FRAMES_SHORT = 0.02
"""A container's count of its frames may be off by this share."""


class Found(NamedTuple):
    """A box, and what the second look said.

    Attributes:
        box: In pixels of the original.
        second_look: Probability of a hard hat; None where nobody looked twice.
    """

    box: Box
    second_look: float | None = None


class Seen(NamedTuple):
    """A picture that was looked at.

    Attributes:
        path: As it was given, or under the folder that was.
        frame: Of a video, from 0; None for a picture.
        width: Pixels.
        height: Pixels.
        found: Highest score first.
        image: The picture in full, upright; None unless it is wanted.
    """

    path: Path
    frame: int | None
    width: int
    height: int
    found: tuple[Found, ...]
    image: Image | None


class Unreadable(NamedTuple):
    """A file that could not be looked at, or no further.

    Attributes:
        path: As in `Seen`.
        error: One line.
        frame: Of a video, the first that could not be read.
    """

    path: Path
    error: str
    frame: int | None = None


class Eye:
    """The model, and from which score on what it sees counts."""

    def __init__(
        self, model: Model, min_score: float | None = None, second_look: SecondLook | None = None
    ) -> None:
        """Take a model.

        Args:
            model: The detector.
            min_score: Every box from this score on, as it left the suppression; None for what
                counts: the model's operating point, and the verdict of the second look.
            second_look: Asked of every head, bare or in a helmet; a helmet it does not believe in
                is a head, and a bare head stays one.
        """
        self.model = model
        self.second_look = second_look
        self._every = min_score is not None
        self._least: Least = model.operating_point if min_score is None else min_score

    def see(
        self,
        image: Image,
        size: tuple[int, int] | None = None,
        whole: Callable[[], Image] | None = None,
    ) -> list[Found]:
        """Look at a picture.

        Args:
            image: Possibly shrunk.
            size: Width and height of the original, where it was.
            whole: Gives the original, for the second look, where it was.

        Returns:
            What was found, highest score first.
        """
        boxes = self.model.see(image, self._least, every=self._every, size=size)
        heads = [number for number, box in enumerate(boxes) if box.label in HEADS]
        if self.second_look is None or not heads:
            return [Found(box) for box in boxes]
        original = whole() if whole is not None else image
        shares = self.second_look([head_crop(original, boxes[number].box) for number in heads])
        found = [Found(box) for box in boxes]
        for number, share in zip(heads, shares, strict=True):
            box = boxes[number]
            if not self._every and box.label == "helmet" and share < self.second_look.least:
                box = Box("head", box.score, box.box)
            found[number] = Found(box, round(float(share), 3))
        return found


class Source(NamedTuple):
    """A file to look at.

    Attributes:
        path: Where it is.
        name: Where its annotated copy goes, under the folder of the copies.
    """

    path: Path
    name: Path


def sources(paths: Sequence[Path]) -> Iterator[Source | Unreadable]:
    """Find the files that paths name.

    Args:
        paths: Files, and folders, which are searched through in the order of names.

    Yields:
        Each file; or why a path names none.
    """
    for path in paths:
        if path.is_dir():
            count = 0
            for file in _files(path):
                count += 1
                yield Source(file, Path(path.resolve().name) / file.relative_to(path))
            if not count:
                yield Unreadable(path, "a folder without pictures or videos")
        elif path.is_file():
            yield Source(path, Path(path.name))
        else:
            yield Unreadable(path, "is not there" if not path.exists() else "is no file")


def _files(folder: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            if Path(name).suffix.lower() in PICTURES | VIDEOS:
                yield Path(root) / name


def look_at(
    path: Path, eye: Eye, *, every: int = 1, keep: bool = False
) -> Iterator[Seen | Unreadable]:
    """Look at a file.

    Args:
        path: A picture or a video.
        eye: Who looks.
        every: Of a video, look at the first frame and every so many after it.
        keep: Whether the pictures themselves are wanted, to draw on.

    Yields:
        What was seen, frame by frame; last, where it ended early, why.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(256)
            if _is_video(start):
                yield from _look_at_video(path, eye, every=every, keep=keep)
                return
            data = start + stream.read(MAX_BYTES + 1 - len(start))
    except OSError as fault:
        yield Unreadable(path, fault.strerror or str(fault))
        return
    try:
        yield _look_at_picture(path, data, eye, keep=keep)
    except Rejected as fault:
        yield Unreadable(path, str(fault))


def _look_at_picture(path: Path, data: bytes, eye: Eye, *, keep: bool) -> Seen:
    if len(data) > MAX_BYTES:
        raise Rejected(Reason.TOO_LARGE, f"a picture of more than {MAX_BYTES} bytes")
    if data[:2] != b"\xff\xd8":
        _require_small(data)
        image = _decode_other(data)
        size = image.shape[1], image.shape[0]
        return Seen(path, None, *size, tuple(eye.see(image)), image if keep else None)
    header = read_jpeg_header(data)
    placement = eye.model.place(header.width, header.height)
    image = decode(data, header, placement.side, upright=True)
    size = header.width, header.height
    # The tag may say that it lies on its side.
    if (image.shape[1] > image.shape[0]) != (header.width > header.height):
        size = header.height, header.width

    def whole() -> Image:
        return decode(data, header, max(header.width, header.height), upright=True)

    found = eye.see(image, size, whole)
    return Seen(path, None, *size, tuple(found), whole() if keep else None)


def _require_small(data: bytes) -> None:
    width, height = _dimensions(data)
    if width < 1 or height < 1:
        raise Rejected(Reason.SYNTAX, f"a picture of {width} × {height} pixels")
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise Rejected(
            Reason.TOO_LARGE,
            f"a picture that claims {width} × {height} pixels, at most {MAX_SIDE} a side and"
            f" {MAX_PIXELS} in all",
        )


def _dimensions(data: bytes) -> tuple[int, int]:
    """Width and height as a header claims them, of what is no JPEG."""
    try:
        if data[:8] == b"\x89PNG\r\n\x1a\n" and data[12:16] == b"IHDR":
            return _two(data, ">II", 16)
        if data[:2] == b"BM":
            (size,) = struct.unpack_from("<I", data, 14)
            width, height = _two(data, "<HH", 18) if size == 12 else _two(data, "<ii", 18)
            return width, abs(height)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp_dimensions(data)
    except struct.error:
        raise Rejected(Reason.INCOMPLETE, "a picture that ends within its header") from None
    raise Rejected(Reason.TYPE, "neither a picture (JPEG, PNG, BMP, WebP) nor a video")


def _webp_dimensions(data: bytes) -> tuple[int, int]:
    """By the container's specification: developers.google.com/speed/webp/docs/riff_container."""
    match data[12:16]:
        case b"VP8X":
            low, high, more_low, more_high = struct.unpack_from("<HBHB", data, 24)
            return low + (high << 16) + 1, more_low + (more_high << 16) + 1
        case b"VP8L":
            (packed,) = struct.unpack_from("<I", data, 21)
            return (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1
        case _:
            width, height = _two(data, "<HH", 26)
            return width & 0x3FFF, height & 0x3FFF


def _two(data: bytes, form: str, at: int) -> tuple[int, int]:
    first, second = struct.unpack_from(form, data, at)
    return int(first), int(second)


def _decode_other(data: bytes) -> Image:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as fault:
        raise Rejected(Reason.SYNTAX, f"the picture cannot be decoded: {fault.err}") from None
    if image is None:
        raise Rejected(Reason.SYNTAX, "the picture cannot be decoded")
    return image.astype(np.uint8, copy=False)


def _is_video(start: bytes) -> bool:
    """Whether a file begins like a container of video; never a playlist: it names other files."""
    return (
        start[4:8] in (b"ftyp", b"moov", b"mdat", b"wide")
        or (start[:4] == b"RIFF" and start[8:12] == b"AVI ")
        or start[:4] in (b"\x1aE\xdf\xa3", b"\x00\x00\x01\xba", b"\x00\x00\x01\xb3")
        or (len(start) > 188 and start[0] == start[188] == 0x47)
    )


def frames_of(path: Path, every: int = 1) -> int:
    """How many pictures a file holds, as far as it says.

    Args:
        path: A picture or a video.
        every: As in `look_at`.

    Returns:
        1 for what is no video.
    """
    try:
        with path.open("rb") as stream:
            if not _is_video(stream.read(256)):
                return 1
    except OSError:
        return 1
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    try:
        return max(1, -(-int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) // every))
    finally:
        capture.release()


def _look_at_video(path: Path, eye: Eye, *, every: int, keep: bool) -> Iterator[Seen | Unreadable]:
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    number = 0
    try:
        if not capture.isOpened():
            yield Unreadable(path, "the video cannot be opened")
            return
        claimed = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        width = int(capture.get(cv2.CAP_PROP_FRAME_WIDTH))
        height = int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
        if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
            yield Unreadable(path, f"a video of {width} × {height} pixels is too large")
            return
        while capture.grab():
            if number % every == 0:
                there, frame = capture.retrieve()
                if not there:
                    break
                image = frame.astype(np.uint8, copy=False)
                size = image.shape[1], image.shape[0]
                yield Seen(path, number, *size, tuple(eye.see(image)), image if keep else None)
            number += 1
    except cv2.error as fault:
        yield Unreadable(path, f"the video cannot be decoded: {fault.err}", number)
        return
    finally:
        capture.release()
    if number == 0:
        yield Unreadable(path, "the video holds no frame that can be decoded")
    elif path.suffix.lower() in COUNTED and number < claimed * (1 - FRAMES_SHORT) - 2:
        yield Unreadable(path, f"the video ends at frame {number} of {int(claimed)}", number)


def shown(path: Path) -> str:
    """A path as text that can be written.

    Args:
        path: Of a file, whose name may hold any bytes.

    Returns:
        It, bytes that are no UTF-8 as escapes of a backslash, x and two digits.
    """
    return os.fsencode(path).decode(errors="backslashreplace")


def as_json(result: Seen | Unreadable) -> dict[str, Any]:
    """One line of `smartsite detect --json`.

    Args:
        result: Of one picture.

    Returns:
        ``path``, ``frame`` for videos, ``width``, ``height``, ``detections``; or ``path`` and
        ``error``.
    """
    line: dict[str, Any] = {"path": shown(result.path)}
    if result.frame is not None:
        line["frame"] = result.frame
    if isinstance(result, Unreadable):
        return line | {"error": result.error}
    detections = []
    for box, second_look in result.found:
        detection: dict[str, Any] = {
            "class": box.label,
            "score": box.score,
            "box": list(box.box),
        }
        if second_look is not None:
            detection["second_look"] = second_look
        detections.append(detection)
    return line | {"width": result.width, "height": result.height, "detections": detections}


def annotated(image: Image, found: Sequence[Found]) -> Image:
    """Draw what was found on a picture.

    Args:
        image: The original.
        found: Boxes in its pixels.

    Returns:
        A copy with boxes, class and score.
    """
    drawn = image.copy()
    thick = max(1, round(max(image.shape[:2]) / 640))
    scale = max(0.4, max(image.shape[:2]) / 1_600)
    for box, _ in reversed(found):
        colour = COLOURS.get(box.label, (255, 255, 255))
        x1, y1, x2, y2 = (round(side) for side in box.box)
        cv2.rectangle(drawn, (x1, y1), (x2, y2), colour, thick)
        text = f"{box.label} {box.score:.2f}"
        (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, thick)
        top = max(y1, height + 4)
        cv2.rectangle(drawn, (x1, top - height - 4), (x1 + width + 2, top), colour, cv2.FILLED)
        cv2.putText(
            drawn, text, (x1 + 1, top - 3), cv2.FONT_HERSHEY_SIMPLEX, scale, (0, 0, 0), thick
        )
    return drawn


def annotated_path(folder: Path, name: Path, frame: int | None) -> Path:
    """Where an annotated copy goes.

    Args:
        folder: Of the copies.
        name: Of the file in it.
        frame: Of a video.

    Returns:
        The path, of a JPEG.
    """
    if frame is not None:
        return folder / name / f"{frame:06d}.jpg"
    return folder / (name if name.suffix.lower() in (".jpg", ".jpeg") else Path(f"{name}.jpg"))
