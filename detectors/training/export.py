"""From a checkpoint to the ONNX file the product loads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import Tensor, nn

from detectors.training.dataset import Pixels
from detectors.training.evaluate import Floats, Network
from detectors.training.network import STRIDES, ConvBlock, Detector
from detectors.training.recipe import CLASSES

INPUT, OUTPUT = "images", "predictions"
OPSET = 17


class _Exported(nn.Module):
    """The network with its scores through the sigmoid; boxes are decoded by whoever keeps few."""

    def __init__(self, model: Detector) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        raw = self.model(images)
        return torch.cat((raw[..., :4], raw[..., 4:].sigmoid()), -1)


def fold_batch_norms(model: nn.Module) -> None:
    """Multiplies every batch norm into the convolution before it, in place."""
    for block in model.modules():
        if isinstance(block, ConvBlock):
            block.conv = nn.utils.fuse_conv_bn_eval(block.conv.eval(), block.bn.eval())
            block.bn = nn.Identity()  # type: ignore[assignment]


def export(
    checkpoint: Path, target: Path, data_hash: str, attribution: str, shown: int | None = None
) -> None:
    """Writes the averaged weights of a checkpoint as ONNX, with what one must know to use them.

    Args:
        checkpoint: `last.pt` or `best.pt` of a run.
        target: the file to write.
        data_hash: of the manifests.
        attribution: whose work it is.
        shown: side of the input at work, pixels; the recipe's own where None.
    """
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    model = Detector(len(CLASSES))
    model.load_state_dict(state["averaged"])
    fold_batch_norms(model.eval())
    recipe = state["recipe"]
    refined = recipe.get("refine_images")
    # Recipes older than `work_size` were made for the size they ended at.
    size = int(recipe.get("work_size", recipe["refine_size"]) if refined else recipe["size"])
    batch, height, width = "batch", "height", "width"
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".partial")
    torch.onnx.export(
        _Exported(model).eval(),
        (torch.zeros(1, 3, size, size),),
        str(partial),
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_axes={INPUT: {0: batch, 2: height, 3: width}, OUTPUT: {0: batch, 1: "cells"}},
        opset_version=OPSET,
        dynamo=False,
    )
    written = onnx.load(str(partial))
    # The exporter invents a name for a width that is fixed.
    written.graph.output[0].type.tensor_type.shape.dim[2].dim_value = 4 + len(CLASSES)
    metadata = {
        "name": "smartsite-ppe",
        "classes": json.dumps(CLASSES),
        "input_size": str(shown or size),
        "preprocessing": json.dumps(
            {
                "colour": "BGR",
                "range": [0, 255],
                "layout": "NCHW",
                "letterbox": "top-left",
                "padding": 114,
                "multiple_of": STRIDES[-1],
            }
        ),
        "output": json.dumps(
            {
                "layout": "yolox",
                "objectness": False,
                "decoded": False,
                "strides": STRIDES,
                "columns": ["x", "y", "log_w", "log_h", *CLASSES],
                "centre": "(x + column) * stride, (y + row) * stride",
                "size": "exp(log_w) * stride, exp(log_h) * stride",
                "scores": "sigmoid applied; one independent score per class",
            }
        ),
        "data_sha256": data_hash,
        "recipe": json.dumps(state["recipe"]),
        "trained_images": str(int(state["step"]) * int(state["recipe"]["batch"])),
        "licence": "Apache-2.0",
        "attribution": attribution,
    }
    onnx.helper.set_model_props(written, metadata)
    onnx.checker.check_model(written)
    onnx.save(written, str(partial))
    partial.replace(target)


def onnx_network(path: Path, threads: int = 1) -> tuple[Network, int]:
    """A model file as `evaluate` wants it, and its input size."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    size = int(session.get_modelmeta().custom_metadata_map["input_size"])

    def network(square: Pixels) -> Floats:
        image = np.ascontiguousarray(square.transpose(2, 0, 1)[None], np.float32)
        return np.asarray(session.run([OUTPUT], {INPUT: image})[0][0], np.float32)

    return network, size
