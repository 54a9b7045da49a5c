"""How a drive moves: from rest to rest, within its speed and its acceleration.

Slewing gear, trolley and hoist all follow the same trapezoid of speed, in closed form, so a
crane's place at any instant is known without stepping through the time before it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Drive:
    """What one drive can do, in its own unit (degrees, metres, tonnes) and seconds.

    Attributes:
        top_speed: Highest speed, unit a second.
        acceleration: Highest acceleration and deceleration, unit a second squared.
    """

    top_speed: float
    acceleration: float

    def seconds(self, distance: float) -> float:
        """How long a move of this distance takes, from rest to rest.

        Args:
            distance: Either sign.

        Returns:
            Seconds.
        """
        far = abs(distance)
        if far * self.acceleration <= self.top_speed**2:
            return 2 * math.sqrt(far / self.acceleration)
        return far / self.top_speed + self.top_speed / self.acceleration


@dataclass(frozen=True, slots=True)
class Move:
    """One move of one drive.

    Attributes:
        drive: What moves.
        origin: Where it starts, at rest.
        target: Where it ends, at rest.
        starts_at: When, in seconds.
    """

    drive: Drive
    origin: float
    target: float
    starts_at: float

    @property
    def ends_at(self) -> float:
        """When it is at rest again, in seconds."""
        return self.starts_at + self.drive.seconds(self.target - self.origin)

    def at(self, seconds: float) -> float:
        """Where the drive is.

        Args:
            seconds: The instant, on the clock of `starts_at`.

        Returns:
            The position: `origin` before the move, `target` after it.
        """
        total = self.drive.seconds(self.target - self.origin)
        gone = min(max(seconds - self.starts_at, 0.0), total)
        way = self.target - self.origin
        acceleration = math.copysign(self.drive.acceleration, way)
        speeding = min(self.drive.top_speed / self.drive.acceleration, total / 2)
        if gone <= speeding:
            return self.origin + acceleration * gone**2 / 2
        if gone >= total - speeding:
            return self.target - acceleration * (total - gone) ** 2 / 2
        return self.origin + acceleration * speeding * (gone - speeding / 2)


def position(moves: Sequence[Move], seconds: float) -> float:
    """Where a drive is that makes these moves one after another.

    Args:
        moves: In order of time, each starting where and not before the one before it ended.
        seconds: The instant, on their clock.

    Returns:
        The position.
    """
    current = moves[0]
    for move in moves[1:]:
        if move.starts_at > seconds:
            break
        current = move
    return current.at(seconds)
