"""What `smartsite detect` looks at: files of all sorts, as people see them."""

import errno
import os
import struct
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest

from alerts.concealing import Concealed
from detectors.vision.boxes import overlaps
from detectors.vision.crops import SIDE
from detectors.vision.model import Model
from detectors.vision.picture import Image
from device_profiles.readings import Box
from smartsite.detecting import (
    Eye,
    Found,
    PassedOver,
    Seen,
    Source,
    Unreadable,
    annotated,
    annotated_path,
    as_json,
    bystanders,
    frames_of,
    look_at,
    sources,
)
from smartsite.media import frames_end

CLIPS = Path(__file__).resolve().parents[3] / "simulators" / "clips"
BARE = CLIPS / "one-by-one" / "00800.jpg"
HELMET = CLIPS / "worker-zone" / "00066.jpg"
WORN = CLIPS / "worker-zone" / "00066.jpg"

Put = Callable[[str, bytes], Path]


@pytest.fixture(scope="module")
def model() -> Model:
    return Model()


@pytest.fixture
def put(tmp_path: Path) -> Put:
    def put(name: str, data: bytes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    return put


def image_of(path: Path) -> Image:
    image = cv2.imread(str(path))
    assert image is not None
    return image.astype(np.uint8)


def encoded(kind: str, image: Image) -> bytes:
    return cv2.imencode(kind, image)[1].tobytes()


def only(path: Path, eye: Eye) -> Seen:
    (seen,) = look_at(path, eye)
    assert isinstance(seen, Seen)
    return seen


def fault(path: Path, eye: Eye) -> str:
    (seen,) = look_at(path, eye)
    assert isinstance(seen, Unreadable)
    return seen.error


def labels(seen: Seen) -> list[str]:
    return [found.box.label for found in seen.found]


def head(seen: Seen) -> Box:
    return next(found.box for found in seen.found if found.box.label == "head")


# --- pictures ----------------------------------------------------------------------------------


def test_a_picture_without_a_least_score_shows_what_counts(model: Model) -> None:
    seen = only(BARE, Eye(model))
    assert sorted(labels(seen)) == ["head", "no_vest", "person"]
    assert (seen.width, seen.height, seen.frame) == (768, 432, None)
    for found in seen.found:
        assert found.box.score >= model.operating_point[found.box.label]
        assert found.second_look is None


def test_a_least_score_shows_every_box_left_after_suppression(model: Model) -> None:
    seen = only(BARE, Eye(model, 0.01))
    assert [found.box for found in seen.found] == model.look(BARE.read_bytes(), 0.01, every=True)
    assert len(seen.found) > len(only(BARE, Eye(model)).found)


@pytest.mark.parametrize("kind", [".png", ".bmp", ".webp", ".jpg"])
def test_pictures_of_other_kinds_and_other_names(model: Model, put: Put, kind: str) -> None:
    path = put("noname", encoded(kind, image_of(BARE)))
    seen = only(path, Eye(model))
    assert (seen.width, seen.height) == (768, 432)
    assert sorted(labels(seen)) == ["head", "no_vest", "person"]


@pytest.mark.parametrize(("value", "size"), [(1, (2_002, 2_001)), (6, (2_001, 2_002))])
def test_a_nearly_square_photograph_has_the_sides_its_tag_says(
    model: Model, put: Put, value: int, size: tuple[int, int]
) -> None:
    # Shrunk to a half for the model, it is square.
    image = cv2.resize(image_of(BARE), (2_002, 2_001)).astype(np.uint8)
    path = put("photo.jpg", with_orientation(encoded(".jpg", image), value))
    seen = only(path, Eye(model))
    assert (seen.width, seen.height) == size


def with_orientation(jpeg: bytes, value: int) -> bytes:
    """A JPEG whose EXIF tag says how it has to be turned."""
    entry = struct.pack("<HHIHH", 0x0112, 3, 1, value, 0)
    tiff = b"II*\x00" + struct.pack("<IH", 8, 1) + entry + bytes(4)
    exif = b"Exif\x00\x00" + tiff
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (1, lambda image: image),
        (3, lambda image: cv2.rotate(image, cv2.ROTATE_180)),
        (6, lambda image: cv2.rotate(image, cv2.ROTATE_90_COUNTERCLOCKWISE)),
        (8, lambda image: cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE)),
        (2, lambda image: cv2.flip(image, 1)),
    ],
)
def test_a_photograph_is_looked_at_upright(
    model: Model, put: Put, value: int, stored: Callable[[Image], Image]
) -> None:
    upright = image_of(BARE)
    data = encoded(".jpg", stored(upright))
    path = put("photo.jpg", with_orientation(data, value))
    seen = only(path, Eye(model))
    assert (seen.width, seen.height) == (768, 432)
    wanted = head(only(BARE, Eye(model)))
    share = overlaps(np.array(head(seen).box, np.float32), np.array([wanted.box], np.float32))
    assert share[0] > 0.8
    (kept,) = look_at(path, Eye(model), keep=True)
    assert isinstance(kept, Seen)
    assert kept.image is not None
    assert kept.image.shape == upright.shape


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "neither a picture"),
        (b"hello", "neither a picture"),
        (b"#EXTM3U\nother.ts\n" + bytes(300), "neither a picture"),
        (BARE.read_bytes()[:20_000], "cut off"),
        (BARE.read_bytes()[:20_000] + b"\xff\xd9", "cut off"),
        (b"\x89PNG\r\n\x1a\n" + bytes(4) + b"IHDR" + struct.pack(">II", 60_000, 60_000), "claims"),
        (b"\x89PNG\r\n\x1a\n" + bytes(4) + b"IHDR" + struct.pack(">II", 0, 5), "0 × 5"),
        (b"\x89PNG\r\n\x1a\n" + bytes(4) + b"IHDR" + struct.pack(">II", 50, 50), "decoded"),
        (b"\x89PNG\r\n\x1a\n" + bytes(4) + b"IHDR", "ends within its header"),
        (b"BM" + bytes(12) + struct.pack("<Iii", 40, 20_000, -20_000), "claims"),
        (b"BM" + bytes(12) + struct.pack("<IHH", 12, 40_000, 4), "claims"),
        (b"RIFF" + bytes(4) + b"WEBPVP8X" + bytes(8) + b"\xff" * 6, "claims"),
        (b"RIFF" + bytes(4) + b"WEBPVP8L" + bytes(5) + b"\x00" * 4, "decoded"),
        (b"RIFF" + bytes(4) + b"WEBPVP8 " + bytes(10) + b"\xff" * 4, "claims"),
        (b"\x00\x00\x00\x18ftypmp42" + bytes(50), "cannot be opened"),
        (b"\x00\x00\x00\x18ftypheic" + bytes(50), "HEIC or AVIF"),
        (b"\x00\x00\x00\x18ftypavif" + bytes(50), "HEIC or AVIF"),
        (b"\x00\x00\x00\x18ftypmif1" + bytes(50), "HEIC or AVIF"),
        # A description of a stream, whose first bytes are those of another container.
        (b"G" + b" " * 187 + b"G\nv=0\nc=IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\n", "opened"),
    ],
)
def test_what_cannot_be_looked_at_says_why(model: Model, put: Put, data: bytes, said: str) -> None:
    assert said in fault(put("file", data), Eye(model))


def test_a_picture_that_lacks_its_end_marker_alone_is_looked_at(model: Model, put: Put) -> None:
    path = put("unended.jpg", BARE.read_bytes()[:-2])
    assert only(path, Eye(model)).found == only(BARE, Eye(model)).found


def test_every_picture_of_a_webp_or_bitmap_has_the_size_it_says(model: Model, put: Put) -> None:
    image = np.full((31, 47, 3), 90, np.uint8)
    for kind, options in ((".webp", [cv2.IMWRITE_WEBP_QUALITY, 101]), (".webp", []), (".bmp", [])):
        data = cv2.imencode(kind, image, options)[1].tobytes()
        seen = only(put("small", data), Eye(model))
        assert (seen.width, seen.height) == (47, 31)


# --- videos ------------------------------------------------------------------------------------


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Seven frames of the clip."""
    path = tmp_path / "clip.avi"
    names = sorted((CLIPS / "one-by-one").glob("*.jpg"))[11:18]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (768, 432))
    for name in names:
        writer.write(image_of(name))
    writer.release()
    return path


def test_a_video_is_looked_at_frame_by_frame(model: Model, video: Path) -> None:
    found = list(look_at(video, Eye(model)))
    assert [seen.frame for seen in found] == list(range(7))
    for seen in found:
        assert isinstance(seen, Seen)
        assert "head" in labels(seen)
        assert as_json(seen)["frame"] == seen.frame
    assert frames_of(video) == 7


def test_every_so_many_frames(model: Model, video: Path) -> None:
    assert [seen.frame for seen in look_at(video, Eye(model), every=3)] == [0, 3, 6]
    assert frames_of(video, 3) == 3


@pytest.mark.parametrize("share", [0.5, 0.97])
def test_a_video_that_breaks_off_says_where(
    model: Model, video: Path, put: Put, share: float
) -> None:
    data = video.read_bytes()
    cut = data[: round(len(data) * share)]
    *seen, last = look_at(put("cut.avi", cut), Eye(model))
    assert all(isinstance(each, Seen) for each in seen)
    assert isinstance(last, Unreadable)
    assert last.error.startswith(f"the video is cut off after {len(cut)} of ")
    assert last.frame == len(seen) > 0


def test_an_index_that_is_cut_off_loses_no_frame(model: Model, video: Path, put: Put) -> None:
    data = video.read_bytes()
    whole = put("whole.avi", data[: data.rindex(b"idx1") + 20])
    assert [seen.frame for seen in look_at(whole, Eye(model), every=6)] == [0, 6]


def test_a_video_that_claims_a_few_frames_too_many_is_whole(
    model: Model, video: Path, put: Put
) -> None:
    """As where a camera left some out, or an edit hides them: whether it was cut, bytes tell."""
    data = bytearray(video.read_bytes())
    stream = data.index(b"strh") + 8
    assert struct.unpack_from("<I", data, stream + 32) == (7,)
    for claimed, whole in ((10, True), (20, False)):
        struct.pack_into("<I", data, stream + 32, claimed)
        last = list(look_at(put("more.avi", bytes(data)), Eye(model)))[-1]
        assert isinstance(last, Seen) is whole
    assert isinstance(last, Unreadable)
    assert last.error == "the video ends at frame 7 of 20"


@pytest.mark.parametrize(
    "name", ["10:21:00.avi", "concat:x.avi", "pipe:0", os.fsdecode(b"\xff\xfe.avi")]
)
def test_a_video_may_have_any_name(
    model: Model, video: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    video.rename(video.with_name(name))
    monkeypatch.chdir(video.parent)
    assert frames_of(Path(name)) == 7
    assert len(list(look_at(Path(name), Eye(model), every=6))) == 2


CONTAINERS = [
    ("avi", "MJPG"),
    ("mkv", "MJPG"),
    ("webm", "VP80"),
    ("mp4", "mp4v"),
    ("mpg", "MPG1"),
    ("ts", "mp4v"),
]


def written(path: Path, kind: str) -> bytes:
    """A video of forty frames, as FFmpeg writes it."""
    writer = cv2.VideoWriter(
        str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*kind), 25, (160, 96)
    )
    noise = np.random.default_rng(1).integers(0, 256, (96, 160, 3), np.uint8)
    for number in range(40):
        writer.write(np.roll(noise, 3 * number, axis=1))
    writer.release()
    return path.read_bytes()


@pytest.mark.parametrize(("ending", "kind"), CONTAINERS)
def test_a_video_of_any_container_and_name_is_looked_at_to_its_end(
    model: Model, tmp_path: Path, put: Put, ending: str, kind: str
) -> None:
    path = put("noname", written(tmp_path / f"clip.{ending}", kind))
    found = list(look_at(path, Eye(model), every=39))
    assert [seen.frame for seen in found] == [0, 39]
    assert all(isinstance(seen, Seen) for seen in found)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.97])
@pytest.mark.parametrize(("ending", "kind"), CONTAINERS[:4])
def test_a_part_of_a_video_is_told_whatever_its_name(
    model: Model, tmp_path: Path, put: Put, ending: str, kind: str, share: float
) -> None:
    data = written(tmp_path / f"clip.{ending}", kind)
    *_, last = look_at(put("noname", data[: round(len(data) * share)]), Eye(model), every=39)
    assert isinstance(last, Unreadable)
    assert "cut off after" in last.error or "opened" in last.error


def box(kind: bytes, body: bytes = b"", size: int | None = None) -> bytes:
    """A box of an MP4."""
    return struct.pack(">I4s", 8 + len(body) if size is None else size, kind) + body


MOVIE = box(b"ftyp", b"mp42") + box(b"moov", bytes(16))
LIVE = b"\x1aE\xdf\xa3\x80\x18\x53\x80\x67"


@pytest.mark.parametrize(
    ("container", "data", "end"),
    [
        ("mov", MOVIE + box(b"mdat", bytes(9)), 53),
        ("mov", MOVIE + box(b"mdat", bytes(9), size=90), 126),
        ("mov", MOVIE + box(b"mdat", struct.pack(">Q", 2**40), size=1), 36 + 2**40),
        ("mov", MOVIE + box(b"mdat", bytes(9), size=0), 36),
        ("mov", MOVIE + box(b"junk", size=2**31), 36),  # after the last box there may be anything
        ("mov", b"", None),
        ("avi", b"RIFF\0\0\0\0AVI LIST\x14\0\0\0movi", 40),
        ("avi", b"RIFF\0\0\0\0AVI LIST\0\0\0\0movi", None),
        ("avi", b"RIFF\0\0\0\0AVI LIST\xff\xff\xff\xffmovi", None),
        (
            "avi",  # OpenDML
            b"RIFF\0\0\0\0AVI LIST\x05\0\0\0movi??RIFF\0\0\0\0AVIXLIST\x14\0\0\0movi",
            66,
        ),
        ("matroska", LIVE + b"\x84", 14),
        ("matroska", LIVE + b"\x40\x84", 11 + 0x84),
        ("matroska", LIVE + b"\x01" + b"\xff" * 7, None),
        ("matroska", LIVE, None),
        ("matroska", LIVE + b"\0" * 8, None),
        ("matroska", b"\0" * 32, None),
        ("mpegts", b"G" * 400, None),
    ],
)
def test_where_the_frames_of_a_video_end_by_its_own_words(
    container: str, data: bytes, end: int | None
) -> None:
    with tempfile.TemporaryFile() as stream:
        stream.write(data)
        stream.flush()
        assert frames_end(stream, container) == end


# --- which files -------------------------------------------------------------------------------


def test_folders_are_searched_in_order_and_what_is_missing_is_told(put: Put) -> None:
    for name in ("b/2.JPG", "b/1.png", "a/x.mp4", "a/notes.txt", "a/deep/y.webp"):
        root = put(f"pictures/{name}", b"").parents[len(Path(name).parts) - 1]
    alone = put("alone", b"")
    empty = root.parent / "empty"
    empty.mkdir()
    found = list(sources([alone, root, empty, root / "nothing"]))
    assert [each for each in found if isinstance(each, Source)] == [
        Source(alone, Path("alone")),
        Source(root / "a/x.mp4", Path("pictures/a/x.mp4")),
        Source(root / "a/deep/y.webp", Path("pictures/a/deep/y.webp")),
        Source(root / "b/1.png", Path("pictures/b/1.png")),
        Source(root / "b/2.JPG", Path("pictures/b/2.JPG")),
    ]
    assert [each for each in found if isinstance(each, PassedOver)] == [PassedOver(root, 1)]
    assert [each.path for each in found if isinstance(each, Unreadable)] == [
        empty,
        root / "nothing",
    ]


def test_pictures_that_cannot_be_read_are_told_and_other_files_counted(
    model: Model, put: Put
) -> None:
    told = ["a.tiff", "b.HEIC", "c.avif", "d.gif", "e.wmv"]
    for name in (*told, "labels.txt", "labels.json", "README"):
        root = put(f"pictures/{name}", b"whatever it is").parent
    put("pictures/frame", BARE.read_bytes())
    os.mkfifo(root / "pipe")
    *found, passed_over = sources([root])
    assert passed_over == PassedOver(root, 4)
    files = [each.path for each in found if isinstance(each, Source)]
    assert [path.name for path in files] == [*told, "frame"]
    assert len(files) == len(found)
    *others, frame = files
    for path in others:
        assert fault(path, Eye(model)).startswith("type: neither a picture")
    assert "head" in labels(only(frame, Eye(model)))


def test_a_large_file_that_is_no_picture_is_not_taken_for_one(
    model: Model, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smartsite.detecting.MAX_BYTES", 1_000)
    assert fault(put("long.wmv", bytes(2_000)), Eye(model)).startswith("type: neither a picture")
    assert "more than 1000 bytes" in fault(BARE, Eye(model))


def test_a_folder_that_cannot_be_entered_is_told(put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    root = put("pictures/a/1.jpg", b"").parents[1]
    put("pictures/b/2.jpg", b"")
    scandir = os.scandir

    def refusing(path: str) -> object:
        if Path(path).name == "a":
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    assert list(sources([root])) == [
        Unreadable(root / "a", "Permission denied"),
        Source(root / "b/2.jpg", Path("pictures/b/2.jpg")),
    ]
    assert list(sources([root / "a"])) == [Unreadable(root / "a", "Permission denied")]


def test_only_files_are_opened_and_nothing_is_waited_for(model: Model, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    os.mkfifo(folder / "a-pipe.jpg")
    (folder / "b-link.jpg").symlink_to(BARE)
    (folder / "c-loop.jpg").symlink_to(folder / "c-loop.jpg")
    (folder / "d-folders").symlink_to(folder, target_is_directory=True)
    (folder / "e-gone.jpg").symlink_to(folder / "nothing")
    (folder / "f-device.mp4").symlink_to("/dev/zero")
    pipe = folder / "a-pipe.jpg"
    assert list(sources([folder, pipe])) == [
        Unreadable(pipe, "is no file"),
        Source(folder / "b-link.jpg", Path("pictures/b-link.jpg")),
        Unreadable(folder / "c-loop.jpg", "is not there"),
        Unreadable(folder / "e-gone.jpg", "is not there"),
        Unreadable(folder / "f-device.mp4", "is no file"),
        Unreadable(pipe, "is no file"),
    ]
    # One that took a file's place meanwhile.
    assert fault(pipe, Eye(model)) == "is no file"
    assert frames_of(pipe) == 1


# --- the second look ---------------------------------------------------------------------------


class Doubter:
    """Says of every head what it was told to, and keeps what it was shown."""

    least = 0.6

    def __init__(self, share: float) -> None:
        self.share = share
        self.shown: list[Image] = []

    def __call__(self, crops: Sequence[Image], /) -> list[float]:
        self.shown += crops
        return [self.share] * len(crops)


@pytest.mark.parametrize(("share", "label"), [(0.59, "head"), (0.6, "helmet")])
def test_the_second_look_takes_a_helmet_away(model: Model, share: float, label: str) -> None:
    doubter = Doubter(share)
    seen = only(HELMET, Eye(model, second_look=doubter))
    assert sorted(labels(seen)) == sorted([label, "person", "vest"])
    (crop,) = doubter.shown
    assert crop.shape == (SIDE, SIDE, 3)
    shares = {found.box.label: found.second_look for found in seen.found}
    assert shares == {label: share, "person": None, "vest": None}


class Flickering:
    """Doubts every third time."""

    least = 0.5

    def __init__(self, usual: float, seldom: float) -> None:
        self.usual, self.seldom = usual, seldom
        self.asked = 0

    def __call__(self, crops: Sequence[Image], /) -> list[float]:
        self.asked += len(crops)
        return [self.usual if self.asked % 3 else self.seldom] * len(crops)


@pytest.fixture
def worn(tmp_path: Path) -> Path:
    """Nine frames of one helmet."""
    path = tmp_path / "worn.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 2, (768, 432))
    for _ in range(9):
        writer.write(image_of(HELMET))
    writer.release()
    return path


@pytest.mark.parametrize(("usual", "seldom", "label"), [(0.9, 0.3, "helmet"), (0.1, 0.7, "head")])
def test_on_a_video_the_verdict_is_by_all_that_was_heard_of_a_head(
    model: Model, worn: Path, usual: float, seldom: float, label: str
) -> None:
    look = Flickering(usual, seldom)
    found = [seen for seen in look_at(worn, Eye(model, second_look=look)) if isinstance(seen, Seen)]
    assert look.asked == len(found) == 9  # of every frame, and told as it was said
    heads = [next(f for f in seen.found if f.second_look is not None) for seen in found]
    assert [each.second_look for each in heads] == [usual, usual, seldom] * 3
    assert {each.box.label for each in heads} == {label}
    # With a least score nothing is decided.
    raw = list(look_at(worn, Eye(model, 0.4, Flickering(usual, seldom))))
    assert all("helmet" in labels(seen) for seen in raw if isinstance(seen, Seen))


def test_the_second_look_leaves_a_bare_head_bare(model: Model) -> None:
    assert "head" in labels(only(BARE, Eye(model, second_look=Doubter(0.99))))


def test_with_a_least_score_the_second_look_is_only_told(model: Model) -> None:
    seen = only(HELMET, Eye(model, 0.4, Doubter(0.1)))
    assert "helmet" in labels(seen)
    told = {each["class"]: each.get("second_look") for each in as_json(seen)["detections"]}
    assert told == {"helmet": 0.1, "person": None, "vest": None}


def test_the_second_look_is_shown_the_original(
    model: Model, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[tuple[int, ...]] = []

    def crop(image: Image, _box: object) -> Image:
        shown.append(image.shape)
        return np.zeros((SIDE, SIDE, 3), np.uint8)

    monkeypatch.setattr("smartsite.detecting.head_crop", crop)
    large = cv2.resize(image_of(BARE), (3_072, 1_728)).astype(np.uint8)
    only(put("large.jpg", encoded(".jpg", large)), Eye(model, second_look=Doubter(0.5)))
    assert shown == [(1_728, 3_072, 3)]  # although the model took a quarter of that


# --- what is told and drawn --------------------------------------------------------------------


def test_a_line_for_machines() -> None:
    box = Box("helmet", 0.5, (1.0, 2.0, 3.5, 4.0))
    seen = Seen(Path("a.jpg"), None, 10, 20, (Found(box),), None)
    assert as_json(seen) == {
        "path": "a.jpg",
        "width": 10,
        "height": 20,
        "detections": [{"class": "helmet", "score": 0.5, "box": [1.0, 2.0, 3.5, 4.0]}],
    }
    assert as_json(Unreadable(Path("b"), "gone")) == {"path": "b", "error": "gone"}


def test_a_name_that_is_no_utf_8_can_be_told() -> None:
    path = Path(os.fsdecode(b"\xff.jpg"))
    line = as_json(Unreadable(path, "gone"))
    assert msgspec.json.decode(msgspec.json.encode(line)) == {"path": "\\xff.jpg", "error": "gone"}


def test_boxes_are_drawn_on_a_copy() -> None:
    image = np.zeros((100, 200, 3), np.uint8)
    drawn = annotated(image, [Found(Box("head", 0.9, (50, 40, 90, 80)))])
    assert not image.any()
    assert drawn[40, 70].any()
    assert not drawn[60, 70].any()


LEAST = {"helmet": 0.4, "head": 0.4, "person": 0.4}
HAT = Box("helmet", 0.8, (100, 100, 140, 140))
HAIR = Box("head", 0.8, (300, 100, 340, 140))


def test_of_all_heads_only_bare_ones_stay_readable() -> None:
    people = [Box("person", 0.9, (x, 95, x + 80, 300)) for x in (80, 280, 480)]
    (hat, unseen), kept = bystanders([HAT, HAIR, *people], LEAST)
    assert kept == (HAIR.box,)
    assert hat == HAT.box
    assert unseen[0] > 480
    assert unseen[3] < 160


@pytest.mark.parametrize(("score", "hidden"), [(0.3, True), (0.7, True), (0.9, False)])
def test_of_a_helmet_and_a_head_in_one_place_the_better_counts(score: float, hidden: bool) -> None:
    both = [HAT, Box("head", score, (102, 100, 142, 141))]
    assert bool(bystanders(both, LEAST).hidden) is hidden


def test_what_does_not_count_hides_nothing() -> None:
    boxes = [Box("helmet", 0.2, HAT.box), Box("vest", 0.9, HAT.box)]
    assert bystanders(boxes, LEAST) == Concealed()


@pytest.mark.parametrize("min_score", [None, 0.01, 0.95])
def test_who_is_hidden_does_not_depend_on_what_is_asked_for(
    model: Model, min_score: float | None
) -> None:
    seen = only(HELMET, Eye(model, min_score))
    (hidden,) = seen.concealed.hidden
    (helmet,) = (each.box for each in only(HELMET, Eye(model)).found if each.box.label == "helmet")
    assert hidden == helmet.box
    assert only(BARE, Eye(model, min_score)).concealed.hidden == ()


def test_hidden_heads_are_unreadable_on_the_copy_alone() -> None:
    image = np.random.default_rng(1).integers(0, 256, (240, 320, 3), np.uint8)
    drawn = annotated(image, [], Concealed((HAT.box,)))
    assert drawn[100:140, 100:140].std() < image[100:140, 100:140].std() / 4
    assert (drawn[160:] == image[160:]).all()


def test_copies_have_names_of_their_own() -> None:
    folder = Path("copies")
    assert annotated_path(folder, Path("a/b.jpg"), None) == folder / "a/b.jpg"
    assert annotated_path(folder, Path("a/b.png"), None) == folder / "a/b.png.jpg"
    assert annotated_path(folder, Path("c.mp4"), 7) == folder / "c.mp4/000007.jpg"
