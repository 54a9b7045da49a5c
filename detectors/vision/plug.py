"""What a model says of itself: how it is to be fed, and how its answer is to be read.

A detector in ONNX carries its description in its metadata, as the shipped one does, or has it in
a TOML file of the same name beside it (``mine.onnx``, ``mine.toml``), or both: what the file says
counts. In the metadata each of the keys is JSON. docs/own-model.md shows whole examples.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from detectors.vision.boxes import STRIDES, Candidates, Floats, decode_cells, grid, pick
from detectors.vision.errors import Misconfigured
from detectors.vision.picture import PAD, Letterbox, Placement

CLASSES = ("helmet", "head", "person", "vest", "no_vest")
"""What the rules know: a head in a hard hat; bare, in a cap or hood; a person; a torso in a
high-visibility vest, and without."""

OPERATING_POINT = 0.5
"""Least score of a class for which the description names none."""

_PROSE = frozenset({"columns", "centre", "size", "scores"})
"""Keys of our own metadata that explain the output to people."""

Share = Annotated[float, Field(ge=0, le=1)]
Side = Annotated[int, Field(ge=32, le=4_096)]
Three = tuple[float, float, float]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Preprocessing(_Part):
    """How a picture becomes the model's input.

    Attributes:
        colour: Order of the channels; `mean` and `std` are in this order.
        range: What black and white become.
        letterbox: Where the picture lies in the input.
        padding: Grey around it, 0 to 255, before `range`.
        mean: Taken off after `range`.
        std: Divided by after that.
        multiple_of: What the sides of an input are multiples of.
        rectangular: Whether padding may be left out where the model's input has no fixed size.
        layout: Of the tensor.
    """

    colour: Literal["BGR", "RGB"]
    range: tuple[float, float] = (0, 255)
    letterbox: Letterbox = "top-left"
    padding: int = Field(PAD, ge=0, le=255)
    mean: Three = (0, 0, 0)
    std: Three = (1, 1, 1)
    multiple_of: int = Field(32, ge=1, le=1_024)
    rectangular: bool = True
    layout: Literal["NCHW"] = "NCHW"

    @field_validator("range")
    @classmethod
    def _rises(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[0] >= value[1]:
            raise ValueError("black has to lie below white")
        return value

    @field_validator("std")
    @classmethod
    def _divides(cls, value: Three) -> Three:
        if min(value) <= 0:
            raise ValueError("what is divided by has to be above 0")
        return value

    def levels(self) -> Floats:
        """What each brightness becomes in each channel.

        Returns:
            3 × 256.
        """
        low, high = self.range
        level = low + np.arange(256) / 255 * (high - low)
        mean, std = np.array(self.mean), np.array(self.std)
        return np.asarray((level - mean[:, np.newaxis]) / std[:, np.newaxis], np.float32)

    @property
    def plain(self) -> bool:
        """Whether levels stay as they are."""
        return self.range == (0, 255) and self.mean == (0, 0, 0) and self.std == (1, 1, 1)


class Output(_Part):
    """How the model's answer is to be read.

    Attributes:
        layout: ``yolox``: a row for each cell of the grids; ``yolo``: 4 + classes rows (or
            columns) of boxes anywhere; ``boxes``: what is left after suppression inside the
            model, x1, y1, x2, y2, score, class.
        decoded: yolox: boxes are in pixels already; else offsets and logarithms in cells.
        objectness: A score for "anything" stands before the classes, to be multiplied with them.
        logits: Scores still lack the sigmoid.
        strides: yolox: of its grids.
        box: yolo: what the four numbers are.
        normalised: yolo and boxes: numbers are shares of the input's sides, not pixels.
        name: Of the output; None takes the only one.
    """

    layout: Literal["yolox", "yolo", "boxes"]
    decoded: bool = False
    objectness: bool = False
    logits: bool = False
    strides: tuple[Annotated[int, Field(ge=1, le=1_024)], ...] = STRIDES
    box: Literal["cxcywh", "xyxy"] = "cxcywh"
    normalised: bool = False
    name: str | None = None


class Description(_Part):
    """What a model says of itself.

    Attributes:
        classes: Our names of its classes in order, "" for one to be ignored; or by number.
        input_size: Width and height, pixels; may be written as the one side of a square.
        preprocessing: How it is fed.
        output: How its answer is read.
        max_overlap: Boxes of one class that overlap by more are one.
        operating_point: Least score of what counts, by class.
    """

    classes: tuple[str, ...] | dict[Annotated[int, Field(ge=0, le=10_000)], str]
    input_size: tuple[Side, Side]
    preprocessing: Preprocessing
    output: Output
    max_overlap: Share = 0.6
    operating_point: dict[str, Share] = {}

    @field_validator("input_size", mode="before")
    @classmethod
    def _may_be_square(cls, value: object) -> object:
        return (value, value) if isinstance(value, int) else value

    @field_validator("classes")
    @classmethod
    def _are_ours(cls, value: tuple[str, ...] | dict[int, str]) -> tuple[str, ...] | dict[int, str]:
        names = set(value.values() if isinstance(value, dict) else value) - {""}
        if strangers := sorted(names - set(CLASSES)):
            raise ValueError(
                f'{", ".join(strangers)}: no rule knows these; write "" for a class to be ignored,'
                f" or one of {', '.join(CLASSES)}"
            )
        if not names:
            raise ValueError(f"names none of {', '.join(CLASSES)}")
        return value

    @field_validator("operating_point")
    @classmethod
    def _of_ours(cls, value: dict[str, float]) -> dict[str, float]:
        if strangers := sorted(value.keys() - set(CLASSES)):
            raise ValueError(f"{', '.join(strangers)}: not one of {', '.join(CLASSES)}")
        return value

    @property
    def known(self) -> tuple[str, ...]:
        """The classes it finds that rules know, each once."""
        names = self.classes.values() if isinstance(self.classes, dict) else self.classes
        return tuple(name for name in dict.fromkeys(names) if name)

    def least(self, name: str) -> float:
        """The least score at which a box of a class counts.

        Args:
            name: Of the class.

        Returns:
            0 to 1.
        """
        return self.operating_point.get(name, OPERATING_POINT)


def describe(path: Path, metadata: Mapping[str, str]) -> Description:
    """Read a model's description.

    Args:
        path: The ONNX file; the TOML file is looked for beside it.
        metadata: Of the ONNX file.

    Returns:
        The description.

    Raises:
        Misconfigured: Something is missing or wrong: every fault on a line, with file and key.
    """
    beside = path.with_suffix(".toml")
    said = _from_metadata(path, metadata)
    try:
        written = tomllib.loads(beside.read_text("utf-8"))
    except FileNotFoundError:
        written = {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as fault:
        raise Misconfigured(f"{beside}: not readable as TOML: {fault}") from None
    if not said and not written:
        raise Misconfigured(
            f"the model {path} does not say its `classes`, `input_size`, `preprocessing` and"
            f" `output` in its metadata, and there is no {beside.name} beside it that does:"
            " see docs/own-model.md"
        )
    whole = said | written
    for key in ("preprocessing", "output"):
        if isinstance(said.get(key), dict) and isinstance(written.get(key), dict):
            whole[key] = said[key] | written[key]
    try:
        return Description.model_validate(whole)
    except ValidationError as fault:
        lines = []
        for error in fault.errors(include_url=False, include_context=False):
            key = ".".join(str(part) for part in error["loc"])
            where = beside if not said or _holds(written, error["loc"]) else f"{path} (metadata)"
            lines.append(f"{where}: {key}: {error['msg'].removeprefix('Value error, ')}")
        raise Misconfigured("\n".join(dict.fromkeys(lines))) from None


def _holds(written: Mapping[str, Any], place: tuple[int | str, ...]) -> bool:
    part: Any = written
    for key in place[:2]:
        if not isinstance(part, dict) or key not in part:
            return part is not written and not isinstance(part, dict)
        part = part[key]
    return True


def _from_metadata(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    said: dict[str, Any] = {}
    for key in Description.model_fields.keys() & metadata.keys():
        try:
            said[key] = json.loads(metadata[key])
        except ValueError:
            raise Misconfigured(f"{path} (metadata): {key}: not JSON") from None
    output = said.get("output")
    if isinstance(output, dict):
        said["output"] = {key: value for key, value in output.items() if key not in _PROSE}
    return said


class Reader:
    """Reads a model's answers.

    Attributes:
        names: Of the model's classes by number; "" for one that is ignored.
    """

    def __init__(self, description: Description, height: int, width: int, shape: tuple[int, ...]):
        """Find out how an answer is to be read.

        Args:
            description: Of the model.
            height: Of the input that was answered, pixels.
            width: Likewise.
            shape: Of the answer, the batch's dimension first.

        Raises:
            Misconfigured: The answer does not fit the description.
        """
        self._output = output = description.output
        classes = description.classes
        if len(shape) != 3:
            raise Misconfigured(f"answers {shape}, not one row a box")
        if output.layout == "boxes":
            columns = 6
        elif isinstance(classes, tuple):
            columns = 4 + output.objectness + len(classes)
        else:
            least = 5 + output.objectness + max(classes)
            columns = min((side for side in shape[1:] if side >= least), default=least)
        self._columns = columns
        self._turned = shape[2] != columns
        across = shape[1] if self._turned else shape[2]
        if across != columns:
            raise Misconfigured(
                f"answers {shape}: {self._told(description)} make {columns} columns"
            )
        self.require(height, width, shape)
        if isinstance(classes, tuple):
            self.names = classes
        else:
            count = max(classes) + 1 if output.layout == "boxes" else across - 4 - output.objectness
            self.names = tuple(classes.get(number, "") for number in range(count))

    def require(self, height: int, width: int, shape: tuple[int, ...]) -> None:
        """Check the answer to an input of another shape.

        Args:
            height: Of the input, pixels.
            width: Likewise.
            shape: Of the answer, the batch's dimension first.

        Raises:
            Misconfigured: It cannot be read as the first one was.
        """
        where = f"answers {shape} to an input of {width} × {height}"
        rows, across = shape[:0:-1] if self._turned else shape[1:]
        if across != self._columns:
            raise Misconfigured(f"{where}: not {self._columns} columns, as for others")
        if self._output.layout == "yolox":
            cells = len(grid(height, width, self._output.strides)[0])
            if rows != cells:
                raise Misconfigured(
                    f"{where}: strides {self._output.strides} make {cells} rows of it"
                )

    @staticmethod
    def _told(description: Description) -> str:
        if description.output.layout == "boxes":
            return "x1, y1, x2, y2, score and class"
        objectness = "objectness and " if description.output.objectness else ""
        classes = description.classes
        count = len(classes) if isinstance(classes, tuple) else max(classes) + 1
        return f"4 sides, {objectness}{count} classes"

    def floors(self, least: float | Mapping[str, float]) -> Floats:
        """The least score by class.

        Args:
            least: For all, or by name; a name it lacks is not wanted.

        Returns:
            One for each class; for one that is ignored no score is high enough.
        """
        wanted = (
            [least] * len(self.names)
            if isinstance(least, int | float)
            else [least.get(name, math.inf) for name in self.names]
        )
        return np.array(
            [floor if name else math.inf for name, floor in zip(self.names, wanted, strict=True)],
            np.float32,
        )

    def read(self, answer: Floats, placement: Placement, floors: Floats) -> Candidates:
        """Turn the answer to one picture into candidates.

        Args:
            answer: Two-dimensional.
            placement: Of the picture in the input.
            floors: From `floors`.

        Returns:
            Boxes in pixels of the input, scores and classes.
        """
        with np.errstate(invalid="ignore", over="ignore"):  # what is no number is dropped below
            return _finite(*self._read(answer.T if self._turned else answer, placement, floors))

    def _read(self, raw: Floats, placement: Placement, floors: Floats) -> Candidates:
        output = self._output
        if output.layout == "boxes":
            return self._left_over(raw, placement, floors)
        scores = raw[:, 4:]
        if output.logits:
            scores = np.asarray(1 / (1 + np.exp(-np.clip(scores, -60, 60))), np.float32)
        if output.objectness:
            scores = scores[:, 1:] * scores[:, :1]
        if output.layout == "yolox" and not output.decoded:
            whole = (
                raw
                if scores.base is raw
                else np.concatenate((raw[:, :4], scores), 1, dtype=np.float32)
            )
            return decode_cells(
                whole, placement.height, placement.width, floors, strides=output.strides
            )
        rows, classes = pick(scores, floors)
        boxes = raw[rows, :4]
        if output.layout == "yolox" or output.box == "cxcywh":
            halves = boxes[:, 2:] / 2
            boxes = np.concatenate((boxes[:, :2] - halves, boxes[:, :2] + halves), 1)
        return self._scaled(boxes, placement), scores[rows, classes], classes

    def _left_over(self, raw: Floats, placement: Placement, floors: Floats) -> Candidates:
        numbers = np.nan_to_num(raw[:, 5], nan=-1, posinf=-1, neginf=-1)
        inside = (numbers >= 0) & (numbers < len(self.names))
        raw, classes = raw[inside], numbers[inside].astype(np.int64)
        scores = raw[:, 4]
        high = scores >= floors[classes]
        boxes, scores, classes = raw[high, :4], scores[high], classes[high]
        return self._scaled(boxes, placement), scores, classes

    def _scaled(self, boxes: Floats, placement: Placement) -> Floats:
        if self._output.normalised and self._output.layout != "yolox":
            boxes = boxes * np.array([placement.width, placement.height] * 2, np.float32)
        return boxes.astype(np.float32, copy=False)


def _finite(boxes: Floats, scores: Floats, classes: np.ndarray[Any, Any]) -> Candidates:
    sound = np.isfinite(boxes).all(1) & np.isfinite(scores)
    if sound.all():
        return boxes, scores, classes
    return boxes[sound], scores[sound], classes[sound]
