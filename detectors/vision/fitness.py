"""Whether a camera can be relied on: light, blur, a blocked or moved lens, heads too small.

Everything is measured on the small grey picture the motion gate has anyway (160 pixels wide), and
on the sizes of the heads that were seen.

- **Light**: dark where even its brighter parts (the 95th percentile) are dark; bright where nearly
  all of it is blown out.
- **Blur**: the share of fine detail in all detail, the energy of the Laplacian over that of the
  gradient. It hardly depends on what is seen, and falls with the blur: of 630 site pictures it is
  2.0 to 20.7 (median 5.4); blurred by 4 pixels of 1,280 (standard deviation) the median is 2.2, by
  8 the highest is 1.3.
- **Blocked**: parts of the picture that show anything at all. Of those pictures 32 to 100 % do.
- **Moved**: where the lens looks. Signed gradients are compared cell by cell with a slowly learnt
  mean of them, in which people and machines average out; the share of cells that still show the
  same decides. Who walks through spoils a few cells. On the clips 60 to 100 % are the same; after a
  shift of 4 % of the width at most 30 %, after 2 % at most 50 %; shaking by a third of a percent
  changes nothing.
- **Small heads**: the median size of the heads seen of late, in pixels of the model's input.

What decides must hold for some looks in a row before anything is said, and what clears must too.
"""

from __future__ import annotations

import struct
import zlib
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from detectors.vision.picture import Image
from device_profiles.readings import Unfit

Floats = npt.NDArray[np.float32]

LOOKS = 3
"""So many looks in a row say the same before it counts."""

MOVED_FOR = timedelta(seconds=10)
"""And for so long, where the lens seems moved: a machine may fill the picture for a moment."""

LEARNING_LOOKS = 8
"""What is learnt is used after so many looks."""

LEARNING = timedelta(seconds=300)
"""How slowly it is learnt: the time constant of its mean."""

RELEARN = timedelta(minutes=10)
"""A lens that looks elsewhere for so long has a new scene, unless something is drawn on the old."""

DARK_LEVEL, NOT_DARK_LEVEL = 50, 65
BLOWN_LEVEL, BLOWN_SHARE, NOT_BLOWN_SHARE = 250, 0.85, 0.75
LEAST_SHARPNESS, SHARP_AGAIN = 1.4, 1.7
LEAST_OF_USUAL_SHARPNESS, USUAL_AGAIN = 0.5, 0.65
TELLING_STRUCTURE = 0.3  # a plain yard is as sharp as whoever drives across it
LEAST_STRUCTURE, STRUCTURE_AGAIN = 0.02, 0.04  # bare asphalt has 0.05
LEAST_OF_USUAL_STRUCTURE, STRUCTURE_USUAL_AGAIN = 0.3, 0.5
LEAST_SAME, SAME_AGAIN = 0.45, 0.55
COVERED_SAME = 0.15
SMALL_HEAD_PX, LARGE_ENOUGH_PX = 8.0, 10.0
"""Each pair: from where on it is unfit, and from where on it is fit again."""

_BLOCKS = (16, 10)
_FLAT_LEVELS = 6.0
_CELLS = (10, 6)
_CELL_SAME = 0.5
_CELL_STRUCTURED = 150.0
"""Mean square of the gradient from which on a cell shows enough to be recognised."""
_STEADY = 0.5
_LEAST_CELLS = 10

_HEADS = 40
_LEAST_HEADS = 10
_HEADS_FOR = timedelta(hours=1)


class Fitness(NamedTuple):
    """What one picture shows of its camera.

    Attributes:
        light: 95th percentile of the brightness, 0 to 255.
        blown: Share of pixels at the upper end.
        sharpness: Fine detail in all detail; see above.
        structure: Share of the picture that shows anything.
    """

    light: float
    blown: float
    sharpness: float
    structure: float


def gradients(grey: Image) -> Floats:
    """The signed gradients of a picture, across and down, a little smoothed.

    Args:
        grey: Height × width.

    Returns:
        2 × height × width.
    """
    smooth = cv2.GaussianBlur(grey.astype(np.float32), (5, 5), 1.0)
    return np.stack(
        (cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1))
    ).astype(np.float32, copy=False)


def measure(grey: Image) -> Fitness:
    """Measure one picture.

    Args:
        grey: Height × width, small.

    Returns:
        Its figures.
    """
    counts = np.bincount(grey.ravel(), minlength=256)
    reached = np.cumsum(counts)
    plain = grey.astype(np.float32)
    fine = cv2.Laplacian(plain, cv2.CV_32F)
    across, down = cv2.Sobel(plain, cv2.CV_32F, 1, 0), cv2.Sobel(plain, cv2.CV_32F, 0, 1)
    # A Sobel gradient is 8 times the slope.
    all_detail = (float(np.vdot(across, across)) + float(np.vdot(down, down))) / 64
    mean = cv2.resize(plain, _BLOCKS, interpolation=cv2.INTER_AREA)
    square = cv2.resize(plain * plain, _BLOCKS, interpolation=cv2.INTER_AREA)
    varied = int(np.count_nonzero(square - mean * mean > _FLAT_LEVELS**2))
    return Fitness(
        light=float(np.searchsorted(reached, 0.95 * grey.size)),
        blown=float(counts[BLOWN_LEVEL:].sum()) / grey.size,
        sharpness=float(np.vdot(fine, fine)) / all_detail if all_detail > 0 else 0.0,
        structure=varied / (_BLOCKS[0] * _BLOCKS[1]),
    )


def same_scene(now: Floats, scene: Floats, energy: Floats | None = None) -> float | None:
    """How much of a scene is where it was.

    Args:
        now: Gradients of a picture.
        scene: Mean gradients of the scene; of the same shape.
        energy: By cell, the mean of the squared gradients; what is there only now and then has far
            more of it than its mean has, and says nothing of the scene. None: all is steady.

    Returns:
        Share of the cells that show the same; None where too few show anything.
    """
    both = _by_cell((now * scene).sum(0))
    own, wanted = energy_of(now), energy_of(scene)
    structured = wanted > _CELL_STRUCTURED
    if energy is not None:
        structured &= wanted > _STEADY * energy
    if np.count_nonzero(structured) < _LEAST_CELLS:
        return None
    alike = both > _CELL_SAME * np.sqrt(own * wanted)
    return float(np.count_nonzero(alike & structured) / np.count_nonzero(structured))


def energy_of(now: Floats) -> Floats:
    """The mean square of gradients, by cell.

    Args:
        now: Gradients of a picture.

    Returns:
        One value a cell.
    """
    return _by_cell((now * now).sum(0))


def _by_cell(values: Floats) -> Floats:
    return cv2.resize(values, _CELLS, interpolation=cv2.INTER_AREA).astype(np.float32, copy=False)


@dataclass(slots=True)
class _Usual:
    """What a camera usually shows, learnt slowly."""

    scene: Floats
    energy: Floats
    sharpness: float
    structure: float
    looks: int = 1
    at: datetime | None = None

    @classmethod
    def begin(cls, now: Floats, fitness: Fitness, at: datetime) -> _Usual:
        return cls(now.copy(), energy_of(now), fitness.sharpness, fitness.structure, at=at)

    @property
    def known(self) -> bool:
        return self.looks >= LEARNING_LOOKS

    def learn(self, now: Floats, fitness: Fitness, at: datetime) -> None:
        self.looks += 1
        elapsed_s = 0.0 if self.at is None else max(0.0, (at - self.at).total_seconds())
        share = max(1 / self.looks, 1 - np.exp(-elapsed_s / LEARNING.total_seconds()))
        share = min(float(share), 0.2) if self.known else float(share)
        self.at = at
        self.scene += share * (now - self.scene)
        self.energy += share * (energy_of(now) - self.energy)
        self.sharpness += share * (fitness.sharpness - self.sharpness)
        self.structure += share * (fitness.structure - self.structure)


class Verdict(NamedTuple):
    """What is held of a camera.

    Attributes:
        unfit: Why it cannot be relied on; None while it can.
        figures: What decided, by name; empty while it is fit.
    """

    unfit: Unfit | None
    figures: dict[str, float]


FIT = Verdict(None, {})


class Judge:
    """Watches over one camera."""

    def __init__(self, *, fixed: bool = True, drawn_on: bool = False) -> None:
        """Start with a camera of which nothing is known.

        Args:
            fixed: Whether it always looks at the same scene.
            drawn_on: Whether zones, areas or masks are drawn on its scene: then a lens that moved
                stays unfit until it is turned back, or its settings are changed.
        """
        self._fixed, self._drawn_on = fixed, drawn_on
        self._usual: _Usual | None = None
        self._elsewhere: _Usual | None = None
        self._elsewhere_since: datetime | None = None
        self._verdict = FIT
        self._said: Unfit | None = None  # by the last look
        self._figures: dict[str, float] = {}
        self._said_looks = 0
        self._said_since: datetime | None = None
        self._heads: deque[tuple[datetime, float]] = deque(maxlen=_HEADS)

    @property
    def verdict(self) -> Verdict:
        """What is held now."""
        return self._verdict

    def heads(self, sizes: Iterable[float], at: datetime) -> None:
        """Take note of heads that were seen.

        Args:
            sizes: Longer sides, in pixels of the model's input.
            at: When; aware.
        """
        self._heads.extend((at, size) for size in sizes)

    def take(self, grey: Image, at: datetime) -> Verdict:
        """Judge the next picture.

        Args:
            grey: Height × width, small.
            at: Its time; aware.

        Returns:
            What is held of the camera now.
        """
        fitness = measure(grey)
        now = gradients(grey)
        usual = self._usual
        if usual is None or usual.scene.shape != now.shape:
            self._usual = usual = _Usual.begin(now, fitness, at)
        compared = self._fixed and usual.known
        same = same_scene(now, usual.scene, usual.energy) if compared else None
        unfit = self._unfit(fitness, usual, same, at)
        figures = {
            "light": fitness.light,
            "sharpness": round(fitness.sharpness, 3),
            "structure": round(fitness.structure, 3),
        }
        if same is not None:
            figures["same_scene"] = round(same, 3)
        if unfit is Unfit.SMALL_HEADS:
            figures["head_px"] = round(self._head_px(at) or 0.0, 1)
        self._say(unfit, figures, at)
        if unfit is None or unfit is Unfit.SMALL_HEADS:
            usual.learn(now, fitness, at)
            self._elsewhere = None
        elif unfit is Unfit.MOVED:
            self._learn_elsewhere(now, fitness, at)
        return self._verdict

    def again(self, at: datetime) -> Verdict:
        """Judge a picture that shows what the one before showed.

        Args:
            at: Its time; aware.

        Returns:
            What is held of the camera now.
        """
        self._say(self._said, self._figures, at)
        return self._verdict

    def _unfit(
        self, fitness: Fitness, usual: _Usual, same: float | None, at: datetime
    ) -> Unfit | None:
        """What one picture says, easier on what is held already."""
        held = self._verdict.unfit
        if fitness.light < (NOT_DARK_LEVEL if held is Unfit.DARK else DARK_LEVEL):
            return Unfit.BLOCKED if self._covered(fitness, usual, same) else Unfit.DARK
        if fitness.blown > (NOT_BLOWN_SHARE if held is Unfit.BRIGHT else BLOWN_SHARE):
            return Unfit.BRIGHT
        if self._blocked(fitness, usual, again=held is Unfit.BLOCKED):
            return Unfit.BLOCKED
        blurred = held is Unfit.BLURRED
        if fitness.sharpness < (SHARP_AGAIN if blurred else LEAST_SHARPNESS):
            return Unfit.BLURRED
        least = USUAL_AGAIN if blurred else LEAST_OF_USUAL_SHARPNESS
        telling = self._fixed and usual.known and usual.structure >= TELLING_STRUCTURE
        if telling and fitness.sharpness < least * usual.sharpness:
            return Unfit.BLURRED
        if same is not None and same < (SAME_AGAIN if held is Unfit.MOVED else LEAST_SAME):
            return Unfit.MOVED
        head_px = self._head_px(at)
        if head_px is not None and head_px < (
            LARGE_ENOUGH_PX if held is Unfit.SMALL_HEADS else SMALL_HEAD_PX
        ):
            return Unfit.SMALL_HEADS
        return None

    def _blocked(self, fitness: Fitness, usual: _Usual, *, again: bool) -> bool:
        """Whether little is to be seen in good light where there was more before."""
        if self._fixed and usual.known:
            least = STRUCTURE_USUAL_AGAIN if again else LEAST_OF_USUAL_STRUCTURE
            return fitness.structure < least * usual.structure
        return fitness.structure < (STRUCTURE_AGAIN if again else LEAST_STRUCTURE)

    def _covered(self, fitness: Fitness, usual: _Usual, same: float | None) -> bool:
        """Whether a dark picture is of something before the lens: the scene does not shine through.

        The dark takes contrast, and leaves gradients where they are.
        """
        if same is None or same >= COVERED_SAME:
            return False
        return fitness.structure < LEAST_OF_USUAL_STRUCTURE * usual.structure

    def _head_px(self, at: datetime) -> float | None:
        while self._heads and at - self._heads[0][0] > _HEADS_FOR:
            self._heads.popleft()
        if len(self._heads) < _LEAST_HEADS:
            return None
        return float(np.median([size for _, size in self._heads]))

    def _say(self, unfit: Unfit | None, figures: dict[str, float], at: datetime) -> None:
        """Hold what enough looks in a row have said."""
        if unfit is not self._said or self._said_since is None:
            self._said, self._said_looks, self._said_since = unfit, 0, at
        self._said_looks += 1
        self._figures = figures
        if unfit is self._verdict.unfit or self._said_looks < LOOKS:
            return
        if unfit is Unfit.MOVED and at - self._said_since < MOVED_FOR:
            return
        self._verdict = FIT if unfit is None else Verdict(unfit, figures)

    def _learn_elsewhere(self, now: Floats, fitness: Fitness, at: datetime) -> None:
        """Learn the new scene of a lens that moved, and take it for its own in the end."""
        if self._drawn_on:
            return
        if self._elsewhere is None or self._elsewhere_since is None:
            self._elsewhere = _Usual.begin(now, fitness, at)
            self._elsewhere_since = at
            return
        steady = same_scene(now, self._elsewhere.scene)
        if steady is not None and steady < LEAST_SAME:
            self._elsewhere = None  # still on its way
            return
        self._elsewhere.learn(now, fitness, at)
        if at - self._elsewhere_since >= RELEARN and self._elsewhere.known:
            self._usual, self._elsewhere = self._elsewhere, None

    def remember(self) -> bytes | None:
        """What is learnt of the scene, to be kept over a restart.

        Returns:
            Some 10 to 30 kB; None while too little is.
        """
        usual = self._usual
        if usual is None or not usual.known:
            return None
        _, height, width = usual.scene.shape
        levels = np.clip(np.rint(usual.scene / _STEP), -127, 127).astype(np.int8)
        head = _HEAD.pack(height, width, usual.looks, usual.sharpness, usual.structure)
        return head + zlib.compress(levels.tobytes(), 6)

    def recall(self, memory: bytes) -> bool:
        """Go on with what was learnt before.

        Args:
            memory: From `remember`.

        Returns:
            Whether it could be read; if not, all is learnt anew.
        """
        try:
            height, width, looks, sharpness, structure = _HEAD.unpack_from(memory)
            levels = np.frombuffer(zlib.decompress(memory[_HEAD.size :]), np.int8)
            scene = levels.reshape(2, height, width).astype(np.float32) * _STEP
        except (struct.error, zlib.error, ValueError):
            return False
        self._usual = _Usual(scene, energy_of(scene), sharpness, structure, looks)
        return True


_HEAD = struct.Struct("<HHIdd")
_STEP = 8.0
"""Gradients are kept in steps of so much: of 8 × 255 at most."""
