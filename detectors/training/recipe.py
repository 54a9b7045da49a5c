"""Everything that decides how a training run comes out, in one frozen record."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

CLASSES = ("helmet", "head", "person", "vest", "no_vest")
HELMET, HEAD, PERSON, VEST, NO_VEST = range(5)


@dataclass(frozen=True)
class Recipe:
    """A recipe; the same recipe and data give the same run but for the order of float sums.

    Attributes:
        size: side of the square the model is made for, pixels.
        sizes: sides drawn from, batch by batch, until `plain_share` begins.
        images: how many images are looked at before training ends.
        batch: images a step.
        peak_rate: learning rate of AdamW between warm-up and cool-down.
        warmup_images: the rate rises linearly over these.
        cooldown_share: part of the run over which the rate falls by a cosine. A long level stretch
            before it lets a run be shortened or prolonged on resuming without harm.
        final_rate: what the cosine ends at, as a part of `peak_rate`.
        plain_share: last part of the run, without mosaic and mixup and at `size` only.
        weight_decay: of convolution weights.
        ema_decay: of the averaged weights, which are the ones exported.
        box_weight: of the box loss against the class loss.
        approximate_box_weight: further weight of boxes marked "~" in the manifest.
        mosaic: probability of four images in one.
        mixup: probability of a second image shining through.
        source_weights: how often an image of a source is drawn, against 1 for the others.
        bfloat16: whether the convolutions run in bfloat16 where the CPU has it.
        seed: of everything drawn.
    """

    size: int = 416
    sizes: tuple[int, ...] = (352, 384, 416, 448, 480)
    images: int = 140_000
    batch: int = 16
    peak_rate: float = 8e-4
    warmup_images: int = 4_000
    cooldown_share: float = 0.45
    final_rate: float = 0.03
    plain_share: float = 0.12
    weight_decay: float = 0.03
    ema_decay: float = 0.9995
    box_weight: float = 2.0
    approximate_box_weight: float = 0.2
    mosaic: float = 0.6
    mixup: float = 0.05
    source_weights: tuple[tuple[str, float], ...] = (
        ("rf100", 1.5),
        ("css", 1.3),
        ("vest", 1.3),
        ("negative", 1.5),
    )
    bfloat16: bool = True
    seed: int = 2026

    @property
    def steps(self) -> int:
        """Optimiser steps in the whole run."""
        return math.ceil(self.images / self.batch)

    def rate(self, step: int) -> float:
        """Learning rate at a step: linear rise, level, cosine fall."""
        seen = step * self.batch
        if seen < self.warmup_images:
            return self.peak_rate * (seen + self.batch) / self.warmup_images
        level_until = self.images * (1.0 - self.cooldown_share)
        if seen <= level_until:
            return self.peak_rate
        part = min(1.0, (seen - level_until) / (self.images - level_until))
        low = self.peak_rate * self.final_rate
        return low + (self.peak_rate - low) * 0.5 * (1.0 + math.cos(math.pi * part))

    def plain(self, step: int) -> bool:
        """Whether the step belongs to the last part, without mosaic."""
        return step * self.batch >= self.images * (1.0 - self.plain_share)

    def as_dict(self) -> dict[str, object]:
        """For checkpoints and the model's metadata."""
        return dataclasses.asdict(self)
