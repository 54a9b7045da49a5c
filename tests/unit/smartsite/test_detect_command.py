"""`smartsite detect`: where its copies go, what a terminal shows, and what it refuses at once."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from detectors.vision.errors import Misconfigured as Unusable
from detectors.vision.model import Model
from smartsite.commands import vision
from smartsite.commands.vision import Copies
from smartsite.detecting import Seen, Source
from smartsite.errors import Misconfigured

BARE = Path(__file__).resolve().parents[3] / "simulators" / "clips" / "one-by-one" / "00800.jpg"


def copies_of(folder: Path, *names: str) -> list[str]:
    """Where the copies of files lie, named like this under one folder each."""
    files = [Source(Path(f"from-{number}") / name, Path(name)) for number, name in enumerate(names)]
    copies = Copies(folder, files, keep_faces=True)
    for number, file in enumerate(files):
        picture = np.full((8, 8, 3), 20 * number, np.uint8)
        frame = 0 if file.path.suffix == ".avi" else None
        copies.write(file, Seen(file.path, frame, 8, 8, (), picture))
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("names", "copies"),
    [
        (("a.jpg", "a.jpg", "a-2.jpg"), ["a-2-2.jpg", "a-2.jpg", "a.jpg"]),
        (("a2.png", "a2.png.jpg"), ["a2.png-2.jpg", "a2.png.jpg"]),
        (("a.jpg", "A.JPG"), ["A-2.JPG", "a.jpg"]),
        (
            ("a.avi", "a.avi", "a.avi.jpg"),
            ["a-2.avi/000000.jpg", "a.avi-2.jpg", "a.avi/000000.jpg"],
        ),
        (("x/a.avi", "x/a.avi/000000.jpg"), ["x-2/a.avi/000000.jpg", "x/a.avi/000000.jpg"]),
    ],
)
def test_every_picture_has_a_copy_of_its_own(
    tmp_path: Path, names: tuple[str, ...], copies: list[str]
) -> None:
    assert copies_of(tmp_path, *names) == copies


def detect(*paths: Path, as_json: bool = True, annotate: Path | None = None) -> None:
    vision.detect(
        paths=list(paths),
        as_json=as_json,
        min_score=None,
        annotate=annotate,
        keep_faces=False,
        every=1,
        config=None,
    )


@pytest.fixture
def nothing_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    def look_at(*_: Any, **__: Any) -> None:
        raise AssertionError("it was looked at")

    monkeypatch.setattr("smartsite.detecting.look_at", look_at)


@pytest.mark.usefixtures("nothing_is_looked_at")
def test_a_folder_of_copies_that_cannot_be_is_refused_before_the_first_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"kept")
    for folder in (file, file / "below"):
        with pytest.raises(Misconfigured, match=r"--annotate .* no folder that can be written to"):
            detect(BARE, annotate=folder)
    assert file.read_bytes() == b"kept"

    def refusing(**_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refusing)
    with pytest.raises(Misconfigured, match="Permission denied"):
        detect(BARE, annotate=tmp_path / "locked")


@pytest.mark.usefixtures("nothing_is_looked_at")
def test_the_frames_of_a_video_never_take_the_place_of_what_is_looked_at(tmp_path: Path) -> None:
    frame = tmp_path / "out" / "a.avi" / "000000.jpg"
    frame.parent.mkdir(parents=True)
    shutil.copy(BARE, frame)
    video = tmp_path / "a.avi"
    video.write_bytes(b"RIFF    AVI ")
    with pytest.raises(Misconfigured, match="would overwrite"):
        detect(video, frame, annotate=tmp_path / "out")


def test_a_model_that_fails_late_is_told_in_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Model()

    def see(*_: Any, **__: Any) -> None:
        raise Unusable("cannot be run on 1 × 3 × 288 × 480: no")

    monkeypatch.setattr(model, "see", see)
    monkeypatch.setattr(vision, "load_model", lambda _: model)
    with pytest.raises(Misconfigured, match=r"^vision\.model: the model .* cannot be run on 1 × 3"):
        detect(BARE)
    assert capsys.readouterr().out == ""


def test_what_was_not_looked_at_is_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "labels.txt").write_text("0 0.5 0.5 0.1 0.1")
    (tmp_path / "a.gif").write_bytes(b"GIF89a")
    with pytest.raises(typer.Exit):
        detect(tmp_path)
    told = capsys.readouterr()
    assert [set(json.loads(line)) for line in told.out.splitlines()] == [{"path", "error"}]
    assert told.err.splitlines() == [
        f"{tmp_path}: passed over 1 file of other kinds",
        "1 file could not be read, or not to its end",
    ]
    with pytest.raises(typer.Exit):
        detect(tmp_path / "a.gif", tmp_path / "gone.jpg")
    assert capsys.readouterr().err == "2 files could not be read, or not to their ends\n"


def some(descriptor: int) -> bytes:
    """What a terminal has to show; nothing where there is no more."""
    try:
        return os.read(descriptor, 4_096)
    except BlockingIOError:
        return b""


@pytest.mark.parametrize("term", ["xterm", "dumb"])
def test_a_line_stays_one_on_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, term: str
) -> None:
    path = tmp_path / ("long " * 40 + ".jpg")
    shutil.copy(BARE, path)
    monkeypatch.setenv("TERM", term)
    monkeypatch.setenv("COLUMNS", "80")
    ours, theirs = os.openpty()
    with os.fdopen(theirs, "w") as terminal, monkeypatch.context() as patched:
        patched.setattr("sys.stdout", terminal)
        patched.setattr("sys.stderr", terminal)
        detect(path, path)
        terminal.flush()
        os.set_blocking(ours, False)
        shown = b"".join(iter(lambda: some(ours), b"")).decode()
    os.close(ours)
    assert ("looking" in shown) is (term == "xterm")
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    lines = [json.loads(line) for line in plain.splitlines() if line.startswith("{")]
    assert [line["path"] for line in lines] == [str(path)] * 2
