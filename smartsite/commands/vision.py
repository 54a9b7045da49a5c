"""`smartsite detect`, `smartsite camera` and `smartsite bench vision`: what the eyes are worth."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

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
    from device_profiles.sites import CameraSettings
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


@contextlib.contextmanager
def _model_at_fault(settings: Settings) -> Iterator[None]:
    """What a model of one's own fails on late, on one picture of many, is told like all of it.

    Raises:
        Misconfigured: It failed.
    """
    from detectors.vision.errors import Misconfigured as Unusable

    try:
        yield
    except Unusable as fault:
        name = settings.vision.model or "that is shipped"
        raise Misconfigured(f"vision.model: the model {name} {fault}") from None


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
        Path | None,
        typer.Option(
            help="Write copies with the boxes drawn into this folder. Heads nobody is accused of"
            " (all but bare ones) are blurred on them."
        ),
    ] = None,
    keep_faces: Annotated[
        bool, typer.Option("--keep-faces", help="Blur no head on annotated copies.")
    ] = False,
    every: Annotated[
        int, typer.Option(min=1, help="Of a video, look at every so many frames only.")
    ] = 1,
    config: ConfigOption = None,
) -> None:
    """Say what the model sees in pictures and videos: helmets, bare heads, people, vests.

    With --json one object a line and picture: path, frame (videos, from 0), width, height and
    detections, each with class, score and box: x1, y1, x2, y2 in pixels of the picture, turned
    upright as a photograph's EXIF tag says; second_look is the probability of a helmet by the
    second look at this very picture, where it looked. What counts without --min-score goes by it;
    in a video by what it said of that head so far, taken together. A file that cannot be read gives
    path and error, and the command fails at its end. Files of a folder that are no pictures or
    videos by their names are passed over, and counted on standard error.
    """
    from smartsite import detecting

    settings = load_settings(config)
    eye = detecting.Eye(load_model(settings), min_score, load_second_look(settings))
    everything = list(detecting.sources(paths))
    found = [each for each in everything if not isinstance(each, detecting.PassedOver)]
    files = [each for each in found if isinstance(each, detecting.Source)]
    copies = None
    if annotate is not None:
        copies = Copies(annotate, files, keep_faces=keep_faces)
    failed = 0
    with (
        _model_at_fault(settings),
        _libraries_silent(),
        _progress(len(found)) as (progress, write),
    ):
        task = progress.add_task("looking", total=len(found))
        for number, each in enumerate(found, 1):
            if isinstance(each, detecting.Unreadable):
                write(_told(each, as_json=as_json))
                failed += 1
            else:
                frames = detecting.frames_of(each.path, every)
                share = 1 / frames
                for result in detecting.look_at(
                    each.path, eye, every=every, keep=copies is not None
                ):
                    write(_told(result, as_json=as_json))
                    if isinstance(result, detecting.Unreadable):
                        failed += 1
                    elif copies is not None:
                        copies.write(each, result)
                    if frames > 1:
                        progress.advance(task, share)
            progress.update(task, completed=number)  # whatever the file said it holds
    for passed in everything:
        if isinstance(passed, detecting.PassedOver):
            kinds = f"{_files(passed.files)} of other kinds"
            say(f"{detecting.shown(passed.path)}: passed over {kinds}")
    if failed:
        ends = "its end" if failed == 1 else "their ends"
        say(f"{_files(failed)} could not be read, or not to {ends}")
        raise typer.Exit(1)


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count} files"


class Copies:
    """The folder of the annotated copies."""

    def __init__(self, folder: Path, files: list[Source], *, keep_faces: bool) -> None:
        """Decide where each file's copy goes.

        Args:
            folder: Of the copies.
            files: All that are looked at.
            keep_faces: Blur no head.

        Raises:
            Misconfigured: The folder is none, or cannot be written to; or a copy would take the
                place of a file that is looked at.
        """
        self._folder = folder
        self._keep_faces = keep_faces
        self._names: dict[Path, Path] = {}
        self._taken: set[str] = set()
        self._folders: set[str] = set()
        originals = {file.path.resolve() for file in files}
        beside = {each for original in originals for each in original.parents}
        for file in files:
            if file.path in self._names:
                continue
            name = self._names[file.path] = self._free(file.name)
            picture, video = (each.resolve() for each in self._places(name))
            if picture in originals or video in beside:
                raise Misconfigured(
                    f"--annotate {folder}: the copy of {file.path} would overwrite an original;"
                    " name another folder"
                )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as fault:
            raise Misconfigured(
                f"--annotate {folder}: no folder that can be written to: {fault.strerror}"
            ) from None

    def _places(self, name: Path) -> tuple[Path, Path]:
        """Where a copy under this name would lie, and the copies of a video."""
        from smartsite.detecting import annotated_path

        picture = annotated_path(self._folder, name, None)
        return picture, annotated_path(self._folder, name, 0).parent

    def _free(self, wanted: Path) -> Path:
        """The first name by a number whose copies would lie where no other's do, and take it."""
        name, number = wanted, 1
        while True:
            # Many file systems do not tell large letters from small ones.
            places = {str(each).casefold() for each in self._places(name)}
            folders = {
                str(each).casefold() for place in self._places(name) for each in place.parents
            }
            within = folders & self._taken
            if not within and not places & (self._taken | self._folders):
                self._taken |= places
                self._folders |= folders
                return name
            number += 1
            if within:  # the folder's name is that of a file
                name = Path(f"{wanted.parts[0]}-{number}", *wanted.parts[1:])
            else:
                name = wanted.with_name(f"{wanted.stem}-{number}{wanted.suffix}")

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
        copy = annotated(seen.image, seen.found, None if self._keep_faces else seen.concealed)
        data = cv2.imencode(".jpg", copy)[1].tobytes()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        except OSError as fault:
            raise Misconfigured(f"--annotate: {path}: {fault.strerror}") from None


@contextlib.contextmanager
def _libraries_silent() -> Iterator[None]:
    """Nothing on standard error but what we say ourselves.

    What is wrong with a file, we say. libjpeg, FFmpeg and OpenCV say it, too, in words of their
    own, straight to descriptor 2, and amid the progress bar; libjpeg cannot be asked not to.
    """
    ours = sys.stderr
    sys.stderr.flush()
    kept = os.dup(2)
    nothing = os.open(os.devnull, os.O_WRONLY)
    try:
        with os.fdopen(kept, "w", buffering=1, encoding=ours.encoding, errors=ours.errors) as told:
            os.dup2(nothing, 2)
            if _is_descriptor_2(ours):
                sys.stderr = told
            try:
                yield
            finally:
                told.flush()
                os.dup2(kept, 2)
                sys.stderr = ours
    finally:
        os.close(nothing)


def _is_descriptor_2(stream: TextIO) -> bool:
    try:
        return stream.fileno() == 2
    except (OSError, ValueError):  # a test's, in memory
        return False


@contextlib.contextmanager
def _progress(total: int) -> Iterator[tuple[Progress, Callable[[str], None]]]:
    """A bar on a terminal's standard error, without a terminal nothing; and how to write results.

    Where they go to the terminal as well, they are written above the bar; a line stays one,
    however long.
    """
    together = sys.stdout.isatty() and sys.stderr.isatty()
    console = Console(stderr=not together)
    shown = console.is_interactive and total > 0

    def write(line: str) -> None:
        if together and shown:
            console.out(line, highlight=False)
        else:
            sys.stdout.write(line + "\n")
            sys.stdout.flush()

    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not shown,
        redirect_stdout=False,
    ) as progress:
        yield progress, write


def _told(result: Seen | Unreadable, *, as_json: bool) -> str:
    """What is written of a result: a line."""
    from smartsite.detecting import Seen, shown
    from smartsite.detecting import as_json as line

    if as_json:
        return msgspec.json.encode(line(result)).decode()
    where = shown(result.path) + (f" frame {result.frame}" if result.frame is not None else "")
    if not isinstance(result, Seen):
        return f"{where}: {result.error}"
    counts = Counter(found.box.label for found in result.found)
    seen = ", ".join(f"{count} {label}" for label, count in counts.items())
    return f"{where}: {seen or 'nothing'}"


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
        bool,
        typer.Option("--patrols", help="With --file: the camera is turned, scenes change."),
    ] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Say how fit a camera is: size, light, blur, a blocked or moved lens, heads, frame rate.

    Fails where its pictures cannot be relied on. What is told is what the service judges by, what
    is registered of the camera included; see docs/operations.md.
    """
    from device_profiles.sites import CameraSettings
    from smartsite import doctor as examining

    settings = load_settings(config)
    if (camera is None) == (not file):
        raise Misconfigured("name a camera, SITE/DEVICE, or pictures with --file, one of both")
    if camera is not None and patrols:
        raise Misconfigured(
            "--patrols goes with --file: of a camera, its registered `fixed` counts"
        )
    if camera is not None:
        registered, pictures = _newest(settings, camera, last)
    else:
        registered = CameraSettings(fixed=not patrols)
        pictures = examining.files(file or [], last)
    model = load_model(settings)
    with _model_at_fault(settings), _libraries_silent():
        report = examining.examine(
            pictures, model, registered, settings.rules, settings.vision.min_score
        )
    if isinstance(report, examining.NoneRead):
        faults = (f"{name}: {fault}" for name, fault in report.unreadable.items())
        raise Misconfigured(
            f"no picture of {camera or 'these'} can be read: {next(faults, 'there is none')}"
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


def _newest(settings: Settings, camera: str, last: int) -> tuple[CameraSettings, Iterator[Given]]:
    import psycopg

    from ingest.frame_store import FrameStore
    from ingest.store.migrate import require_latest
    from smartsite.doctor import kept, stored
    from smartsite.services import database

    site, device = site_and_device(camera)
    with database(settings) as url, psycopg.connect(url) as connection:
        require_latest(connection)
        found = stored(connection, site, device, last)
    if found is None:
        raise Misconfigured(f"there is no camera {camera}: see smartsite devices")
    if not found.frames:
        raise Misconfigured(f"{camera} has sent no frame yet")
    return found.camera, kept(FrameStore(settings.frame_dir), found.frames)
