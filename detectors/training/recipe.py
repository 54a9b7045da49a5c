"""Everything that decides how a training run comes out, in one frozen record."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

CLASSES = ("helmet", "head", "person", "vest", "no_vest")
HELMET, HEAD, PERSON, VEST, NO_VEST = range(5)


@dataclass(frozen=True)
class Part:
    """What a stretch of a run shows.

    Attributes:
        sizes: sides drawn from, batch by batch, pixels.
        plain: without mosaic and mixup, at the only size.
        hats: of the heads that get another look, the part that gets a drawn hat.
    """

    sizes: tuple[int, ...]
    plain: bool
    hats: float


@dataclass(frozen=True)
class Recipe:
    """A recipe; the same recipe and data give the same run but for the order of float sums.

    Attributes:
        size: side of the square at the end of the first stretch, pixels.
        sizes: sides drawn from, batch by batch, until `plain_share` begins.
        images: how many images the first stretch looks at.
        batch: images a step.
        peak_rate: learning rate of AdamW between warm-up and cool-down.
        warmup_images: the rate rises linearly over these.
        cooldown_share: part of the run over which the rate falls by a cosine. A long level stretch
            before it lets a run be shortened or prolonged on resuming without harm.
        final_rate: what the cosine ends at, as a part of `peak_rate`.
        plain_share: last part of the stretch, without mosaic and mixup and at `size` only.
        refine_images: how many the second, closing stretch looks at, larger and with drawn hats.
        refine_size: as `size`, in the second stretch.
        refine_sizes: as `sizes`, in the second stretch.
        work_size: of the input at work, where there is a second stretch: trained at one size, heads
            are found better at the next.
        refine_rate: learning rate there after a short warm-up; falls by a cosine from the start.
        refine_plain_share: as `plain_share`, in the second stretch.
        refine_hats: part of the heads chosen for another look that get a drawn hat there.
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
    images: int = 100_000
    batch: int = 16
    peak_rate: float = 8e-4
    warmup_images: int = 4_000
    cooldown_share: float = 0.45
    final_rate: float = 0.03
    plain_share: float = 0.12
    refine_images: int = 40_000
    refine_size: int = 512
    refine_sizes: tuple[int, ...] = (416, 448, 480, 512, 544)
    work_size: int = 544
    refine_rate: float = 3e-4
    refine_plain_share: float = 0.3
    refine_hats: float = 0.4
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
        return self._first_steps + math.ceil(self.refine_images / self.batch)

    @property
    def final_size(self) -> int:
        """Side of the square the model is made for, pixels."""
        return self.work_size if self.refine_images else self.size

    def rate(self, step: int) -> float:
        """Learning rate at a step: linear rise, level, cosine fall, and a second, smaller hill."""
        seen = step * self.batch
        low = self.peak_rate * self.final_rate
        if step >= self._first_steps and self.refine_images:
            seen -= self._first_steps * self.batch
            rise = min(1.0, (seen + self.batch) / (self.warmup_images / 4))
            return rise * _falling(self.refine_rate, low, seen / self.refine_images)
        if seen < self.warmup_images:
            return self.peak_rate * (seen + self.batch) / self.warmup_images
        level_until = self.images * (1.0 - self.cooldown_share)
        if seen <= level_until:
            return self.peak_rate
        return _falling(self.peak_rate, low, (seen - level_until) / (self.images - level_until))

    def part(self, step: int) -> Part:
        """What a step shows."""
        seen = step * self.batch
        if step < self._first_steps:
            plain = seen >= self.images * (1.0 - self.plain_share)
            return Part((self.size,) if plain else self.sizes, plain, 0.0)
        seen -= self._first_steps * self.batch
        plain = seen >= self.refine_images * (1.0 - self.refine_plain_share)
        sizes = (self.refine_size,) if plain else self.refine_sizes
        return Part(sizes, plain, self.refine_hats)

    @property
    def _first_steps(self) -> int:
        return math.ceil(self.images / self.batch)

    def as_dict(self) -> dict[str, object]:
        """For checkpoints and the model's metadata."""
        return dataclasses.asdict(self)


def _falling(high: float, low: float, part: float) -> float:
    return low + (high - low) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, part)))
