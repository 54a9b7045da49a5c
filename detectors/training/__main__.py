"""`python -m detectors.training`: train, export, evaluate."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import cv2
import torch

from detectors.training.dataset import manifest_hash, read_dataset
from detectors.training.evaluate import evaluate
from detectors.training.export import export, onnx_network
from detectors.training.loop import Trainer
from detectors.training.recipe import Recipe

ATTRIBUTION = (
    "Fine-tuned from YOLOX-nano (Megvii, Apache-2.0, COCO). Pictures: see "
    "detectors/training/ATTRIBUTION.md and manifest.csv."
)
START_WEIGHTS = Path("weights/yolox_nano_coco_bn_unfolded.pth")


def main() -> None:
    """Parses the command line and does what it asks."""
    parser = argparse.ArgumentParser(prog="python -m detectors.training", description=__doc__)
    commands = parser.add_subparsers(required=True)

    train = commands.add_parser("train", help="dataset folder to weights; resumes by itself")
    train.add_argument("dataset", type=Path)
    train.add_argument("run", type=Path, help="folder of checkpoints, log and model.onnx")
    train.add_argument("--start", type=Path, help=f"default: DATASET/{START_WEIGHTS}")
    train.add_argument("--cache", type=Path, help="default: RUN/cache")
    train.add_argument("--images", type=int, help="look at this many, where the recipe says else")
    train.add_argument("--size", type=int)
    train.add_argument("--seed", type=int)
    train.add_argument("--check-every", type=int, default=12_000, metavar="IMAGES")
    train.add_argument("--threads", type=int, default=2)
    train.set_defaults(do=_train)

    out = commands.add_parser("export", help="checkpoint to ONNX")
    out.add_argument("checkpoint", type=Path)
    out.add_argument("model", type=Path)
    out.add_argument("--dataset", type=Path, required=True, help="whose manifests are hashed")
    out.set_defaults(do=_export)

    score = commands.add_parser("evaluate", help="AP at IoU 0.5 on the val split, as JSON")
    score.add_argument("model", type=Path)
    score.add_argument("dataset", type=Path)
    score.add_argument("--size", type=int, help="another input size than the model's own")
    score.add_argument("--threads", type=int, default=1)
    score.set_defaults(do=_evaluate)

    arguments = parser.parse_args()
    arguments.do(arguments)


def _train(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(arguments.threads)
    cv2.setNumThreads(1)
    chosen = {
        name: value
        for name in ("images", "size", "seed")
        if (value := getattr(arguments, name)) is not None
    }
    recipe = dataclasses.replace(Recipe(), **chosen)
    trainer = Trainer(
        recipe,
        read_dataset(arguments.dataset),
        arguments.cache or arguments.run / "cache",
        arguments.run,
        arguments.start or arguments.dataset / START_WEIGHTS,
    )
    trainer.run(arguments.check_every)
    if trainer.step >= recipe.steps:
        model = arguments.run / "model.onnx"
        export(arguments.run / "last.pt", model, manifest_hash(arguments.dataset), ATTRIBUTION)
        print(model)


def _export(arguments: argparse.Namespace) -> None:
    export(arguments.checkpoint, arguments.model, manifest_hash(arguments.dataset), ATTRIBUTION)


def _evaluate(arguments: argparse.Namespace) -> None:
    network, size = onnx_network(arguments.model, arguments.threads)
    size = arguments.size or size
    pictures = [p for p in read_dataset(arguments.dataset) if p.split == "val"]
    report = {"model": arguments.model.name, "size": size, **evaluate(network, pictures, size)}
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
