"""The ONNX detector: loaded, checked and warmed once, then run on picture after picture."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime

from detectors.vision import self_test
from detectors.vision.boxes import Candidates, Floats, suppress
from detectors.vision.errors import Misconfigured
from detectors.vision.picture import Image, Placement, decode, fit, place
from detectors.vision.plug import Reader, describe
from device_profiles.errors import Rejected
from device_profiles.jpeg import read_jpeg_header
from device_profiles.readings import HEADS, Box

log = logging.getLogger(__name__)

SHIPPED = Path(__file__).parent / "weights" / "ppe.onnx"
MAX_BOXES = 300
MAX_CANDIDATES = 1_000
"""Most candidates that are compared with one another, the best; a model gone wild has thousands."""


GPU_BATCH = 16
"""Pictures a GPU looks at together. On a CPU a batch costs what its pictures cost one by one."""

Device = Literal["auto", "cpu", "cuda"]
Least = float | Mapping[str, float]
"""The least score of a box: of any class, or by class; classes it does not name are left out."""

_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
}


class Prepared(NamedTuple):
    """A picture as the model takes it.

    Attributes:
        tensor: 1 × 3 × height × width; overwritten by the next `prepare` of the same size.
        placement: Of the picture in it.
    """

    tensor: npt.NDArray[Any]
    placement: Placement


class Model:
    """A detector in ONNX: pictures in, boxes out.

    Attributes:
        sha256: Hash of the file, hexadecimal.
        description: What it says of itself.
        classes: What it finds, each once.
        operating_point: The least score that counts, by class.
        provider: What runs it: ``CPUExecutionProvider`` or ``CUDAExecutionProvider``.
    """

    def __init__(
        self,
        path: Path | None = None,
        *,
        threads: int = 1,
        device: Device = "auto",
        tested: bool = True,
    ) -> None:
        """Load, check and warm a model.

        Sets the number of threads that OpenCV uses in this process, too.

        Args:
            path: The ONNX file; None takes the one shipped.
            threads: For one picture.
            device: Where it runs; "auto" takes CUDA where onnxruntime has it.
            tested: Whether it must know the answer to the self-test picture.

        Raises:
            Misconfigured: The file is missing, or not a detector we can run, or one that does not
                find what the self-test picture shows.
        """
        path = path or SHIPPED
        try:
            data = path.read_bytes()
        except OSError as fault:
            raise Misconfigured(f"the model {path} cannot be read: {fault.strerror}") from None
        self.sha256 = hashlib.sha256(data).hexdigest()
        cv2.setNumThreads(threads)
        self._session = open_session(data, f"the model {path}", threads=threads, device=device)
        self.provider: str = self._session.get_providers()[0]
        self.description = describe(path, self._session.get_modelmeta().custom_metadata_map)
        self.classes = self.description.known
        self.operating_point = {name: self.description.least(name) for name in self.classes}
        self._lock = threading.Lock()
        self._buffers: dict[tuple[int, int], npt.NDArray[Any]] = {}
        try:
            self._check_ports()
            self._reader = self._warmed()
        except Misconfigured as fault:
            raise Misconfigured(f"the model {path} {fault}") from None
        first = {name: min(HEADS & set(self.classes), default=name) for name in HEADS}
        groups = [first.get(name, name) for name in self._reader.names]
        self._groups = np.array([groups.index(name) for name in groups], np.int64)
        if tested:
            self._require_answer(path)

    @property
    def side(self) -> int:
        """The longer side of its input, pixels."""
        return max(self.description.input_size)

    def _check_ports(self) -> None:
        """Find out what the input takes, and which output answers."""
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        width, height = self.description.input_size
        wanted = self.description.output.name
        names = [each.name for each in outputs]
        if wanted is not None and wanted not in names:
            raise Misconfigured(f"has no output {wanted!r}: only {', '.join(names)}")
        if wanted is None and len(names) != 1:
            raise Misconfigured(f"has the outputs {', '.join(names)}: say which in `output.name`")
        self._output: str = wanted or names[0]
        (given, *others) = inputs
        if others or len(given.shape) != 4 or given.type not in _TYPES:
            raise Misconfigured(
                f"takes {', '.join(f'{each.type} {each.shape}' for each in inputs)}, not one"
                " picture of 4 dimensions"
            )
        self._input: str = given.name
        self._type = _TYPES[given.type]
        batch, channels, *sides = given.shape
        step = self.description.preprocessing.multiple_of
        if channels not in (3, None) and not isinstance(channels, str):
            raise Misconfigured(f"takes {given.shape}: the second dimension is not 3 colours")
        for name, side, said in zip(("height", "width"), sides, (height, width), strict=True):
            if isinstance(side, int) and side != said:
                raise Misconfigured(
                    f"takes {given.shape}, and its description says an input_size of"
                    f" {width} × {height}: the {name} differs"
                )
            if said % step:
                raise Misconfigured(f"has a {name} of {said}, not a multiple of {step}")
        if isinstance(batch, int) and batch != 1:
            raise Misconfigured(f"takes {batch} pictures at once, not one")
        free = not any(isinstance(side, int) for side in sides)
        self._step = step if free and self.description.preprocessing.rectangular else None
        self._batch = GPU_BATCH if self.provider.startswith("CUDA") and batch != 1 else 1
        levels = self.description.preprocessing.levels()
        if self._type is np.uint8:
            levels = np.clip(np.rint(levels), 0, 255)
        self._levels = levels.astype(self._type)
        self._rgb = self.description.preprocessing.colour == "RGB"

    def _warmed(self) -> Reader:
        """Run it once on nothing of each kind of shape, and see what it answers."""
        width, height = self.description.input_size
        reader = Reader(self.description, height, width, self._answered(height, width))
        for sides in self._other_shapes():
            reader.require(*sides, self._answered(*sides))
        if self._batch > 1:
            try:
                alone = self._answered(height, width, 2)[0] != 2
            except Misconfigured as fault:
                log.warning("the model %s", fault)
                alone = True
            if alone:
                log.warning("the model takes one picture at once: on a GPU more are faster")
                self._batch = 1
        return reader

    def _answered(self, height: int, width: int, count: int = 1) -> tuple[int, ...]:
        return self._answer(np.zeros((count, 3, height, width), self._type)).shape

    def _other_shapes(self) -> list[tuple[int, int]]:
        """What pictures that are not of the input's shape become: height and width.

        Wide ones and high ones, down to the smallest inputs there are: a model whose graph says
        its sides are free may still hold them fixed within.
        """
        if self._step is None:
            return []
        width, height = self.description.input_size
        usual = (self.place(16, 9), self.place(9, 16))
        shapes = {(each.height, each.width) for each in usual}
        shapes |= {(self._step, width), (height, self._step)}
        return sorted(shapes - {(height, width)})

    def _require_answer(self, path: Path) -> None:
        try:
            data = self_test.PICTURE.read_bytes()
        except OSError as fault:
            raise Misconfigured(f"the self-test picture cannot be read: {fault}") from None
        found = self.look(data, self_test.LEAST_SCORE)
        if lines := self_test.missed(found, self.classes):
            seen = ", ".join(
                f"{box.label} {box.score:.2f} at {tuple(round(side) for side in box.box)}"
                for box in found[:8]
            )
            raise Misconfigured(
                f"the model {path} does not see what {self_test.PICTURE.name} shows:"
                f" {'; '.join(lines)}; it sees {seen or 'nothing'}. Is its description right"
                " (docs/own-model.md)?"
            )
        right, swapped = self._agreements(data)
        if swapped - right >= self_test.COLOURS_SWAPPED:
            raise Misconfigured(
                f"the model {path} sees {self_test.PICTURE.name} better with red and blue swapped"
                f" ({swapped:.2f} against {right:.2f}): is `preprocessing.colour` right"
                " (docs/own-model.md)?"
            )

    def _agreements(self, data: bytes) -> tuple[float, float]:
        """How well it sees the self-test picture: as it is, and with red and blue swapped."""
        header = read_jpeg_header(data)
        size = header.width, header.height
        image = decode(data, header, self.place(*size).side)
        right, swapped = (
            self.see(each, self_test.FAINT_SCORE, every=True, size=size)
            for each in (image, np.ascontiguousarray(image[..., ::-1]))
        )
        return (
            self_test.agreement(right, self.classes),
            self_test.agreement(swapped, self.classes),
        )

    def _answer(self, tensor: npt.NDArray[Any]) -> Floats:
        try:
            output: Any = self._session.run([self._output], {self._input: tensor})[0]
        except Exception as fault:  # noqa: BLE001 - onnxruntime's own errors share no root
            said = str(fault).splitlines()[0]
            shape = " × ".join(str(side) for side in tensor.shape)
            raise Misconfigured(
                f"cannot be run on {shape}: {said} (where its sides are fixed within, say"
                " `rectangular = false`)"
            ) from None
        return np.asarray(output, np.float32)

    def place(self, width: int, height: int) -> Placement:
        """Decide where a picture goes in the input.

        Args:
            width: Of the picture as it came, pixels.
            height: Likewise.

        Returns:
            The place; its `side` is how large the picture has to be decoded.
        """
        return place(
            width,
            height,
            *self.description.input_size,
            how=self.description.preprocessing.letterbox,
            multiple_of=self._step,
        )

    def prepare(self, image: Image, placement: Placement) -> Prepared:
        """Make a picture the model's input.

        Args:
            image: Height × width × 3, blue, green, red; possibly shrunk while decoding.
            placement: From `place`, for the picture as it came.

        Returns:
            The input; good until the next `prepare`.
        """
        inner = fit(image, placement)
        size = placement.height, placement.width
        tensor = self._buffers.get(size)
        if tensor is None:
            tensor = self._buffers[size] = np.empty((1, 3, *size), self._type)
        top, left = placement.top, placement.left
        bottom, right = top + placement.inner_height, left + placement.inner_width
        padding = self._levels[:, self.description.preprocessing.padding]
        plain = self.description.preprocessing.plain
        planes = cv2.split(inner)
        for channel, plane in enumerate(reversed(planes) if self._rgb else planes):
            target = tensor[0, channel]
            # The buffer holds the picture before, which may have lain elsewhere.
            target[:top] = target[bottom:] = padding[channel]
            target[top:bottom, :left] = target[top:bottom, right:] = padding[channel]
            target[top:bottom, left:right] = plane if plain else self._levels[channel][plane]
        return Prepared(tensor, placement)

    def run(self, tensor: npt.NDArray[Any]) -> Floats:
        """Run the network alone.

        Args:
            tensor: n × 3 × height × width.

        Returns:
            The raw answers, one for each picture.
        """
        return self._answer(tensor)

    def read(
        self, answer: Floats, placement: Placement, least: Least, *, every: bool = False
    ) -> list[Box]:
        """Turn one picture's raw answer into boxes.

        Args:
            answer: Two-dimensional, from `run`.
            placement: Of the picture.
            least: Boxes with a lower score are dropped.
            every: Keep all that is left of suppressing class by class. Else one head is only one,
                a helmet or bare: what is to be acted on. (AP50 of either is 1.4 points lower that
                way.)

        Returns:
            Boxes in pixels of the original, highest score first, rounded to 1e-3.
        """
        boxes, scores, classes = _best(
            *self._reader.read(answer, placement, self._reader.floors(least)), by_class=every
        )
        boxes = placement.restore(boxes)
        # What lies in the padding alone is nowhere in the picture.
        inside = ((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])).nonzero()[0]
        boxes, scores, classes = boxes[inside], scores[inside], classes[inside]
        groups = classes if every else self._groups[classes]
        most = None if every else MAX_BOXES
        kept = suppress(boxes, scores, groups, self.description.max_overlap, most)
        return [
            Box(
                self._reader.names[class_],
                round(score, 3),
                (round(x1, 3), round(y1, 3), round(x2, 3), round(y2, 3)),
            )
            for (x1, y1, x2, y2), score, class_ in zip(
                boxes[kept].tolist(), scores[kept].tolist(), classes[kept].tolist(), strict=True
            )
        ]

    def see(
        self,
        image: Image,
        least: Least,
        *,
        every: bool = False,
        size: tuple[int, int] | None = None,
    ) -> list[Box]:
        """Find what a decoded picture shows.

        Args:
            image: Height × width × 3, blue, green, red.
            least: Boxes with a lower score are dropped.
            every: As in `read`.
            size: Width and height of the original, where it was shrunk while decoding.

        Returns:
            Boxes in pixels of the original, highest score first, rounded to 1e-3.
        """
        width, height = size or (image.shape[1], image.shape[0])
        placement = self.place(width, height)
        with self._lock:
            answer = self.run(self.prepare(image, placement).tensor)[0]
        return self.read(answer, placement, least, every=every)

    def look(self, data: bytes, least: Least, *, every: bool = False) -> list[Box]:
        """Find what a picture shows.

        Args:
            data: A JPEG.
            least: Boxes with a lower score are dropped.
            every: As in `read`.

        Returns:
            Boxes in pixels of the original, highest score first, rounded to 1e-3.

        Raises:
            Rejected: The picture cannot be decoded.
        """
        image, placement = self._decoded(data)
        with self._lock:
            answer = self.run(self.prepare(image, placement).tensor)[0]
        return self.read(answer, placement, least, every=every)

    def look_at_many(self, pictures: Sequence[bytes], least: Least) -> list[list[Box] | Rejected]:
        """Find what pictures show, those of one shape together where that pays.

        Args:
            pictures: JPEGs, of any cameras.
            least: Boxes with a lower score are dropped.

        Returns:
            For each picture what `look` returns, or the error it would raise.
        """
        results: list[list[Box] | Rejected] = [[] for _ in pictures]
        alike: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        decoded: dict[int, tuple[Image, Placement]] = {}
        for number, data in enumerate(pictures):
            try:
                decoded[number] = self._decoded(data)
            except Rejected as fault:
                results[number] = fault
                continue
            placement = decoded[number][1]
            same = alike[placement.height, placement.width]
            same.append(number)
            if len(same) == self._batch:
                self._look_together(same, decoded, results, least)
                same.clear()
        for same in alike.values():
            if same:
                self._look_together(same, decoded, results, least)
        return results

    def _look_together(
        self,
        numbers: list[int],
        decoded: dict[int, tuple[Image, Placement]],
        results: list[list[Box] | Rejected],
        least: Least,
    ) -> None:
        with self._lock:
            if len(numbers) == 1:
                answers = self.run(self.prepare(*decoded[numbers[0]]).tensor)
            else:
                # Each overwrites the one before: copies, then.
                tensors = [self.prepare(*decoded[each]).tensor.copy() for each in numbers]
                answers = self.run(np.concatenate(tensors))
        for number, answer in zip(numbers, answers, strict=True):
            results[number] = self.read(answer, decoded.pop(number)[1], least)

    def _decoded(self, data: bytes) -> tuple[Image, Placement]:
        header = read_jpeg_header(data)
        placement = self.place(header.width, header.height)
        return decode(data, header, placement.side), placement


def open_session(
    data: bytes, name: str, *, threads: int = 1, device: Device = "auto"
) -> onnxruntime.InferenceSession:
    """Open a model with ONNX Runtime.

    Args:
        data: The ONNX file.
        name: For the message.
        threads: For one picture.
        device: Where it runs.

    Returns:
        The session.

    Raises:
        Misconfigured: ONNX Runtime cannot run it, or not there.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Other processes need the core while this one waits for a frame.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    there = onnxruntime.get_available_providers()
    if device == "cuda" and "CUDAExecutionProvider" not in there:
        raise Misconfigured(
            f"{name} cannot run on CUDA: this onnxruntime has only {', '.join(there)};"
            " install onnxruntime-gpu in its place"
        )
    providers = ["CPUExecutionProvider"]
    if device != "cpu" and "CUDAExecutionProvider" in there:
        providers.insert(0, "CUDAExecutionProvider")
    try:
        session = onnxruntime.InferenceSession(data, options, providers=providers)
    except Exception as fault:  # noqa: BLE001 - onnxruntime's own errors share no root
        said = (str(fault).splitlines() or ["empty"])[0]
        raise Misconfigured(f"{name} is not an ONNX model we run: {said}") from None
    if session.get_providers()[0] != providers[0]:
        if device == "cuda":
            raise Misconfigured(f"{name} cannot run on CUDA: its driver or libraries are missing")
        log.warning("CUDA cannot be used, its driver or libraries are missing: using the CPU")
    return session


def _best(
    boxes: Floats, scores: Floats, classes: npt.NDArray[np.int64], *, by_class: bool
) -> Candidates:
    if len(scores) <= MAX_CANDIDATES:
        return boxes, scores, classes
    order = np.argsort(-scores, kind="stable")
    if by_class:
        # The faint boxes of one class must not crowd out those of another.
        ranked = classes[order]
        each = [order[ranked == class_][:MAX_CANDIDATES] for class_ in np.unique(ranked)]
        order = np.concatenate(each)
    else:
        order = order[:MAX_CANDIDATES]
    best = np.sort(order)
    return boxes[best], scores[best], classes[best]
