"""What a prediction should have been: assignment of boxes to cells, and the masked loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from detectors.training.network import decode

# A cell may answer for a box whose centre lies within this many cells of its own.
CENTRE_RADIUS = 1.5
CANDIDATES = 10
IOU_COST = 3.0


@dataclass(frozen=True)
class Targets:
    """What a sample holds.

    Attributes:
        classes: [n].
        boxes: x1, y1, x2, y2 in pixels, [n, 4].
        box_weights: how much a box's exact place counts, [n].
        known: whether cell and class count where no box claims them, [A, classes].
    """

    classes: Tensor
    boxes: Tensor
    box_weights: Tensor
    known: Tensor


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of all pairs, [n, m], of boxes [n, 4] and [m, 4]."""
    low = torch.maximum(a[:, None, :2], b[None, :, :2])
    high = torch.minimum(a[:, None, 2:], b[None, :, 2:])
    common = (high - low).clamp(min=0).prod(2)
    areas_a = (a[:, 2:] - a[:, :2]).prod(1)
    areas_b = (b[:, 2:] - b[:, :2]).prod(1)
    return common / (areas_a[:, None] + areas_b[None] - common + 1e-9)


def generalised_iou(a: Tensor, b: Tensor) -> Tensor:
    """GIoU (Rezatofighi et al. 2019) of boxes [n, 4] pair by pair, [n]."""
    common = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0)
    common_area = common.prod(1)
    union = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - common_area
    hull = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).prod(1)
    return common_area / (union + 1e-9) - (hull - union) / (hull + 1e-9)


@torch.no_grad()
def assign(
    boxes: Tensor, logits: Tensor, targets: Targets, centres: Tensor, strides: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """SimOTA (Ge et al. 2021) with the soft class cost of RTMDet (Lyu et al. 2022).

    Args:
        boxes: predicted, pixels, [A, 4].
        logits: predicted, [A, classes].
        targets: at least one box.
        centres: cell centres in pixels, [A, 2].
        strides: [A, 1].

    Returns:
        Cells that answer for a box [p], the box each answers for [p], and their IoU [p].
    """
    middles = (targets.boxes[:, :2] + targets.boxes[:, 2:]) / 2
    distance = (centres[None] - middles[:, None]).abs().amax(2) / strides[None, :, 0]
    near_any = distance < CENTRE_RADIUS
    cells = near_any.any(0).nonzero().squeeze(1)
    if not len(cells):
        nothing = cells.new_zeros(0)
        return nothing, nothing, boxes.new_zeros(0)
    near = near_any[:, cells]
    iou = pairwise_iou(targets.boxes, boxes[cells])
    chosen = logits[cells][:, targets.classes].T
    cost = functional.binary_cross_entropy_with_logits(chosen, iou, reduction="none")
    cost = cost * (iou - chosen.sigmoid()).square() - IOU_COST * (iou + 1e-8).log() + 1e6 * ~near
    best = torch.topk(iou * near, min(CANDIDATES, len(cells)), 1).values
    counts = best.sum(1).int().clamp(min=1, max=len(cells))
    order = torch.topk(cost, int(counts.max()), 1, largest=False).indices
    wanted = torch.arange(order.shape[1])[None] < counts[:, None]
    taken = torch.zeros_like(near).scatter_(1, order, wanted) & near
    contested = taken.sum(0) > 1
    if contested.any():
        winner = cost.masked_fill(~taken, torch.inf)[:, contested].argmin(0)
        taken[:, contested] = False
        taken[winner, contested] = True
    positive = taken.any(0)
    owner = taken[:, positive].int().argmax(0)
    return cells[positive], owner, iou[owner, positive.nonzero().squeeze(1)]


def detection_loss(
    raw: Tensor,
    batch: list[Targets],
    grid_cells: tuple[Tensor, Tensor],
    *,
    box_weight: float,
) -> tuple[Tensor, dict[str, float]]:
    """Quality focal loss (Li et al. 2020) on known classes, GIoU on assigned cells.

    Args:
        raw: network output [N, A, 4 + classes].
        batch: one record a sample.
        grid_cells: corners and strides from `network.grid`.
        box_weight: of the GIoU part.

    Returns:
        The loss, and its parts for the log.
    """
    corners, strides = grid_cells
    centres = (corners + 0.5) * strides
    boxes = decode(raw[..., :4], corners, strides)
    logits = raw[..., 4:]
    wanted = torch.zeros_like(logits)
    counted = torch.stack([targets.known for targets in batch])
    picked, aims, weights = [], [], []
    for number, targets in enumerate(batch):
        if not len(targets.classes):
            continue
        cells, owner, quality = assign(boxes[number], logits[number], targets, centres, strides)
        wanted[number, cells, targets.classes[owner]] = quality
        counted[number, cells, targets.classes[owner]] = True
        picked.append(boxes[number, cells])
        aims.append(targets.boxes[owner])
        weights.append(targets.box_weights[owner] * quality.clamp(min=0.1))
    total = wanted.sum().clamp(min=1.0)
    focus = (wanted - logits.detach().sigmoid()).square() * counted
    class_loss = functional.binary_cross_entropy_with_logits(
        logits, wanted, weight=focus, reduction="sum"
    )
    class_loss = class_loss / total
    box_loss = raw.sum() * 0.0
    if picked:
        off = 1.0 - generalised_iou(torch.cat(picked), torch.cat(aims))
        box_loss = (off * torch.cat(weights)).sum() / total
    loss = class_loss + box_weight * box_loss
    return loss, {
        "loss": float(loss.detach()),
        "class": float(class_loss.detach()),
        "box": float(box_loss.detach()),
        "positives": sum(len(p) for p in picked) / len(batch),
    }
