"""`smartsite detect`, `camera doctor` and `bench vision`, as people run them."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from tests.unit.vision.tiny_onnx import always

Smartsite = Callable[..., subprocess.CompletedProcess[str]]

CLIPS = Path(__file__).resolve().parents[2] / "simulators" / "clips"
BARE = CLIPS / "one-by-one" / "00800.jpg"
HELMET = CLIPS / "worker-zone" / "00066.jpg"


def lines(run: subprocess.CompletedProcess[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in run.stdout.splitlines()]


def test_detect_tells_a_line_a_picture_and_fails_for_what_it_cannot_read(
    smartsite: Smartsite, folder: Path
) -> None:
    pictures = folder / "pictures"
    pictures.mkdir()
    shutil.copy(BARE, pictures / "a.jpg")
    (pictures / "b.jpg").write_bytes(BARE.read_bytes()[:9_000])
    shutil.copy(HELMET, pictures / "c.jpg")
    writer = cv2.VideoWriter(
        str(folder / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (768, 432)
    )
    for _ in range(3):
        picture = cv2.imread(str(HELMET))
        assert picture is not None
        writer.write(picture)
    writer.release()

    run = smartsite("detect", "pictures", "clip.avi", "nothing.jpg", "--json", "--annotate", "out")
    assert run.returncode == 1
    assert "2 files could not be read" in run.stderr
    assert "Traceback" not in run.stderr
    found = lines(run)
    assert [line["path"] for line in found] == [
        "pictures/a.jpg",
        "pictures/b.jpg",
        "pictures/c.jpg",
        *["clip.avi"] * 3,
        "nothing.jpg",
    ]
    bare, broken, helmet, *frames, missing = found
    assert set(bare) == {"path", "width", "height", "detections"}
    assert (bare["width"], bare["height"]) == (768, 432)
    seen = {each["class"]: each for each in bare["detections"]}  # type: ignore[attr-defined]
    assert set(seen) == {"head", "person", "no_vest"}
    assert set(seen["head"]) - {"second_look"} == {"class", "score", "box"}
    x1, y1, x2, y2 = seen["head"]["box"]
    assert 380 < x1 < x2 < 500
    assert 0 < y1 < y2 < 140
    assert set(broken) == set(missing) == {"path", "error"}
    assert "cut off" in str(broken["error"])
    assert "helmet" in {each["class"] for each in helmet["detections"]}  # type: ignore[attr-defined]
    assert [frame["frame"] for frame in frames] == [0, 1, 2]
    copies = {str(path.relative_to(folder / "out")) for path in (folder / "out").rglob("*.jpg")}
    assert copies == {
        "pictures/a.jpg",
        "pictures/c.jpg",
        *(f"clip.avi/00000{number}.jpg" for number in range(3)),
    }


def test_detect_conceals_heads_tells_faults_itself_and_waits_for_no_pipe(
    smartsite: Smartsite, folder: Path
) -> None:
    pictures = folder / "pictures"
    pictures.mkdir()
    shutil.copy(HELMET, pictures / "helmet.jpg")
    shutil.copy(BARE, pictures / "bare.jpg")
    # libjpeg warns of the one, FFmpeg and OpenCV of the other, on standard error.
    (pictures / "cut.jpg").write_bytes(BARE.read_bytes()[:20_000] + b"\xff\xd9")
    (pictures / "cut.mp4").write_bytes(b"\x00\x00\x00\x18ftypmp42" + bytes(500))
    os.mkfifo(pictures / "pipe.jpg")

    run = smartsite("detect", "pictures", "--json", "--annotate", "out")
    assert run.returncode == 1
    assert run.stderr.strip() == "3 files could not be read, or not to their ends"
    found = {str(line["path"]).split("/")[1]: line for line in lines(run)}
    assert {name for name, line in found.items() if "error" in line} == {
        "cut.jpg",
        "cut.mp4",
        "pipe.jpg",
    }
    kept = smartsite("detect", "pictures/helmet.jpg", "--annotate", "kept", "--keep-faces")
    assert kept.stderr == ""

    for name, kind in (("helmet.jpg", "helmet"), ("bare.jpg", "head")):
        (box,) = (each["box"] for each in found[name]["detections"] if each["class"] == kind)  # type: ignore[attr-defined]
        left, top, right, bottom = (round(side) for side in box)
        # Clear of the lines and letters that are drawn.
        inside = np.s_[top + 6 : (2 * top + bottom) // 3, left + 4 : right - 4]
        shares = [
            detail(folder / copy / name, inside) / detail(pictures / name, inside)
            for copy in ("out/pictures", "kept")
            if (folder / copy / name).exists()
        ]
        assert [share < 0.4 for share in shares] == ([True, False] if kind == "helmet" else [False])


def detail(path: Path, part: tuple[slice, ...]) -> float:
    picture = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    assert picture is not None
    return float(cv2.Laplacian(picture[part], cv2.CV_64F).std())


def test_detect_gives_every_box_from_a_score_on(smartsite: Smartsite) -> None:
    (usual,) = lines(smartsite("detect", str(BARE), "--json"))
    run = smartsite("detect", str(BARE), "--json", "--min-score", "0.01")
    assert run.returncode == 0
    (every,) = lines(run)
    detections = every["detections"]
    assert isinstance(detections, list)
    assert isinstance(usual["detections"], list)
    assert len(detections) > len(usual["detections"])
    scores = [each["score"] for each in detections]
    assert scores == sorted(scores, reverse=True)
    assert min(scores) < 0.2


def test_detect_never_writes_over_what_it_looks_at(smartsite: Smartsite, folder: Path) -> None:
    shutil.copy(BARE, folder / "a.jpg")
    run = smartsite("detect", "a.jpg", "--annotate", ".")
    assert run.returncode == 78
    assert "would overwrite" in run.stderr
    assert (folder / "a.jpg").read_bytes() == BARE.read_bytes()


def test_a_model_that_sees_nothing_is_refused(smartsite: Smartsite, folder: Path) -> None:
    (folder / "mine.onnx").write_bytes(always(np.zeros((1, 5, 6), np.float32)))
    (folder / "smartsite.toml").write_text('[vision]\nmodel = "mine.onnx"\n')
    run = smartsite("detect", str(BARE))
    assert run.returncode == 78
    assert "mine.toml beside it" in run.stderr
    (folder / "mine.toml").write_text(
        'classes = ["helmet", "head"]\ninput_size = 64\n'
        '[preprocessing]\ncolour = "BGR"\n[output]\nlayout = "yolo"\n'
    )
    run = smartsite("detect", str(BARE))
    assert run.returncode == 78
    assert "does not see what people.jpg shows: no helmet" in run.stderr
    assert "Traceback" not in run.stderr
    run = smartsite("detect", str(BARE), SMARTSITE_VISION__SELF_TEST="false")
    assert run.returncode == 0
    assert run.stdout.strip().endswith(": nothing")


def test_the_doctor_tells_a_fit_camera_from_an_unfit_one(
    smartsite: Smartsite, folder: Path
) -> None:
    run = smartsite("camera", "doctor", "--file", str(CLIPS / "one-by-one"), "--json")
    assert run.returncode == 0
    report = json.loads(run.stdout)
    assert report["fit"] is True
    assert report["pictures"] == 31
    assert report["heads"]["seen"] > 10

    dark = folder / "dark"
    dark.mkdir()
    for path in sorted((CLIPS / "one-by-one").glob("*.jpg"))[:5]:
        picture = cv2.imread(str(path))
        assert picture is not None
        cv2.imwrite(str(dark / path.name), picture // 12)
    run = smartsite("camera", "doctor", "--file", "dark")
    assert run.returncode == 1
    assert "it is too dark" in run.stderr
    assert "not fit: dark" in run.stderr

    for wrong in ([], ["s/c", "--file", "dark"], ["nonsense"]):
        run = smartsite("camera", "doctor", *wrong)
        assert run.returncode == 78
        assert "Traceback" not in run.stderr


def test_the_benchmark_tells_its_figures(smartsite: Smartsite) -> None:
    run = smartsite("bench", "vision", "--rounds", "2", "--json")
    assert run.returncode == 0
    figures = json.loads(run.stdout)
    assert set(figures["sizes"]) == {"640x360", "1280x720", "1920x1080"}
    assert figures["memory_mb"] > 50
    assert figures["second_look_ms_a_head"] > 0
    assert figures["sizes"]["1280x720"]["reference_ms"] > 0
