"""The second look: a small classifier on the crop of a head, helmet or not.

The detector sees a head at some twenty pixels, with everything else to think of; this one sees
the head alone. It is trained on the boxes of people, and on hats that are drawn onto bare heads:
the collections show next to no caps and knit hats, and every model learns from them that whatever
is worn on a head in a bright colour is a helmet.
"""

from __future__ import annotations

import copy
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import torch
from torch import Tensor, nn
from torch.nn import functional

from detectors.training.augment import cap_mask, headgear_colour, knit, recoloured, weathered
from detectors.training.dataset import Picture, Pixels, read_picture
from detectors.training.export import OPSET, fold_batch_norms
from detectors.training.network import Backbone
from detectors.training.recipe import HEAD, HELMET
from detectors.vision.crops import SIDE, WIDER, head_crop

Floats = npt.NDArray[np.float32]

# Kept wider and finer than the network sees them, so that shifting and turning has something to
# show at the edges.
KEPT_SIDE = 80
KEPT_WIDER = 2.0
SMALLEST_HEAD = 10.0
"""Of heads with a longer side below this nobody can say what they wear, pixels."""

LEAST = 0.5
"""Probability from which on a head counts as one in a helmet."""


@dataclass(frozen=True)
class SecondLookRecipe:
    """What decides how the second look comes out.

    Attributes:
        crops: how many are looked at before training ends.
        batch: crops a step.
        peak_rate: learning rate of AdamW after warm-up; falls by a cosine to nothing.
        weight_decay: of convolution weights.
        dressed_heads: part of the bare heads that get a hat drawn on.
        dressed_helmets: part of the helmets that get another colour.
        smoothing: of the labels.
        average: how much of the averaged weights is kept a step.
        seed: of everything drawn.
    """

    crops: int = 200_000
    batch: int = 128
    peak_rate: float = 2e-3
    weight_decay: float = 0.03
    dressed_heads: float = 0.5
    dressed_helmets: float = 0.4
    smoothing: float = 0.02
    average: float = 0.99
    seed: int = 2026


@dataclass
class Crops:
    """Heads cut out, `KEPT_SIDE` pixels wide.

    Attributes:
        pixels: [n, side, side, 3], BGR.
        boxes: of the heads in them: x1, y1, x2, y2, [n, 4].
        helmets: whether each wears a helmet, [n].
        sizes: longer side of each in its picture, pixels, [n].
        sources: the collection of each.
    """

    pixels: Pixels
    boxes: Floats
    helmets: npt.NDArray[np.bool_]
    sizes: Floats
    sources: list[str]


class SecondLook(nn.Module):
    """YOLOX-nano's first four stages, pooled to one logit."""

    def __init__(self) -> None:
        super().__init__()
        whole = Backbone()
        self.stem, self.dark2 = whole.stem, whole.dark2
        self.dark3, self.dark4 = whole.dark3, whole.dark4
        self.last = nn.Linear(256, 1)

    def forward(self, crops: Tensor) -> Tensor:
        """Logits [N] of crops [N, 3, 48, 48], BGR, 0 to 255."""
        x = self.dark4(self.dark3(self.dark2(self.stem(crops))))
        pooled = torch.cat((x.mean((2, 3)), x.amax((2, 3))), 1)
        return self.last(functional.dropout(pooled, 0.2, self.training))[:, 0]

    def load_coco(self, weights: dict[str, Tensor]) -> None:
        """Takes over the stages of YOLOX-nano's COCO weights."""
        own = self.state_dict()
        taken = {name: weights[f"backbone.backbone.{name}"] for name in own if name[:5] != "last."}
        self.load_state_dict(taken, strict=False)


def gather(pictures: Sequence[Picture], split: str) -> Crops:
    """Cuts all helmets and bare heads out of the pictures of a split."""
    pixels, boxes, helmets, sizes, sources = [], [], [], [], []
    for picture in pictures:
        wanted = np.isin(picture.classes, (HELMET, HEAD))
        if picture.split != split or not wanted.any() or not picture.exact[HEAD]:
            continue
        image = read_picture(picture.path)
        height, width = image.shape[:2]
        scaled = picture.boxes[wanted] * np.array([width, height] * 2, np.float32)
        for box, category in zip(scaled, picture.classes[wanted], strict=True):
            x1, y1, x2, y2 = (float(side) for side in box)
            longer = max(x2 - x1, y2 - y1)
            if longer < SMALLEST_HEAD:
                continue
            pixels.append(head_crop(image, (x1, y1, x2, y2), KEPT_WIDER, KEPT_SIDE))
            scale = KEPT_SIDE / (KEPT_WIDER * longer)
            half = np.array([x2 - x1, y2 - y1]) * scale / 2
            boxes.append((*(KEPT_SIDE / 2 - half), *(KEPT_SIDE / 2 + half)))
            helmets.append(category == HELMET)
            sizes.append(longer)
            sources.append(picture.source)
    return Crops(
        np.stack(pixels),
        np.array(boxes, np.float32),
        np.array(helmets),
        np.array(sizes, np.float32),
        sources,
    )


# ------------------------------------------------------------------------------- hats


def with_cap(random: np.random.Generator, crop: Pixels, box: Floats) -> None:
    """Draws a cap: a smooth or seamed dome to the brow, with a visor to a side or the front."""
    dome = _Dome(random, box, tall=(0.36, 0.52), wide=(0.42, 0.54))
    _paint(random, crop, dome.mask(crop.shape[0]), _cloth(random, crop, dome))
    if random.random() < 0.85:
        way = random.choice((-1, 0, 0, 1))
        reach = dome.half * random.uniform(0.5, 1.0)
        centre = (
            dome.x + way * (dome.half * 0.75 + reach * 0.4),
            dome.brow - dome.half * random.uniform(-0.02, 0.12),
        )
        across = reach * random.uniform(0.7, 1.0) if way else dome.half * random.uniform(0.75, 1.0)
        axes = (across, dome.half * random.uniform(0.12, 0.3))
        visor = _ellipse(crop.shape[0], centre, axes, way * random.uniform(0, 18))
        shade = random.uniform(0.5, 1.05)
        colour = dome.colour if random.random() < 0.65 else headgear_colour(random)
        _paint(random, crop, visor, np.broadcast_to(colour * shade, crop.shape))


def with_flat_cap(random: np.random.Generator, crop: Pixels, box: Floats) -> None:
    """Draws a flat cap or beret: low, wider than the head, woven."""
    dome = _Dome(random, box, tall=(0.24, 0.36), wide=(0.5, 0.64))
    slope = random.uniform(-14, 14)
    centre = (dome.x, (dome.top + dome.brow) / 2)
    mask = _ellipse(crop.shape[0], centre, (dome.half, (dome.brow - dome.top) / 2 + 1), slope)
    _paint(random, crop, mask, _cloth(random, crop, dome))


def with_knit_hat(random: np.random.Generator, crop: Pixels, box: Floats) -> None:
    """Draws a knit hat: ribbed, over brow and ears, perhaps turned up, perhaps with a bobble."""
    dome = _Dome(random, box, tall=(0.42, 0.58), wide=(0.46, 0.58))
    cloth = knit(random, crop)
    _paint(random, crop, dome.mask(crop.shape[0]), cloth)
    if random.random() < 0.5:  # turned up
        deep = (dome.brow - dome.top) * random.uniform(0.2, 0.4)
        band = dome.mask(crop.shape[0])
        band[: max(0, int(dome.brow - deep))] = 0
        _paint(random, crop, band, np.clip(cloth * random.uniform(0.6, 1.2), 0, 255))
    if random.random() < 0.25:
        size = dome.half * random.uniform(0.2, 0.35)
        bobble = _ellipse(crop.shape[0], (dome.x, dome.top), (size, size), 0)
        _paint(random, crop, bobble, knit(random, crop))


def with_hood(random: np.random.Generator, crop: Pixels, box: Floats) -> None:
    """Draws a hood or scarf: cloth all around, the face left open."""
    height, width = box[3] - box[1], box[2] - box[0]
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    outer = _ellipse(
        crop.shape[0],
        (x, y),
        (width * random.uniform(0.55, 0.68), height * random.uniform(0.55, 0.66)),
        0,
    )
    face = _ellipse(
        crop.shape[0],
        (x + width * random.uniform(-0.15, 0.15), y + height * random.uniform(0.08, 0.2)),
        (width * random.uniform(0.28, 0.38), height * random.uniform(0.3, 0.42)),
        0,
    )
    dome = _Dome(random, box, tall=(0.4, 0.5), wide=(0.5, 0.6))
    _paint(random, crop, outer * (1 - face), _cloth(random, crop, dome))


def in_another_colour(random: np.random.Generator, crop: Pixels, box: Floats) -> None:
    """Gives what is on the head, hair or helmet, another colour."""
    x1, y1, x2, y2 = (round(float(side)) for side in box)
    upper = crop[max(0, y1) : y1 + max(4, round((y2 - y1) * 0.62)), max(0, x1) : x2]
    if min(upper.shape[:2]) < 4:
        return
    alpha = cap_mask(upper.shape[0], upper.shape[1])
    upper[:] = (upper + (recoloured(random, upper) - upper) * alpha).clip(0, 255).astype(np.uint8)


HATS: dict[str, Callable[[np.random.Generator, Pixels, Floats], None]] = {
    "cap": with_cap,
    "flat_cap": with_flat_cap,
    "knit_hat": with_knit_hat,
    "hood": with_hood,
    "coloured_hair": in_another_colour,
}


class _Dome:
    """Where a hat's dome lies on a head, and its colour."""

    def __init__(
        self,
        random: np.random.Generator,
        box: Floats,
        tall: tuple[float, float],
        wide: tuple[float, float],
    ) -> None:
        width, height = float(box[2] - box[0]), float(box[3] - box[1])
        self.x = float(box[0] + box[2]) / 2 + width * random.uniform(-0.05, 0.05)
        self.half = width * random.uniform(*wide)
        self.top = float(box[1]) - height * random.uniform(-0.03, 0.1)
        self.brow = float(box[1]) + height * random.uniform(*tall)
        self.slope = random.uniform(-8, 8)
        self.colour = headgear_colour(random)

    def mask(self, side: int) -> Floats:
        """Upper half of an ellipse, soft at its edge, [side, side]."""
        whole = _ellipse(side, (self.x, self.brow), (self.half, self.brow - self.top), self.slope)
        y = np.arange(side, dtype=np.float32)[:, None]
        return np.asarray(whole * np.clip(self.brow + 1 - y, 0, 1), np.float32)


def _ellipse(
    side: int, centre: tuple[float, float], axes: tuple[float, float], slope: float
) -> Floats:
    drawn = np.zeros((side, side), np.uint8)
    fine = 4  # bits of a pixel's fraction
    cv2.ellipse(
        drawn,
        (round(centre[0] * 2**fine), round(centre[1] * 2**fine)),
        (max(1, round(axes[0] * 2**fine)), max(1, round(axes[1] * 2**fine))),
        slope,
        0,
        360,
        255,
        -1,
        cv2.LINE_AA,
        fine,
    )
    return np.asarray(drawn, np.float32) / 255


def _cloth(random: np.random.Generator, crop: Pixels, dome: _Dome) -> Floats:
    """Cloth in the light of what it covers, with folds, seams or a weave: never a shell's gloss."""
    side = crop.shape[0]
    grey = np.asarray(cv2.cvtColor(crop, cv2.COLOR_BGR2GRAY), np.float32)
    light = np.asarray(cv2.GaussianBlur(grey, (0, 0), dome.half * 0.6), np.float32)
    light = 0.55 + 0.45 * light / max(20.0, float(light.mean()))
    x = np.arange(side, dtype=np.float32)[None] - dome.x
    light = light * (1 + random.uniform(-0.35, 0.35) * x / dome.half)
    folds = random.normal(0, 1, (8, 8)).astype(np.float32)
    light = light * (1 + random.uniform(0, 0.16) * cv2.resize(folds, (side, side)))
    light = light + random.normal(0, random.uniform(0.01, 0.07), (side, side))
    if random.random() < 0.3:  # panels
        for offset in random.uniform(-0.7, 0.7, 3):
            light[:, max(0, min(side - 1, round(dome.x + offset * dome.half)))] *= 0.75
    if random.random() < 0.15:  # checks
        period = random.uniform(3, 8)
        y = np.arange(side, dtype=np.float32)[:, None]
        light = light * (1 + 0.2 * np.sin(x * 6.28 / period) * np.sin(y * 6.28 / period))
    cloth = dome.colour * light[:, :, None]
    if random.random() < 0.25:  # a sign on the front
        centre = (dome.x, dome.brow - (dome.brow - dome.top) * 0.45)
        sign = _ellipse(side, centre, (dome.half * 0.25, dome.half * 0.18), 0)[:, :, None]
        cloth = cloth * (1 - sign) + headgear_colour(random) * sign
    return np.asarray(cloth, np.float32)


def _paint(random: np.random.Generator, crop: Pixels, mask: Floats, colour: Floats) -> None:
    soft = np.asarray(cv2.GaussianBlur(mask, (0, 0), random.uniform(0.4, 1.2)), np.float32)
    crop[:] = (crop + (colour - crop) * soft[:, :, None]).clip(0, 255).astype(np.uint8)


# --------------------------------------------------------------------------- training


def _shown(crop: Pixels) -> Pixels:
    """A kept crop as the network sees it when nothing is shifted."""
    inner = round(KEPT_SIDE * WIDER / KEPT_WIDER)
    edge = (KEPT_SIDE - inner) // 2
    cut = crop[edge : edge + inner, edge : edge + inner]
    return np.asarray(cv2.resize(cut, (SIDE, SIDE), interpolation=cv2.INTER_AREA), np.uint8)


def _drawn(
    random: np.random.Generator, crops: Crops, number: int, recipe: SecondLookRecipe
) -> Pixels:
    """A training sample: dressed, shifted, turned, weathered."""
    crop, box = crops.pixels[number].copy(), crops.boxes[number]
    if crops.helmets[number]:
        if random.random() < recipe.dressed_helmets:
            in_another_colour(random, crop, box)
    elif random.random() < recipe.dressed_heads:
        HATS[str(random.choice(list(HATS)))](random, crop, box)
    if random.random() < 0.25:
        # On both kinds alike, beside the head: that something is drawn must not tell anything.
        x, below = random.uniform(0.1, 0.9) * KEPT_SIDE, float(box[3]) + 4
        axes = (random.uniform(4, 20), random.uniform(3, 14))
        spot = _ellipse(KEPT_SIDE, (x, below + axes[1]), axes, random.uniform(0, 180))
        _paint(random, crop, spot, _cloth(random, crop, _Dome(random, box, (0.4, 0.5), (0.5, 0.6))))
    scale = SIDE / KEPT_SIDE * KEPT_WIDER / WIDER * np.exp(random.uniform(-0.22, 0.22))
    turn = cv2.getRotationMatrix2D((KEPT_SIDE / 2, KEPT_SIDE / 2), random.uniform(-12, 12), scale)
    turn[:, 2] += SIDE / 2 - KEPT_SIDE / 2 + random.uniform(-0.08, 0.08, 2) * SIDE
    turn[0] *= np.exp(random.uniform(-0.1, 0.1))
    crop = np.asarray(
        cv2.warpAffine(
            crop, turn, (SIDE, SIDE), borderMode=cv2.BORDER_CONSTANT, borderValue=(114,) * 3
        ),
        np.uint8,
    )
    if random.random() < 0.35:  # seen from far
        small = max(10, round(SIDE * random.uniform(0.2, 0.7)))
        far = cv2.resize(crop, (small, small), interpolation=cv2.INTER_AREA)
        crop = np.asarray(cv2.resize(far, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR), np.uint8)
    if random.random() < 0.5:
        crop = crop[:, ::-1]
    return weathered(random, np.ascontiguousarray(crop))


def _batches(crops: Crops, recipe: SecondLookRecipe) -> Iterator[tuple[Pixels, Floats]]:
    """Batches; half of every one wears helmets, and each collection counts by its root."""
    counts: defaultdict[tuple[str, bool], int] = defaultdict(int)
    keys = list(zip(crops.sources, crops.helmets.tolist(), strict=True))
    for key in keys:
        counts[key] += 1
    weights = np.array([counts[key] ** -0.5 for key in keys])
    for helmet in (False, True):
        weights[crops.helmets == helmet] /= weights[crops.helmets == helmet].sum()
    weights /= weights.sum()

    def batch(step: int) -> tuple[Pixels, Floats]:
        random = np.random.default_rng((recipe.seed, step))
        numbers = random.choice(len(keys), recipe.batch, p=weights)
        samples = np.stack([_drawn(random, crops, int(number), recipe) for number in numbers])
        return samples, crops.helmets[numbers].astype(np.float32)

    steps = recipe.crops // recipe.batch
    with ThreadPoolExecutor(2) as pool:
        ahead = [pool.submit(batch, step) for step in range(min(3, steps))]
        for step in range(steps):
            yield ahead.pop(0).result()
            if step + 3 < steps:
                ahead.append(pool.submit(batch, step + 3))


def train(
    recipe: SecondLookRecipe, pictures: Sequence[Picture], start: dict[str, Tensor]
) -> SecondLook:
    """Trains; says how it goes every ten seconds."""
    crops = gather(pictures, "train")
    print(json.dumps({"crops": len(crops.sizes), "helmets": int(crops.helmets.sum())}), flush=True)
    torch.manual_seed(recipe.seed)
    model = SecondLook()
    model.load_coco(start)
    model.to(memory_format=torch.channels_last).train()
    averaged = copy.deepcopy(model).eval()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.peak_rate, weight_decay=recipe.weight_decay
    )
    steps = recipe.crops // recipe.batch
    said = began = time.monotonic()
    losses: list[float] = []
    for step, (samples, wanted) in enumerate(_batches(crops, recipe)):
        rate = min(1.0, (step + 1) / 100) * 0.5 * (1 + np.cos(np.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = recipe.peak_rate * rate
        inputs = torch.from_numpy(samples).permute(0, 3, 1, 2)
        inputs = inputs.to(torch.float32, memory_format=torch.channels_last)
        targets = torch.from_numpy(wanted) * (1 - 2 * recipe.smoothing) + recipe.smoothing
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(inputs)
        loss = functional.binary_cross_entropy_with_logits(logits.float(), targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        keep = min(recipe.average, (step + 1) / (step + 10))
        now = model.state_dict()
        with torch.no_grad():
            for name, value in averaged.state_dict().items():
                if value.dtype.is_floating_point:
                    value.lerp_(now[name], 1 - keep)
                else:
                    value.copy_(now[name])
        losses.append(float(loss.detach()))
        if time.monotonic() - said > 10:
            said = time.monotonic()
            left = (said - began) / (step + 1) * (steps - step - 1)
            line = {
                "step": step + 1,
                "of": steps,
                "loss": round(float(np.mean(losses)), 4),
                "minutes_left": round(left / 60, 1),
            }
            print(json.dumps(line), flush=True)
            losses.clear()
    return averaged


def shares(model: SecondLook, crops: Pixels) -> Floats:
    """Probability of a helmet for crops [n, 48, 48, 3]."""
    found = []
    with torch.inference_mode():
        for start in range(0, len(crops), 256):
            part = torch.from_numpy(crops[start : start + 256]).permute(0, 3, 1, 2).float()
            found.append(model(part).sigmoid().numpy())
    return np.concatenate(found).astype(np.float32)


def check(
    look: Callable[[Pixels], Floats], crops: Crops, least: float = LEAST
) -> dict[str, dict[str, float]]:
    """How often it is right, by source, by size, and on hats drawn on the bare heads of `crops`.

    Args:
        look: from crops [n, 48, 48, 3] to the probability of a helmet.
        crops: what to look at, of a split it was not trained on.
        least: probability from which on a crop counts as a helmet.

    Returns:
        By group: how many, and the part that is called a helmet.
    """
    plain = look(np.stack([_shown(crop) for crop in crops.pixels]))
    report: dict[str, dict[str, float]] = {}

    def note(name: str, found: Floats) -> None:
        if len(found):
            called = round(float((found >= least).mean()), 4)
            report[name] = {"crops": len(found), "called_helmet": called}

    sources = np.array(crops.sources)
    for helmet, name in ((True, "helmets"), (False, "heads")):
        mine = crops.helmets == helmet
        note(name, plain[mine])
        for source in sorted(set(crops.sources)):
            note(f"{name} of {source}", plain[mine & (sources == source)])
        for low, high in ((10, 20), (20, 40), (40, 10_000)):
            within = (crops.sizes >= low) & (crops.sizes < high)
            note(f"{name} of {low} to {high} pixels", plain[mine & within])
    # Other draws than any in training, on heads that were in none.
    random = np.random.default_rng(7)
    bare = np.flatnonzero(~crops.helmets & (crops.sizes >= 16))
    for name, hat in HATS.items():
        dressed = []
        for number in bare:
            crop = crops.pixels[number].copy()
            hat(random, crop, crops.boxes[number])
            dressed.append(_shown(crop))
        note(f"heads with drawn {name}", look(np.stack(dressed)))
    recoloured_helmets = []
    for number in np.flatnonzero(crops.helmets):
        crop = crops.pixels[number].copy()
        in_another_colour(random, crop, crops.boxes[number])
        recoloured_helmets.append(_shown(crop))
    note("helmets in another colour", look(np.stack(recoloured_helmets)))
    return report


class _Exported(nn.Module):
    def __init__(self, model: SecondLook) -> None:
        super().__init__()
        self.model = model

    def forward(self, crops: Tensor) -> Tensor:
        return self.model(crops).sigmoid()


def export(model: SecondLook, target: Path, recipe: SecondLookRecipe, data_hash: str) -> None:
    """Writes the classifier as ONNX with its metadata."""
    fold_batch_norms(model.eval())
    torch.onnx.export(
        _Exported(model).eval(),
        (torch.zeros(1, 3, SIDE, SIDE),),
        str(target),
        input_names=["crops"],
        output_names=["helmet"],
        dynamic_axes={"crops": {0: "batch"}, "helmet": {0: "batch"}},
        opset_version=OPSET,
        dynamo=False,
    )
    written = onnx.load(str(target))
    onnx.helper.set_model_props(
        written,
        {
            "name": "smartsite-second-look",
            "input": json.dumps({"side": SIDE, "wider": WIDER, "colour": "BGR", "range": [0, 255]}),
            "least": json.dumps(LEAST),
            "data_sha256": data_hash,
            "recipe": json.dumps(asdict(recipe)),
            "licence": "Apache-2.0",
            "attribution": "Stages of YOLOX-nano (Megvii, Apache-2.0, COCO), fine-tuned. Pictures:"
            " see detectors/training/ATTRIBUTION.md and manifest.csv.",
        },
    )
    onnx.checker.check_model(written)
    onnx.save(written, str(target))


def onnx_look(path: Path) -> Callable[[Pixels], Floats]:
    """A second look from its file: crops [n, 48, 48, 3] to the probability of a helmet."""
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def look(crops: Pixels) -> Floats:
        images = np.ascontiguousarray(crops.transpose(0, 3, 1, 2), np.float32)
        return np.asarray(session.run(None, {"crops": images})[0], np.float32)

    return look
