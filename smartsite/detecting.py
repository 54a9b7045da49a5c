"""`smartsite detect`: pictures and videos in, what the model sees in them out.

Pictures may be JPEG, PNG, BMP or WebP; videos what OpenCV's FFmpeg reads of the containers below.
What a file is, its first bytes say, not its name. Everything is looked at upright, as the EXIF tag
of a photograph says: boxes, width and height are those of the picture as people see it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

import cv2
import numpy as np

from alerts.concealing import SAME, Concealed, conceal, overlap, strangers
from detectors.vision.crops import head_crop
from detectors.vision.model import Least, Model
from detectors.vision.opinions import HEAD_SCORE, HELMET, Opinions
from detectors.vision.picture import Image, decode
from device_profiles.errors import Reason, Rejected
from device_profiles.jpeg import MAX_PIXELS, MAX_SIDE, read_jpeg_header
from device_profiles.readings import HEADS, Box
from smartsite.media import (
    MAX_BYTES,
    STREAMS,
    capture_of,
    container_of,
    decode_other,
    frames_end,
    length_of,
    much_is_missing,
    no_file,
    opened,
    require_small,
)

PICTURES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp"})
VIDEOS = frozenset(
    {".mp4", ".m4v", ".mov", ".3gp", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".vob", ".ts"}
)
OTHERS = frozenset({".avif", ".gif", ".heic", ".heif", ".j2k", ".jp2", ".jxl", ".tif", ".tiff"})
OTHERS |= {".arw", ".cr2", ".cr3", ".dng", ".nef", ".264", ".265", ".h264", ".h265", ".asf"}
OTHERS |= {".dav", ".flv", ".m2ts", ".mts", ".mxf", ".ogv", ".rmvb", ".wmv"}
"""What is taken from a folder, by the ends of names, the others to say that they cannot be read; a
file named by itself may have any name."""


class SecondLook(Protocol):
    """From crops of heads to the probability that each of them wears a hard hat, 0 to 1.

    Attributes:
        least: From which probability on it is believed.
    """

    least: float

    def __call__(self, crops: Sequence[Image], /) -> Sequence[float]:
        """Look at crops from `detectors.vision.crops.head_crop`."""
        ...


COLOURS = {
    "helmet": (60, 180, 60),
    "head": (40, 40, 230),
    "person": (200, 160, 60),
    "vest": (0, 200, 255),
    "no_vest": (200, 60, 200),
}
"""Blue, green, red."""


JPEG = b"\xff\xd8"
"""What a JPEG begins with."""

USUAL_RATE = 25.0
"""Frames a second of a video that says none, or what cannot be."""

RATES = (1e-3, 1e3)
"""Least and most frames a second that are believed."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


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
        concealed: Heads nobody is accused of, to be made unreadable on a copy.
    """

    path: Path
    frame: int | None
    width: int
    height: int
    found: tuple[Found, ...]
    image: Image | None
    concealed: Concealed = Concealed()


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


class PassedOver(NamedTuple):
    """Files of a folder that are not looked at, since they are no pictures by their names.

    Attributes:
        path: The folder.
        files: How many.
    """

    path: Path
    files: int


class Moment(NamedTuple):
    """One frame among those of its video.

    Attributes:
        opinions: What the second look said of the heads on those before it.
        at: When; of a video, from any beginning on.
    """

    opinions: Opinions
    at: datetime


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
        self._min_score = min_score
        self._least: Least = model.operating_point
        if min_score is not None:
            # Whose head has to be concealed does not depend on what is asked for.
            self._least = min(min_score, *model.operating_point.values())

    def see(
        self,
        image: Image,
        size: tuple[int, int] | None = None,
        whole: Callable[[], Image] | None = None,
        moment: Moment | None = None,
    ) -> tuple[list[Found], Concealed]:
        """Look at a picture.

        Args:
            image: Possibly shrunk.
            size: Width and height of the original, where it was.
            whole: Gives the original, for the second look, where it was.
            moment: Of a frame of a video. There the verdict on a helmet is by what the second look
                said of that head so far, taken together, where only what counts is wanted; a
                `Found` keeps what it said of this very frame.

        Returns:
            What was found, highest score first; and the heads nobody is accused of.
        """
        every = self._min_score is not None
        found = self._found(
            self.model.see(image, self._least, every=every, size=size), image, whole, moment
        )
        concealed = bystanders([each.box for each in found], self.model.operating_point)
        if self._min_score is not None:
            found = [each for each in found if each.box.score >= self._min_score]
        return found, concealed

    def _found(
        self,
        boxes: Sequence[Box],
        image: Image,
        whole: Callable[[], Image] | None,
        moment: Moment | None,
    ) -> list[Found]:
        heads = [number for number, box in enumerate(boxes) if box.label in HEADS]
        if self.second_look is None or not heads:
            return [Found(box) for box in boxes]
        original = whole() if whole is not None else image
        shares = self.second_look([head_crop(original, boxes[number].box) for number in heads])
        answers = {number: float(share) for number, share in zip(heads, shares, strict=True)}
        if moment is not None:
            moment.opinions.to_ask(boxes, moment.at)  # it was asked of all
            moment.opinions.take(
                {
                    number: share
                    for number, share in answers.items()
                    if boxes[number].label == HELMET and boxes[number].score >= HEAD_SCORE
                }
            )
        found = [Found(box) for box in boxes]
        for number, share in answers.items():
            box = boxes[number]
            heard = moment.opinions.heard(box) if moment is not None else None
            believed = (share if heard is None else heard) >= self.second_look.least
            if self._min_score is None and box.label == HELMET and not believed:
                box = Box("head", box.score, box.box)
            found[number] = Found(box, round(share, 3))
        return found


def bystanders(boxes: Sequence[Box], least: Mapping[str, float]) -> Concealed:
    """The heads on a picture that nobody is accused of: all but the bare ones.

    Args:
        boxes: Everything that was seen.
        least: From which score on a class counts.

    Returns:
        Helmets, and where no head was seen of somebody, where it must be; the bare ones stay.
    """
    counting = [box for box in boxes if box.score >= least.get(box.label, math.inf)]
    helmets = [box for box in counting if box.label == "helmet"]
    bare = [
        box
        for box in counting
        if box.label == "head"
        # Where every box was asked for a head may be both.
        and not any(
            other.score > box.score and overlap(other.box, box.box) >= SAME for other in helmets
        )
    ]
    drawn, seen = ([(box.label, box.score, *box.box) for box in some] for some in (bare, counting))
    return strangers(drawn, seen)


class Source(NamedTuple):
    """A file to look at.

    Attributes:
        path: Where it is.
        name: Where its annotated copy goes, under the folder of the copies.
    """

    path: Path
    name: Path


def sources(paths: Sequence[Path]) -> Iterator[Source | Unreadable | PassedOver]:
    """Find the files that paths name.

    Args:
        paths: Files, and folders, which are searched through in the order of names.

    Yields:
        Each file; or why a path names none; after a folder's, how many of it were passed over.
    """
    for path in paths:
        if os.path.isdir(path):  # noqa: PTH112 - Path.is_dir() raises where it may not look
            count = passed_over = 0
            for file in _files(path):
                if isinstance(file, Path) and not _is_looked_at(file):
                    passed_over += 1
                    continue
                count += 1
                if isinstance(file, Unreadable):
                    yield file
                elif fault := no_file(file):
                    yield Unreadable(file, fault)
                else:
                    yield Source(file, Path(path.resolve().name) / file.relative_to(path))
            if not count:
                yield Unreadable(path, "a folder without pictures or videos")
            if passed_over:
                yield PassedOver(path, passed_over)
        elif fault := no_file(path):
            yield Unreadable(path, fault)
        else:
            yield Source(path, Path(path.name))


def _files(folder: Path) -> Iterator[Path | Unreadable]:
    """Everything in a folder, and the folders that cannot be entered."""
    faults: list[OSError] = []
    for root, folders, names in os.walk(folder, onerror=faults.append):
        yield from _told(faults)
        folders.sort()
        for name in sorted(names):
            yield Path(root) / name
    yield from _told(faults)


def _is_looked_at(file: Path) -> bool:
    """By the end of its name; where that has none, by the first two bytes, for JPEGs."""
    if file.suffix:
        return file.suffix.lower() in PICTURES | VIDEOS | OTHERS
    try:
        with opened(file) as stream:
            return stream.read(2) == JPEG
    except OSError:
        return False


def _told(faults: list[OSError]) -> Iterator[Unreadable]:
    while faults:
        fault = faults.pop(0)
        yield Unreadable(Path(fault.filename), fault.strerror or str(fault))


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
        with opened(path) as stream:
            start = stream.read(256)
            if (container := container_of(start)) is not None:
                yield from _look_at_video(path, stream, container, eye, every=every, keep=keep)
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
    if data[:2] != JPEG:
        require_small(data)
    if len(data) > MAX_BYTES:
        raise Rejected(Reason.TOO_LARGE, f"a picture of more than {MAX_BYTES} bytes")
    if data[:2] != JPEG:
        image = decode_other(data)
        size = image.shape[1], image.shape[0]
        return _seen(path, None, size, eye.see(image), image if keep else None)
    header = read_jpeg_header(data)
    placement = eye.model.place(header.width, header.height)
    image = decode(data, header, placement.side, upright=True)
    size = header.width, header.height

    def whole() -> Image:
        return decode(data, header, max(size), upright=True)

    # The tag may say that it lies on its side. Of one that is nearly square, and shrunk, that is
    # not to be seen.
    turned = image if image.shape[0] != image.shape[1] else whole()
    if (turned.shape[1] > turned.shape[0]) != (header.width > header.height):
        size = header.height, header.width
    return _seen(path, None, size, eye.see(image, size, whole), whole() if keep else None)


def _seen(
    path: Path,
    frame: int | None,
    size: tuple[int, int],
    saw: tuple[Sequence[Found], Concealed],
    image: Image | None,
) -> Seen:
    found, concealed = saw
    return Seen(path, frame, *size, tuple(found), image, concealed)


def frames_of(path: Path, every: int = 1) -> int:
    """How many pictures a file holds, as far as it says.

    Args:
        path: A picture or a video.
        every: As in `look_at`.

    Returns:
        1 for what is no video.
    """
    try:
        with opened(path) as stream:
            if container_of(stream.read(256)) is None:
                return 1
            with capture_of(stream) as capture:
                return max(1, -(-int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) // every))
    except OSError:
        return 1


def _look_at_video(
    path: Path, stream: BinaryIO, container: str, eye: Eye, *, every: int, keep: bool
) -> Iterator[Seen | Unreadable]:
    number = 0
    reached_ms = 0.0
    opinions = Opinions()
    end = frames_end(stream, container)
    try:
        with capture_of(stream) as capture:
            if not capture.isOpened():
                yield Unreadable(path, "the video cannot be opened")
                return
            claimed = capture.get(cv2.CAP_PROP_FRAME_COUNT)
            rate = capture.get(cv2.CAP_PROP_FPS)
            if not RATES[0] <= rate <= RATES[1]:
                rate = USUAL_RATE
            width = int(capture.get(cv2.CAP_PROP_FRAME_WIDTH))
            height = int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
            if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
                yield Unreadable(path, f"a video of {width} × {height} pixels is too large")
                return
            while capture.grab():
                reached_ms = max(reached_ms, capture.get(cv2.CAP_PROP_POS_MSEC))
                if number % every == 0:
                    there, frame = capture.retrieve()
                    if not there:
                        break
                    image = frame.astype(np.uint8, copy=False)
                    moment = Moment(opinions, EPOCH + timedelta(seconds=number / rate))
                    saw = eye.see(image, moment=moment)
                    size = image.shape[1], image.shape[0]
                    yield _seen(path, number, size, saw, image if keep else None)
                number += 1
    except cv2.error as fault:
        yield Unreadable(path, f"the video cannot be decoded: {fault.err}", number)
        return
    if number == 0:
        yield Unreadable(path, "the video holds no frame that can be decoded")
    elif end is not None and end > (length := length_of(stream)):
        yield Unreadable(path, f"the video is cut off after {length} of {end} bytes", number)
    elif (end is not None or container in STREAMS) and much_is_missing(
        number, claimed, reached_ms * rate / 1000
    ):
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


def annotated(image: Image, found: Sequence[Found], concealed: Concealed | None = None) -> Image:
    """Draw what was found on a picture.

    Args:
        image: The original.
        found: Boxes in its pixels.
        concealed: Heads to be made unreadable; None for none.

    Returns:
        A copy with boxes, class and score.
    """
    drawn = image.copy()
    if concealed is not None:
        conceal(drawn, concealed)
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
