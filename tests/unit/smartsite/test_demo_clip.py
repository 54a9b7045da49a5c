"""The demo's clip, from its JPEGs to the violations it must give: those, and no other."""

from __future__ import annotations

from datetime import timedelta
from itertools import groupby
from pathlib import Path

import pytest

from detectors.detector import Detector, Said
from detectors.helmets import RULE, HelmetDetector
from detectors.rules import Rules
from detectors.vision.model import Model
from detectors.vision.second_look import SecondLook
from device_profiles.readings import Detections, Source
from ingest.frame_store import FrameStore
from simulators.camera import PICTURES_PER_S, programme
from smartsite.eyes import Eyes, Leased, Look
from smartsite.settings import VisionSettings
from tests.unit.detectors.timelines import SITE, T0, at, coverage_of, findings_of, seconds, spans

CAMERA = "camera-1"
PATROLS = 2
SHOWN = programme() * PATROLS


def reading_of(look: Look, model: Model, place: int) -> Detections:
    frame = look.frame
    return Detections(
        site=SITE,
        device=CAMERA,
        observed_at=frame.observed_at,
        received_at=frame.received_at,
        source=Source(1, 1, place),
        frame_sha256=frame.sha256.hex(),
        model_sha256=model.sha256,
        width=look.header.width,
        height=look.header.height,
        boxes=look.boxes,
        still=look.still,
        unfit=look.unfit,
        fitness=dict(look.fitness),
        skipped=look.skipped,
    )


def watch(folder: Path, detector: Detector) -> list[Said]:
    """Look at the clip as the role `vision` does, and judge as the judge does."""
    model, store = Model(None), FrameStore(folder)
    eyes = Eyes(model, store, VisionSettings().min_score, SecondLook())
    said: list[Said] = []
    for place, picture in enumerate(SHOWN):
        now = at(place / PICTURES_PER_S)
        sha256 = store.put(picture.jpeg)
        ((_, look),) = eyes.look([Leased(1, SITE, CAMERA, now, now, sha256, {"fixed": False})])
        assert isinstance(look, Look)
        said += detector.observe(reading_of(look, model, place))
    return said + detector.finish(at(len(SHOWN) / PICTURES_PER_S))


def test_the_demos_clip_gives_exactly_its_violations(tmp_path: Path) -> None:
    said = watch(tmp_path, HelmetDetector(SITE, CAMERA, Rules().helmet))
    last = {one.identity: one for one in findings_of(said)}
    assert len(last) == PATROLS
    for patrol, violation in enumerate(last.values()):
        begin = 30.0 * patrol
        assert violation.closed_at is not None
        opened, closed = seconds(violation.opened_at), seconds(violation.closed_at)
        assert (opened, closed) == (begin + 1.5, begin + 12.5)
        assert (violation.rule, violation.site) == (RULE, SITE)
        # Once on each of the 23 pictures that show the bare head whole.
        assert violation.measured["sightings"] == 23
        camera, _, track = violation.subject.partition("#")
        opened_ms, _, where = track.partition("@")
        assert camera == CAMERA
        assert int(opened_ms) == (T0 + timedelta(seconds=opened)).timestamp() * 1000
        assert [float(part) for part in where.split(",")] == pytest.approx([295, 242], abs=4)
    # Each was said when it opened and when it ended; all the time between could be judged.
    ends = [one.closed_at is not None for one in findings_of(said)]
    assert ends == [False, True] * PATROLS
    assert spans(coverage_of(said)) == [(0.0, 1.5, "warming_up"), (1.5, 60.0, None)]


def test_and_these_are_what_the_pictures_show() -> None:
    bare = [
        [place / PICTURES_PER_S for place, _ in run]
        for shown, run in groupby(enumerate(SHOWN), lambda one: one[1].bare_head)
        if shown
    ]
    assert [(run[0], run[-1], len(run)) for run in bare] == [(1.5, 12.5, 23), (31.5, 42.5, 23)]
