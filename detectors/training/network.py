"""YOLOX-nano with one score per class instead of objectness times class.

The layers and the names of their weights are those of YOLOX (Ge et al. 2021, Megvii, Apache-2.0;
depth 0.33, width 0.25, depthwise), so that its COCO weights load as they are. Only the end
differs: YOLOX multiplies an objectness, trained against everything that was not labelled, with a
class probability. Our sources label different classes, and where persons are not labelled nobody
can say that there is no object. So the two logits are added to one logit per class, and each
(location, class) is trained or masked for itself.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

STRIDES = (8, 16, 32)
COCO_PERSON = 0
# The prior of a class nobody has seen yet, on top of COCO's objectness.
NEW_CLASS_BIAS = -1.5


class ConvBlock(nn.Module):
    """Convolution, batch norm, SiLU."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False
        )
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.03)

    def forward(self, x: Tensor) -> Tensor:
        """Maps [N, inputs, H, W] to [N, outputs, H/stride, W/stride]."""
        return functional.silu(self.bn(self.conv(x)), inplace=True)


class DepthwiseBlock(nn.Module):
    """Depthwise, then pointwise convolution."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.dconv = ConvBlock(inputs, inputs, kernel, stride, groups=inputs)
        self.pconv = ConvBlock(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Maps [N, inputs, H, W] to [N, outputs, H/stride, W/stride]."""
        return self.pconv(self.dconv(x))


class Bottleneck(nn.Module):
    """Pointwise and depthwise block, with a shortcut around them."""

    def __init__(self, channels: int, *, shortcut: bool) -> None:
        super().__init__()
        self.conv1 = ConvBlock(channels, channels, 1)
        self.conv2 = DepthwiseBlock(channels, channels, 3)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Keeps the shape."""
        y = self.conv2(self.conv1(x))
        return y + x if self.shortcut else y


class CspLayer(nn.Module):
    """Cross stage partial layer with `depth` bottlenecks in one of its two arms."""

    def __init__(self, inputs: int, outputs: int, depth: int, *, shortcut: bool = True) -> None:
        super().__init__()
        hidden = outputs // 2
        self.conv1 = ConvBlock(inputs, hidden, 1)
        self.conv2 = ConvBlock(inputs, hidden, 1)
        self.conv3 = ConvBlock(2 * hidden, outputs, 1)
        self.m = nn.Sequential(*(Bottleneck(hidden, shortcut=shortcut) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        """Maps [N, inputs, H, W] to [N, outputs, H, W]."""
        return self.conv3(torch.cat((self.m(self.conv1(x)), self.conv2(x)), 1))


class SpatialPyramid(nn.Module):
    """Max pooling over 5, 9 and 13 cells beside the features themselves."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = channels // 2
        self.conv1 = ConvBlock(channels, hidden, 1)
        self.conv2 = ConvBlock(4 * hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Keeps the shape."""
        x = self.conv1(x)
        pooled = [functional.max_pool2d(x, size, 1, size // 2) for size in (5, 9, 13)]
        return self.conv2(torch.cat((x, *pooled), 1))


class Focus(nn.Module):
    """Folds 2 by 2 pixels into channels, then convolves."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.conv = ConvBlock(12, outputs, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Maps [N, 3, H, W] to [N, outputs, H/2, W/2]."""
        return self.conv(
            torch.cat(
                (x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]), 1
            )
        )


class Backbone(nn.Module):
    """CSPDarknet of width 0.25 and depth 0.33."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Focus(16)
        self.dark2 = nn.Sequential(DepthwiseBlock(16, 32, 3, 2), CspLayer(32, 32, 1))
        self.dark3 = nn.Sequential(DepthwiseBlock(32, 64, 3, 2), CspLayer(64, 64, 3))
        self.dark4 = nn.Sequential(DepthwiseBlock(64, 128, 3, 2), CspLayer(128, 128, 3))
        self.dark5 = nn.Sequential(
            DepthwiseBlock(128, 256, 3, 2),
            SpatialPyramid(256),
            CspLayer(256, 256, 1, shortcut=False),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features at strides 8, 16 and 32 with 64, 128 and 256 channels."""
        third = self.dark3(self.dark2(self.stem(x)))
        fourth = self.dark4(third)
        return third, fourth, self.dark5(fourth)


class Neck(nn.Module):
    """Path aggregation over the backbone's three levels (YOLOX calls it PAFPN)."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.lateral_conv0 = ConvBlock(256, 128, 1)
        self.C3_p4 = CspLayer(256, 128, 1, shortcut=False)
        self.reduce_conv1 = ConvBlock(128, 64, 1)
        self.C3_p3 = CspLayer(128, 64, 1, shortcut=False)
        self.bu_conv2 = DepthwiseBlock(64, 64, 3, 2)
        self.C3_n3 = CspLayer(128, 128, 1, shortcut=False)
        self.bu_conv1 = DepthwiseBlock(128, 128, 3, 2)
        self.C3_n4 = CspLayer(256, 256, 1, shortcut=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features at strides 8, 16 and 32 with 64, 128 and 256 channels."""
        third, fourth, fifth = self.backbone(x)
        top = self.lateral_conv0(fifth)
        middle = self.C3_p4(torch.cat((_doubled(top), fourth), 1))
        reduced = self.reduce_conv1(middle)
        small = self.C3_p3(torch.cat((_doubled(reduced), third), 1))
        medium = self.C3_n3(torch.cat((self.bu_conv2(small), reduced), 1))
        large = self.C3_n4(torch.cat((self.bu_conv1(medium), top), 1))
        return small, medium, large


class Head(nn.Module):
    """Decoupled head: boxes and objectness from one arm, classes from the other."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        widths = (64, 128, 256)
        self.stems = nn.ModuleList(ConvBlock(width, 64, 1) for width in widths)
        self.cls_convs = nn.ModuleList(_two_blocks() for _ in widths)
        self.reg_convs = nn.ModuleList(_two_blocks() for _ in widths)
        self.cls_preds = nn.ModuleList(nn.Conv2d(64, classes, 1) for _ in widths)
        self.reg_preds = nn.ModuleList(nn.Conv2d(64, 4, 1) for _ in widths)
        self.obj_preds = nn.ModuleList(nn.Conv2d(64, 1, 1) for _ in widths)

    def forward(self, levels: tuple[Tensor, ...]) -> Tensor:
        """Raw predictions [N, A, 4 + classes]: box offsets, then one logit per class."""
        found = []
        for level, x in enumerate(levels):
            x = self.stems[level](x)
            regressed = self.reg_convs[level](x)
            logits = self.cls_preds[level](self.cls_convs[level](x))
            logits = logits + self.obj_preds[level](regressed)
            found.append(torch.cat((self.reg_preds[level](regressed), logits), 1).flatten(2))
        return torch.cat(found, 2).transpose(1, 2)


class Detector(nn.Module):
    """The whole network."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.backbone = Neck()
        self.head = Head(classes)

    def forward(self, images: Tensor) -> Tensor:
        """Raw predictions.

        Args:
            images: [N, 3, H, W], BGR, 0 to 255; H and W multiples of 32.

        Returns:
            [N, A, 4 + classes] over the cells of strides 8, 16 and 32, row by row:
            (x offset, y offset) in cells, (log width, log height) in cells, logits.
        """
        return self.head(self.backbone(images))


def grid(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Upper left corners [A, 2] of all cells, in cells, and their strides [A, 1], in pixels."""
    corners, strides = [], []
    for stride in STRIDES:
        rows, columns = torch.meshgrid(
            torch.arange(height // stride), torch.arange(width // stride), indexing="ij"
        )
        corners.append(torch.stack((columns, rows), 2).reshape(-1, 2).float())
        strides.append(torch.full((corners[-1].shape[0], 1), float(stride)))
    return torch.cat(corners), torch.cat(strides)


def decode(offsets: Tensor, corners: Tensor, strides: Tensor) -> Tensor:
    """Boxes [..., 4] as x1, y1, x2, y2 in input pixels from raw offsets [..., 4]."""
    centres = (offsets[..., :2] + corners) * strides
    halves = offsets[..., 2:].clamp(max=6.0).exp() * strides / 2
    return torch.cat((centres - halves, centres + halves), -1)


def load_coco(model: Detector, weights: Mapping[str, Tensor], person: int | None) -> list[str]:
    """Loads YOLOX-nano's COCO weights; only the class rows start afresh.

    Args:
        model: the network to fill.
        weights: state dict of YOLOX-nano.
        person: our index of the class that COCO knows as well, if we have it.

    Returns:
        Names in the weights that found no place (none, for the file meant here).
    """
    fitting = {name: value for name, value in weights.items() if ".cls_preds." not in name}
    result = model.load_state_dict(fitting, strict=False)
    missing = [name for name in result.missing_keys if ".cls_preds." not in name]
    if missing:
        raise ValueError(f"the start weights lack {len(missing)} tensors, first {missing[0]}")
    for level, layer in enumerate(model.head.cls_preds):
        assert isinstance(layer, nn.Conv2d) and layer.bias is not None  # noqa: S101, PT018
        nn.init.normal_(layer.weight, std=0.01)
        nn.init.constant_(layer.bias, NEW_CLASS_BIAS)
        if person is not None:
            old = f"head.cls_preds.{level}"
            with torch.no_grad():
                layer.weight[person] = weights[f"{old}.weight"][COCO_PERSON]
                layer.bias[person] = weights[f"{old}.bias"][COCO_PERSON]
    return list(result.unexpected_keys)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Decays the convolutions' weights, never biases and batch norms."""
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for parameter in model.parameters():
        (decayed if parameter.ndim > 1 else kept).append(parameter)
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]


def _doubled(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2.0, mode="nearest")


def _two_blocks() -> nn.Sequential:
    return nn.Sequential(DepthwiseBlock(64, 64, 3), DepthwiseBlock(64, 64, 3))
