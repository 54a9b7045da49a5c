"""The training loop: resumable to the step, one log line every few seconds."""

from __future__ import annotations

import copy
import json
import math
import signal
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import FrameType

import numpy as np
import torch
from torch import Tensor, nn

from detectors.training.augment import FINEST_STRIDE, Sample, Sampler
from detectors.training.dataset import Picture, PixelCache, Pixels
from detectors.training.evaluate import Floats, Network, evaluate
from detectors.training.loss import Targets, detection_loss
from detectors.training.network import STRIDES, Detector, grid, load_coco, parameter_groups
from detectors.training.recipe import CLASSES, PERSON, Recipe

CHECKPOINT_SECONDS = 180.0
LOG_SECONDS = 20.0
GRADIENT_LIMIT = 20.0


class AveragedWeights:
    """Exponential moving average of all weights and statistics."""

    def __init__(self, model: Detector, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(requires_grad=False)
        self._decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Takes in the weights after a step; the average is short while the run is young."""
        keep = self._decay * (1.0 - math.exp(-(step + 1) / 400.0))
        now = model.state_dict()
        for name, value in self.model.state_dict().items():
            if value.dtype.is_floating_point:
                value.lerp_(now[name].detach(), 1.0 - keep)
            else:
                value.copy_(now[name])


class Trainer:
    """One run in one folder.

    The folder holds `last.pt` (everything needed to go on), `best.pt` (averaged weights of the
    best check so far) and `log.jsonl`.
    """

    def __init__(
        self,
        recipe: Recipe,
        pictures: list[Picture],
        cache_folder: Path,
        run_folder: Path,
        start_weights: Path,
    ) -> None:
        self.recipe = recipe
        self.folder = run_folder
        run_folder.mkdir(parents=True, exist_ok=True)
        training = [picture for picture in pictures if picture.split == "train"]
        self._checked = [picture for picture in pictures if picture.split == "val"]
        self._sampler = Sampler(recipe, training, PixelCache(training, cache_folder))
        torch.manual_seed(recipe.seed)
        model = Detector(len(CLASSES))
        load_coco(model, read_weights(start_weights), PERSON)
        self.model = model.to(memory_format=torch.channels_last).train()
        self.averaged = AveragedWeights(self.model, recipe.ema_decay)
        self._optimizer = torch.optim.AdamW(
            parameter_groups(self.model, recipe.weight_decay), lr=recipe.peak_rate
        )
        self.step = 0
        self._best = 0.0
        self._stop = False
        if (run_folder / "last.pt").exists():
            self._resume(run_folder / "last.pt")

    def run(self, check_every_images: int) -> None:
        """Trains to the recipe's end; on SIGTERM or SIGINT saves and returns early."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask_to_stop)
        saved = logged = time.monotonic()
        sums: dict[str, float] = {}
        counted = 0
        checks = max(1, check_every_images // self.recipe.batch)
        with ThreadPoolExecutor(2) as pool:
            # Two batches in the making while the third is looked at.
            ahead: list[Future[list[Sample]]] = [
                pool.submit(self._sampler.batch, self.step + n) for n in range(2)
            ]
            while self.step < self.recipe.steps and not self._stop:
                samples = ahead.pop(0).result()
                ahead.append(pool.submit(self._sampler.batch, self.step + 2))
                for name, value in self._learn(samples).items():
                    sums[name] = sums.get(name, 0.0) + value
                counted += 1
                self.step += 1
                now = time.monotonic()
                if now - logged > LOG_SECONDS:
                    means = {name: round(value / counted, 4) for name, value in sums.items()}
                    speed = counted * self.recipe.batch / (now - logged)
                    self._report(means, speed)
                    sums, counted, logged = {}, 0, now
                if now - saved > CHECKPOINT_SECONDS:
                    self.save()
                    saved = now
                if self.step % checks == 0 and self.step < self.recipe.steps:
                    self._check()
                    logged, sums, counted = time.monotonic(), {}, 0
        self.save()
        if self.step >= self.recipe.steps:
            self._check()

    def save(self) -> None:
        """Writes `last.pt` in one move."""
        write_checkpoint(
            self.folder / "last.pt",
            {
                "recipe": self.recipe.as_dict(),
                "step": self.step,
                "best": self._best,
                "model": self.model.state_dict(),
                "averaged": self.averaged.model.state_dict(),
                "optimizer": self._optimizer.state_dict(),
            },
        )

    def _learn(self, samples: list[Sample]) -> dict[str, float]:
        images = np.stack([sample.pixels for sample in samples])
        size = images.shape[1]
        inputs = torch.from_numpy(images).permute(0, 3, 1, 2)
        inputs = inputs.to(torch.float32, memory_format=torch.channels_last)
        targets = [self._targets(sample) for sample in samples]
        with torch.autocast("cpu", torch.bfloat16, enabled=self.recipe.bfloat16):
            raw = self.model(inputs)
        loss, parts = detection_loss(
            raw.float(), targets, grid(size, size), box_weight=self.recipe.box_weight
        )
        rate = self.recipe.rate(self.step)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), GRADIENT_LIMIT)
        self._optimizer.step()
        self.averaged.update(self.model, self.step)
        parts["gradient"] = float(norm)
        return parts

    def _targets(self, sample: Sample) -> Targets:
        weights = np.where(sample.exact, 1.0, self.recipe.approximate_box_weight)
        known = [
            # The cell of this stride lies around the centre of one of the finest cells.
            sample.known[:, stride // 16 :: stride // 8, stride // 16 :: stride // 8]
            for stride in STRIDES
        ]
        flat = np.concatenate([level.reshape(len(CLASSES), -1) for level in known], 1)
        return Targets(
            classes=torch.from_numpy(sample.classes),
            boxes=torch.from_numpy(sample.boxes),
            box_weights=torch.from_numpy(weights.astype(np.float32)),
            known=torch.from_numpy(np.ascontiguousarray(flat.T)),
        )

    def _report(self, means: dict[str, float], speed: float) -> None:
        left = (self.recipe.steps - self.step) * self.recipe.batch / max(speed, 1e-6)
        self._log(
            {
                "step": self.step,
                "images": self.step * self.recipe.batch,
                "of": self.recipe.steps * self.recipe.batch,
                **means,
                "rate": round(self.recipe.rate(self.step), 7),
                "images_per_s": round(speed, 1),
                "minutes_left": round(left / 60, 1),
            }
        )

    def _check(self) -> None:
        """Scores the averaged weights on the val split and keeps them if they are the best."""
        report = evaluate(as_network(self.averaged.model), self._checked, self.recipe.final_size)
        self._log({"step": self.step, "check": report})
        ap50 = report["ap50"]["all"]
        assert isinstance(ap50, dict)  # noqa: S101
        mean = (ap50["helmet"] + ap50["head"]) / 2
        if mean > self._best:
            self._best = mean
            write_checkpoint(
                self.folder / "best.pt",
                {
                    "recipe": self.recipe.as_dict(),
                    "step": self.step,
                    "check": report,
                    "averaged": self.averaged.model.state_dict(),
                },
            )

    def _log(self, record: dict[str, object]) -> None:
        line = json.dumps({"at": time.strftime("%H:%M:%S"), **record})
        print(line, flush=True)
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(line + "\n")

    def _resume(self, path: Path) -> None:
        state = torch.load(path, map_location="cpu", weights_only=True)
        self.model.load_state_dict(state["model"])
        self.averaged.model.load_state_dict(state["averaged"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.step, self._best = state["step"], state["best"]
        self._log({"step": self.step, "resumed": True})

    def _ask_to_stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stop = True


def as_network(model: Detector) -> Network:
    """A torch model as `evaluate` wants it."""

    def network(square: Pixels) -> Floats:
        image = torch.from_numpy(square).permute(2, 0, 1)[None].float()
        with torch.inference_mode():
            raw = model(image.contiguous(memory_format=torch.channels_last))[0]
            raw[:, 4:] = raw[:, 4:].sigmoid()
        return np.asarray(raw.numpy(), np.float32)

    return network


def read_weights(path: Path) -> dict[str, Tensor]:
    """A state dict, alone or under the key "model"."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    return dict(state.get("model", state))


def write_checkpoint(path: Path, state: dict[str, object]) -> None:
    """Writes beside the file, then moves into place: a kill leaves the old or the new one."""
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


assert STRIDES[0] == FINEST_STRIDE  # noqa: S101
