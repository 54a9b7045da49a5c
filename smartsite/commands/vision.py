"""`smartsite detect`, `smartsite camera` and `smartsite bench vision`: what the eyes are worth."""

from __future__ import annotations

import contextlib
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from smartsite.commands.common import ConfigOption, JsonOption, print_json, say, site_and_device
from smartsite.errors import Misconfigured
from smartsite.settings import Settings, load_settings

if TYPE_CHECKING:
    from detectors.vision.model import Model
    from detectors.vision.second_look import SecondLook
    from smartsite.detecting import Seen, Source, Unreadable
    from smartsite.doctor import Given

app = typer.Typer(no_args_is_help=True, help="Cameras: are they fit to be looked through?")


def load_model(settings: Settings) -> Model:
    """Load the model the settings name.

    Args:
        settings: Section `vision`.

    Returns:
        The model, checked and warmed.

    Raises:
        Misconfigured: It cannot be used.
    """
    # Half a second of imports that no other command needs.
    from detectors.vision.errors import Misconfigured as Unusable
    from detectors.vision.model import Model

    vision = settings.vision
    try:
        return Model(
            vision.model, threads=vision.threads, device=vision.device, tested=vision.self_test
        )
    except Unusable as fault:
        raise Misconfigured(f"vision.model: {fault}") from None


def load_second_look(settings: Settings) -> SecondLook | None:
    """Load the classifier of heads, which goes with the shipped model.

    Args:
        settings: Section `vision`.

    Returns:
        It; None with another model.

    Raises:
        Misconfigured: It cannot be used.
    """
    from detectors.vision.errors import Misconfigured as Unusable
    from detectors.vision.second_look import SecondLook

    if settings.vision.model is not None:
        return None
    try:
        return SecondLook(threads=settings.vision.threads)
    except Unusable as fault:
        raise Misconfigured(str(fault)) from None


def detect(
    paths: Annotated[list[Path], typer.Argument(help="Pictures, videos, folders of them.")],
    as_json: JsonOption = False,
    min_score: Annotated[
        float | None,
        typer.Option(
            "--min-score",
            min=0,
            max=1,
            help="Every box from this score on, as it left the suppression. Default: what counts,"
            " by the model's operating point and the second look.",
        ),
    ] = None,
    annotate: Annotated[
        Path | None, typer.Option(help="Write copies with the boxes drawn into this folder.")
    ] = None,
    every: Annotated[
        int, typer.Option(min=1, help="Of a video, look at every so many frames only.")
    ] = 1,
    config: ConfigOption = None,
) -> None:
    """Say what the model sees in pictures and videos: helmets, bare heads, people, vests.

    With --json one object a line and picture: path, frame (videos, from 0), width, height and
    detections, each with class, score and box: x1, y1, x2, y2 in pixels of the picture, turned
    upright as a photograph's EXIF tag says. A file that cannot be read gives path and error, and
    the command fails at its end.
    """
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # what is wrong with a file, we say
    from smartsite import detecting

    settings = load_settings(config)
    eye = detecting.Eye(load_model(settings), min_score, load_second_look(settings))
    found = list(detecting.sources(paths))
    files = [each for each in found if isinstance(each, detecting.Source)]
    copies = Copies(annotate, files) if annotate is not None else None
    failed = 0
    with _progress(len(found)) as progress:
        task = progress.add_task("looking", total=len(found))
        for each in found:
            if isinstance(each, detecting.Unreadable):
                _tell(each, as_json=as_json)
                failed += 1
            else:
                frames = detecting.frames_of(each.path, every)
                share = 1 / frames
                for result in detecting.look_at(
                    each.path, eye, every=every, keep=copies is not None
                ):
                    _tell(result, as_json=as_json)
                    if isinstance(result, detecting.Unreadable):
                        failed += 1
                    elif copies is not None:
                        copies.write(each, result)
                    if frames > 1:
                        progress.advance(task, share)
                if frames > 1:
                    progress.update(task, completed=round(progress.tasks[0].completed))
                    continue
            progress.advance(task)
    if failed:
        say(f"{failed} files could not be read, or not to their end")
        raise typer.Exit(1)


class Copies:
    """The folder of the annotated copies."""

    def __init__(self, folder: Path, files: list[Source]) -> None:
        """Decide where each file's copy goes.

        Args:
            folder: Of the copies.
            files: All that are looked at.

        Raises:
            Misconfigured: A copy would take the place of a file that is looked at.
        """
        from smartsite.detecting import annotated_path

        originals = {file.path.resolve() for file in files}
        taken: Counter[Path] = Counter()
        self._folder = folder
        self._names: dict[Path, Path] = {}
        for file in files:
            name = file.name
            taken[name] += 1
            if taken[name] > 1:
                name = name.with_name(f"{name.stem}-{taken[name]}{name.suffix}")
            self._names[file.path] = name
            if annotated_path(folder, name, None).resolve() in originals:
                raise Misconfigured(
                    f"--annotate {folder}: the copy of {file.path} would overwrite an original;"
                    " name another folder"
                )

    def write(self, source: Source, seen: Seen) -> None:
        """Write a copy.

        Args:
            source: The file.
            seen: What was seen on it, with its picture.

        Raises:
            Misconfigured: The folder cannot be written to.
        """
        import cv2

        from smartsite.detecting import annotated, annotated_path

        assert seen.image is not None  # noqa: S101 - it was asked for
        path = annotated_path(self._folder, self._names[source.path], seen.frame)
        data = cv2.imencode(".jpg", annotated(seen.image, seen.found))[1].tobytes()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        except OSError as fault:
            raise Misconfigured(f"--annotate: {path}: {fault.strerror}") from None


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Progress]:
    """A bar on a terminal's standard error; without a terminal, nothing."""
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal or total == 0,
        # Results that go to a file are no business of the terminal's.
        redirect_stdout=sys.stdout.isatty(),
    ) as progress:
        yield progress


def _tell(result: Seen | Unreadable, *, as_json: bool) -> None:
    from smartsite.detecting import Seen, shown
    from smartsite.detecting import as_json as line

    if as_json:
        text = msgspec.json.encode(line(result)).decode()
    else:
        where = shown(result.path) + (f" frame {result.frame}" if result.frame is not None else "")
        if isinstance(result, Seen):
            counts = Counter(found.box.label for found in result.found)
            seen = ", ".join(f"{count} {label}" for label, count in counts.items())
            text = f"{where}: {seen or 'nothing'}"
        else:
            text = f"{where}: {result.error}"
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def bench(
    as_json: JsonOption = False,
    rounds: Annotated[int, typer.Option(min=1, help="How often each stage is timed.")] = 40,
) -> None:
    """Time looking at pictures, stage by stage, on one thread; and what fifty cameras hold."""
    from smartsite.bench.vision import measure

    result = measure(say, rounds=rounds)
    if as_json:
        print_json(result)
        return
    table = Table("figure", "value")
    for name, value in result.items():
        table.add_row(name, str(value))
    Console().print(table)


@app.command()
def doctor(
    camera: Annotated[
        str | None, typer.Argument(help="SITE/DEVICE: its newest frames of the store.")
    ] = None,
    file: Annotated[
        list[Path] | None,
        typer.Option(help="JPEGs or folders of them instead, in order; repeatable."),
    ] = None,
    last: Annotated[int, typer.Option(min=1, max=1_000, help="How many frames.")] = 60,
    patrols: Annotated[
        bool, typer.Option("--patrols", help="The camera is turned: scenes change.")
    ] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Say how fit a camera is: size, light, blur, a blocked or moved lens, heads, frame rate.

    Fails where its pictures cannot be relied on. What is told is what the service judges by; see
    docs/operations.md.
    """
    from smartsite import doctor as examining

    settings = load_settings(config)
    if (camera is None) == (not file):
        raise Misconfigured("name a camera, SITE/DEVICE, or pictures with --file, one of both")
    if camera is not None:
        pictures = _newest(settings, camera, last)
    else:
        pictures = list(examining.files(file or []))[-last:]
    report = examining.examine(pictures, load_model(settings), fixed=not patrols)
    if report is None:
        raise Misconfigured(
            f"no picture of {camera or 'these'} can be read: "
            + (f"{pictures[-1].name} is no JPEG, or gone" if pictures else "there is none")
        )
    if as_json:
        print_json(examining.as_json(report))
    else:
        table = Table("figure", "value")
        for name, value in examining.as_json(report).items():
            if name == "advice":
                continue
            shown = (
                ", ".join(f"{key} {each}" for key, each in value.items())
                if isinstance(value, dict)
                else value
            )
            table.add_row(name.replace("_", " "), str(shown))
        Console().print(table)
        for line in report.advice:
            say(line)
        say("fit" if report.fit else f"not fit: {report.unfit}")
    if not report.fit:
        raise typer.Exit(1)


def _newest(settings: Settings, camera: str, last: int) -> list[Given]:
    import psycopg

    from ingest.frame_store import FrameStore
    from ingest.store.migrate import require_latest
    from smartsite.doctor import stored
    from smartsite.services import database

    site, device = site_and_device(camera)
    with database(settings) as url, psycopg.connect(url) as connection:
        require_latest(connection)
        found = stored(connection, FrameStore(settings.frame_dir), site, device, last)
    if found is None:
        raise Misconfigured(f"there is no camera {camera}: see smartsite devices")
    if not found:
        raise Misconfigured(f"{camera} has sent no frame yet")
    return found
