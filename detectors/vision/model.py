"""The ONNX detector: loaded, checked and warmed once, then run on square after square."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from detectors.vision.boxes import decode_cells, suppress
from detectors.vision.errors import Misconfigured
from detectors.vision.picture import decode, letterbox
from device_profiles.jpeg import read_jpeg_header
from device_profiles.readings import Box

SHIPPED = Path(__file__).parent / "weights" / "ppe.onnx"
MAX_OVERLAP = 0.6
MAX_BOXES = 300
ONE_OF = frozenset({"helmet", "head"})
"""Classes of which one head is only one: their boxes suppress each other."""


class Model:
    """A detector in ONNX: one picture in, a row for each cell of three grids out.

    Attributes:
        sha256: Hash of the file, hexadecimal.
        classes: Names by number.
        side: Of its square input, pixels.
    """

    def __init__(self, path: Path | None = None, *, threads: int = 1) -> None:
        """Load, check and warm a model.

        Args:
            path: The ONNX file; None takes the one shipped.
            threads: For one picture.

        Raises:
            Misconfigured: The file is missing, or not a detector we can run.
        """
        path = path or SHIPPED
        try:
            data = path.read_bytes()
        except OSError as fault:
            raise Misconfigured(f"the model {path} cannot be read: {fault.strerror}") from None
        self.sha256 = hashlib.sha256(data).hexdigest()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(
                data, options, providers=["CPUExecutionProvider"]
            )
        except Exception as fault:  # noqa: BLE001 - onnxruntime's own errors share no root
            said = str(fault).splitlines()[0]
            raise Misconfigured(f"the model {path} is not an ONNX model we run: {said}") from None
        (given, *others), outputs = self._session.get_inputs(), self._session.get_outputs()
        self._input = given.name
        metadata = self._session.get_modelmeta().custom_metadata_map
        try:
            self.classes: tuple[str, ...] = tuple(json.loads(metadata["classes"]))
            self.side = int(json.loads(metadata["input_size"]))
        except (KeyError, ValueError, TypeError):
            raise Misconfigured(
                f"the model {path} does not say its `classes` and `input_size` in its metadata"
            ) from None
        first = {name: number for number, name in enumerate(self.classes) if name in ONE_OF}
        self._groups = np.array(
            [min(first.values()) if name in first else n for n, name in enumerate(self.classes)],
            np.int64,
        )
        if others or len(outputs) != 1 or len(given.shape) != 4 or self.side % 32:
            raise Misconfigured(
                f"the model {path} takes {given.shape}, not one square of a multiple of 32 pixels"
            )
        warmed = self._run(np.zeros((1, 3, self.side, self.side), np.float32))
        cells = sum((self.side // stride) ** 2 for stride in (8, 16, 32))
        if warmed.shape != (cells, 4 + len(self.classes)):
            raise Misconfigured(
                f"the model {path} answers {warmed.shape}, not {(cells, 4 + len(self.classes))}"
            )

    def _run(self, tensor: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        output: Any = self._session.run(None, {self._input: tensor})[0]
        return np.asarray(output[0], np.float32)

    def look(self, data: bytes, min_score: float) -> list[Box]:
        """Find what a picture shows.

        Args:
            data: A JPEG.
            min_score: Boxes below are dropped.

        Returns:
            Boxes in pixels of the original, highest score first, rounded to 1e-3.

        Raises:
            Rejected: The picture cannot be decoded.
        """
        header = read_jpeg_header(data)
        image = decode(data, header, self.side)
        square = letterbox(image, self.side, header.width, header.height)
        boxes, scores, classes = decode_cells(self._run(square.tensor), self.side, min_score)
        kept = suppress(boxes, scores, self._groups[classes], MAX_OVERLAP)[:MAX_BOXES]
        limit = np.array([header.width, header.height] * 2, np.float32)
        placed = np.clip(boxes[kept] / square.scale, 0, limit)
        return [
            Box(
                self.classes[int(class_)],
                round(float(score), 3),
                (
                    round(float(box[0]), 3),
                    round(float(box[1]), 3),
                    round(float(box[2]), 3),
                    round(float(box[3]), 3),
                ),
            )
            for box, score, class_ in zip(placed, scores[kept], classes[kept], strict=True)
        ]
