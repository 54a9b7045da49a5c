"""`python -m detectors.training`: train, export, evaluate, second-look, report."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import cv2
import torch

from detectors.training import second_look
from detectors.training.dataset import manifest_hash, read_dataset
from detectors.training.efficientnet import imagenet_weights
from detectors.training.evaluate import evaluate
from detectors.training.export import export, onnx_network
from detectors.training.loop import Trainer
from detectors.training.recipe import Recipe
from detectors.training.report import report

ATTRIBUTION = (
    "Fine-tuned from YOLOX-nano (Megvii, Apache-2.0, COCO). Pictures: see "
    "detectors/training/ATTRIBUTION.md and manifest.csv."
)
SECOND_LOOK = "second_look.onnx"
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
    train.add_argument("--images", type=int, help="of the first stretch")
    train.add_argument("--refine-images", type=int, help="of the second stretch")
    train.add_argument("--size", type=int, help="of the first stretch's last part, pixels")
    train.add_argument("--seed", type=int)
    train.add_argument("--check-every", type=int, default=12_000, metavar="IMAGES")
    train.add_argument("--threads", type=int, default=2)
    train.add_argument(
        "--second-look",
        action="store_true",
        help="then the classifier of heads, too, unless RUN/second_look.onnx is there",
    )
    train.set_defaults(do=_train, crops=None)

    out = commands.add_parser("export", help="checkpoint to ONNX")
    out.add_argument("checkpoint", type=Path)
    out.add_argument("model", type=Path)
    out.add_argument("--dataset", type=Path, required=True, help="whose manifests are hashed")
    out.add_argument("--size", type=int, help="input at work, pixels, a multiple of 32")
    out.set_defaults(do=_export)

    score = commands.add_parser("evaluate", help="AP at IoU 0.5 on the val split, as JSON")
    score.add_argument("model", type=Path)
    score.add_argument("dataset", type=Path)
    score.add_argument("--size", type=int, help="another input size than the model's own")
    score.add_argument("--threads", type=int, default=1)
    score.set_defaults(do=_evaluate)

    look = commands.add_parser("second-look", help="trains the classifier of heads, minutes")
    look.add_argument("dataset", type=Path)
    look.add_argument("run", type=Path, help="folder of second_look.onnx and its report")
    look.add_argument("--crops", type=int, help="look at this many, where the recipe says else")
    look.add_argument("--seed", type=int)
    look.add_argument("--threads", type=int, default=2)
    look.set_defaults(do=_second_look)

    told = commands.add_parser("report", help="curves, worst cases, and what hats do, on val")
    told.add_argument("model", type=Path)
    told.add_argument("dataset", type=Path)
    told.add_argument("folder", type=Path)
    told.add_argument("--second-look", type=Path, help="second_look.onnx")
    told.add_argument("--score", type=float, default=0.44, help="what counts as found")
    told.set_defaults(do=_report)

    arguments = parser.parse_args()
    arguments.do(arguments)


def _train(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(arguments.threads)
    cv2.setNumThreads(1)
    chosen = {
        name: value
        for name in ("images", "refine_images", "size", "seed")
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
        if arguments.second_look and not (arguments.run / SECOND_LOOK).exists():
            _second_look(arguments)


def _export(arguments: argparse.Namespace) -> None:
    export(
        arguments.checkpoint,
        arguments.model,
        manifest_hash(arguments.dataset),
        ATTRIBUTION,
        arguments.size,
    )


def _evaluate(arguments: argparse.Namespace) -> None:
    network, size = onnx_network(arguments.model, arguments.threads)
    size = arguments.size or size
    pictures = [p for p in read_dataset(arguments.dataset) if p.split == "val"]
    report = {"model": arguments.model.name, "size": size, **evaluate(network, pictures, size)}
    print(json.dumps(report, indent=1))


def _second_look(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(arguments.threads)
    cv2.setNumThreads(1)
    chosen = {
        name: value for name in ("crops", "seed") if (value := getattr(arguments, name)) is not None
    }
    recipe = dataclasses.replace(second_look.SecondLookRecipe(), **chosen)
    pictures = read_dataset(arguments.dataset)
    crops = second_look.gather(pictures, "train")
    model = second_look.train(recipe, crops, imagenet_weights())
    checked = second_look.gather(pictures, "val")
    model.calibrate(checked, recipe.kept)
    arguments.run.mkdir(parents=True, exist_ok=True)
    target = arguments.run / SECOND_LOOK
    second_look.export(model, target, recipe, manifest_hash(arguments.dataset))
    report = second_look.check(lambda crops: second_look.shares(model, crops), checked)
    text = json.dumps(report, indent=1)
    (arguments.run / "second_look.json").write_text(text + "\n", encoding="utf-8")
    print(text)


def _report(arguments: argparse.Namespace) -> None:
    network, size = onnx_network(arguments.model, 2)
    look = second_look.onnx_look(arguments.second_look) if arguments.second_look else None
    pictures = [p for p in read_dataset(arguments.dataset) if p.split == "val"]
    result = report(network, size, look, pictures, arguments.folder, arguments.score)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
