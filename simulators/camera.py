"""What the simulated camera shows: excerpts of real videos, in a fixed order.

The camera patrols between two places. At the first a man with a bare head walks in, stands
there and leaves: a violation. At the second a worker with hard hat and vest walks off and
stands: none. The pictures and their licence are in ``clips/``.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from simulators.errors import Misconfigured

CLIPS = Path(__file__).parent / "clips"

PICTURES_PER_S = 2
"""The rate the programme is meant for."""


class Picture(NamedTuple):
    """One picture of the programme.

    Attributes:
        jpeg: The file's bytes.
        bare_head: Whether a bare head is wholly and clearly to be seen.
        name: Folder and file, for people.
    """

    jpeg: bytes
    bare_head: bool
    name: str


_BARE = range(750, 861)
"""Frames of ``one-by-one`` on which the man's head is wholly in the picture, by file name."""


@lru_cache(maxsize=1)
def programme() -> tuple[Picture, ...]:
    """The pictures of one patrol, `PICTURES_PER_S` to be shown a second; then it starts anew.

    Returns:
        60 pictures, half a minute.

    Raises:
        Misconfigured: The pictures are not there.
    """
    entering = _folder("one-by-one")
    working = _folder("worker-zone")
    standing = [working[-1]] * 9
    empty = entering[-4:] * 2
    return tuple(entering + working + standing + empty)


def _folder(name: str) -> list[Picture]:
    files = sorted((CLIPS / name).glob("*.jpg"))
    if not files:
        raise Misconfigured(f"{CLIPS / name} holds no pictures; the installation is not whole")
    return [
        Picture(
            file.read_bytes(),
            name == "one-by-one" and int(file.stem) in _BARE,
            f"{name}/{file.name}",
        )
        for file in files
    ]


def picture_at(seconds: float) -> Picture:
    """The picture that is shown at an instant.

    Args:
        seconds: Since the camera's start, not negative.

    Returns:
        The picture.
    """
    pictures = programme()
    return pictures[int(seconds * PICTURES_PER_S) % len(pictures)]
