"""The second look: helmet or not, asked of the crop of a head, in ONNX.

The detector tells helmets from heads at some twenty pixels and takes caps for helmets; this small
network knows cloth from ImageNet, and was trained on heads alone, some of them in caps, knit hats
and hoods, real and drawn (`detectors/training/second_look.py`). It only ever takes a helmet away: a
bare head stays one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from detectors.vision.crops import SIDE, WIDER, Image
from detectors.vision.errors import Misconfigured
from detectors.vision.model import open_session

SHIPPED = Path(__file__).parent / "weights" / "second_look.onnx"

BELIEVED_FROM = 0.5
"""The rules take what was heard of a head together by its logits, and 0 of these decides."""


class SecondLook:
    """A classifier of heads in ONNX.

    Attributes:
        sha256: Hash of the file, hexadecimal.
        least: Probability from which on a head counts as one in a helmet.
    """

    def __init__(self, path: Path = SHIPPED, *, threads: int = 1) -> None:
        """Load and warm it.

        Args:
            path: The ONNX file.
            threads: For one batch.

        Raises:
            Misconfigured: The file is missing, or not one of ours.
        """
        name = f"the second look {path}"
        try:
            data = path.read_bytes()
        except OSError as fault:
            raise Misconfigured(f"{name} cannot be read: {fault.strerror}") from None
        self.sha256 = hashlib.sha256(data).hexdigest()
        # A millisecond a head, and few heads at once: a GPU is left to the detector.
        self._session = open_session(data, name, threads=threads, device="cpu")
        said = self._session.get_modelmeta().custom_metadata_map
        try:
            taken = json.loads(said["input"])
            self.least = float(json.loads(said["least"]))
            fits = (taken["side"], taken["wider"]) == (SIDE, WIDER)
        except (KeyError, TypeError, ValueError):
            raise Misconfigured(f"{name} does not say what it takes") from None
        if not fits:
            raise Misconfigured(
                f"{name} takes crops of {taken['side']} pixels,"
                f" {taken['wider']} times a head; ours are {SIDE} and {WIDER}"
            )
        if self.least != BELIEVED_FROM:
            raise Misconfigured(
                f"{name} believes from {self.least} on, the rules count from {BELIEVED_FROM}"
            )
        self([np.zeros((SIDE, SIDE, 3), np.uint8)])

    def __call__(self, crops: Sequence[Image]) -> list[float]:
        """Look at heads.

        Args:
            crops: From `detectors.vision.crops.head_crop`, SIDE × SIDE × 3 each.

        Returns:
            For each the probability that it wears a helmet, 0 to 1.
        """
        return [self._share(crop) for crop in crops]

    def _share(self, crop: Image) -> float:
        # One by one: on a CPU each of four together costs a tenth more, of sixteen almost half.
        image = np.ascontiguousarray(crop.transpose(2, 0, 1)[None], dtype=np.float32)
        return float(self._session.run(None, {"crops": image})[0][0])
