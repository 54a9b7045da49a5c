"""Cut the camera's excerpts out of the two sample videos (see README.md beside this file).

``python simulators/clips/excerpt.py FOLDER`` reads the videos in FOLDER and writes the JPEG
files beside this script. The same videos and the same OpenCV give the same files.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

import cv2

SIZE = (768, 432)
"""Width and height of every picture: a camera does not change its resolution."""

JPEG_QUALITY = 85


class Excerpt(NamedTuple):
    """What is taken of one video.

    Attributes:
        video: End of the video's file name.
        folder: Where the pictures go.
        frames: Numbers of the video's frames, in order.
    """

    video: str
    folder: str
    frames: tuple[int, ...]


EXCERPTS = (
    # 10 frames a second, every fifth: two a second.
    Excerpt("one-by-one-person-detection.mp4", "one-by-one", tuple(range(735, 890, 5))),
    # 16.7 frames a second, every sixth: shown at two a second the worker walks a little slower.
    Excerpt("worker-zone-detection.mp4", "worker-zone", tuple(range(0, 71, 6))),
)


def excerpt(source: Path, taken: Excerpt, target: Path) -> int:
    """Write the pictures of one excerpt.

    Args:
        source: Folder of the videos.
        taken: What to take.
        target: Folder that holds the excerpts' folders.

    Returns:
        How many bytes were written.

    Raises:
        FileNotFoundError: There is not exactly one such video.
        ValueError: The video has fewer frames, or cannot be read.
    """
    found = sorted(source.glob(f"*{taken.video}"))
    if len(found) != 1:
        raise FileNotFoundError(f"{source} holds {len(found)} files named *{taken.video}, not one")
    folder = target / taken.folder
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.jpg"):
        old.unlink()
    capture = cv2.VideoCapture(str(found[0]))
    wanted = set(taken.frames)
    written = 0
    for number in range(max(wanted) + 1):
        ok, picture = capture.read()
        if not ok:
            raise ValueError(f"{found[0]} ends at frame {number}")
        if number in wanted:
            resized = cv2.resize(picture, SIZE, interpolation=cv2.INTER_CUBIC)
            ok, jpeg = cv2.imencode(".jpg", resized, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
            if not ok:
                raise ValueError(f"frame {number} of {found[0]} cannot be written as JPEG")
            written += (folder / f"{number:05d}.jpg").write_bytes(jpeg.tobytes())
    capture.release()
    return written


def main() -> None:
    """Write all excerpts."""
    if len(sys.argv) != 2:
        sys.exit("usage: python simulators/clips/excerpt.py FOLDER_OF_THE_VIDEOS")
    for taken in EXCERPTS:
        size = excerpt(Path(sys.argv[1]), taken, Path(__file__).parent)
        sys.stdout.write(f"{taken.folder}: {len(taken.frames)} pictures, {size} bytes\n")


if __name__ == "__main__":
    main()
