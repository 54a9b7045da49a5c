"""Events of AI boxes: verdict, boxes and picture, each refused by itself."""

import base64
import json
from typing import Any

import pytest

from device_profiles.decoding.events import MAX_BOXES, ReportedEvent, event_decoder
from device_profiles.decoding.terms import Terms
from device_profiles.decoding.times import AT_RECEIPT
from device_profiles.errors import Reason, Rejected
from tests.unit.device_profiles.sheets import AT, sheet

PICTURE = b"\xff\xd8\xff\xe0 not decoded here"
TEXT = base64.b64encode(PICTURE).decode()
BASE: dict[str, Any] = {
    "id": "test-event",
    "title": "a test",
    "kind": "camera",
    "format": "event",
    "time": {"at": "t", "format": "epoch_s"},
    "picture": {"at": "image"},
    "verdict": {"at": "alg", "words": {"helmet": "no_helmet", "7": "smoke_fire"}, "score": "conf"},
    "boxes": {"each": "boxes[*]", "at": "xyxy", "label": "label", "score": "conf",
              "labels": {"未戴": "no_helmet"}},
}  # fmt: skip


def read(changes: dict[str, Any] | None = None, **message: Any) -> ReportedEvent:
    given = {"t": AT, "alg": "helmet", "image": TEXT} | message
    return event_decoder(sheet(BASE, **(changes or {})))(json.dumps(given).encode())


def test_an_event_says_what_and_where() -> None:
    box = {"xyxy": [1, 2, 30, 40], "label": " 未戴 ", "conf": "0.9"}
    event = read(boxes=[box], conf=0.5)
    assert (event.what, event.score, event.picture) == ("no_helmet", 0.5, PICTURE)
    assert event.reported_us == AT * 1_000_000
    (found,) = event.boxes
    assert (found.label, found.score, found.box, found.relative) == (
        "no_helmet", 0.9, (1, 2, 30, 40), False,
    )  # fmt: skip
    assert (event.notes, event.refused, event.device) == ((), (), "")


@pytest.mark.parametrize(
    ("alg", "what", "notes"),
    [
        ("helmet", "no_helmet", 0),
        (" helmet ", "no_helmet", 0),
        (7, "smoke_fire", 0),
        ("7", "smoke_fire", 0),
        ("crowd", "other", 1),
        (8, "other", 1),
    ],
)
def test_verdicts_are_words_or_numbers(alg: Any, what: str, notes: int) -> None:
    event = read(alg=alg)
    assert event.what == what
    assert len(event.notes) == notes


@pytest.mark.parametrize("alg", [None, "", " ", [], {}, True, 7.0])
def test_without_a_verdict_there_is_no_event(alg: Any) -> None:
    with pytest.raises(Rejected) as caught:
        read(alg=alg)
    assert caught.value.reason is Reason.INCOMPLETE
    assert read({"verdict": {"what": "no_vest"}}, alg=alg).what == "no_vest"


@pytest.mark.parametrize(
    ("form", "four", "box"),
    [
        ("xyxy", [10, 20, 50, 80], (10, 20, 50, 80)),
        ("xywh", [10, 20, 40, 60], (10, 20, 50, 80)),
        ("cxcywh", [30, 50, 40, 60], (10, 20, 50, 80)),
        ("xyxy", ["10", " 20", "50.5", 80.25], (10, 20, 50.5, 80.25)),
    ],
)
def test_boxes_come_in_three_forms(form: str, four: list[Any], box: tuple[float, ...]) -> None:
    as_list = read({"boxes": {"at": "b", "form": form}}, b=four)
    assert as_list.boxes[0].box == box
    places = {"four": ["p.x", "p.y", "p.a", "p.b"], "form": form}
    in_fields = read({"boxes": places}, p=dict(zip("xyab", four, strict=True)))
    assert in_fields.boxes[0].box == box
    nested = {"each": "list[*]", "four": ["[0]", "[1]", "[2]", "[3]"], "label": "[4]", "form": form}
    assert read({"boxes": nested}, list=[[*four, 1]]).boxes[0].label == "1"


@pytest.mark.parametrize(
    ("scale", "box", "reason"),
    [
        ("pixels", [50, 20, 10, 80], Reason.RANGE),
        ("pixels", [10, 20, 10, 80], Reason.RANGE),
        ("pixels", [-200, 20, 10, 80], Reason.RANGE),
        ("pixels", [0, 0, 1e6, 80], Reason.RANGE),
        ("pixels", [0, 0, "inf", 80], Reason.TYPE),
        ("pixels", [0, 0, 5], Reason.TYPE),
        ("pixels", "0,0,5,5", Reason.TYPE),
        ("pixels", None, Reason.TYPE),
        ("relative", [0.1, 0.1, 0.2, 1.1], Reason.RANGE),
        ("relative", [10, 10, 20, 20], Reason.RANGE),
    ],
)
def test_what_is_no_box_is_refused_alone(scale: str, box: Any, reason: Reason) -> None:
    right = [0.1, 0.1, 0.2, 0.3]
    event = read(
        {"boxes": {"each": "b[*]", "at": "at", "scale": scale}}, b=[{"at": box}, {"at": right}]
    )
    assert len(event.boxes) == 1
    (refused,) = event.refused
    assert (refused.field, refused.reason) == ("boxes", reason)


def test_boxes_are_bounded() -> None:
    event = read(boxes=[{"xyxy": [0, 0, 1, 1]}] * (MAX_BOXES + 5))
    assert len(event.boxes) == MAX_BOXES
    assert event.notes == (f"{MAX_BOXES + 5} boxes, the first {MAX_BOXES} are read",)
    assert read(boxes=None).boxes == ()
    assert read(boxes={"a": {"xyxy": [0, 0, 1, 1]}}).boxes[0].label == ""


@pytest.mark.parametrize(
    ("percent", "raw", "score"),
    [(False, 0.5, 0.5), (False, "1", 1.0), (True, 87.5, 0.875), (True, 1, 0.01), (False, "", None)],
)
def test_scores_are_shares_or_percent(percent: bool, raw: Any, score: float | None) -> None:
    verdict = BASE["verdict"] | {"percent": percent}
    event = read({"verdict": verdict}, conf=raw)
    assert (event.score, event.refused) == (score, ())


@pytest.mark.parametrize("raw", [87.5, -0.1, "high", [1], True])
def test_what_is_no_score_is_refused_alone(raw: Any) -> None:
    event = read(conf=raw)
    assert event.score is None
    assert [part.field for part in event.refused] == ["score"]


@pytest.mark.parametrize(
    "image",
    [
        TEXT,
        f"data:image/jpeg;base64,{TEXT}",
        f" {TEXT[:20]}\r\n{TEXT[20:]}\n",
        f"data:;base64,{TEXT}",
    ],
)
def test_pictures_are_base64_in_every_dress(image: str) -> None:
    assert read(image=image).picture == PICTURE


@pytest.mark.parametrize(
    "address", ["https://pictures.example/a.jpg?Expires=1", "http://192.0.2.1/"]
)
def test_pictures_may_be_addresses(address: str) -> None:
    event = read(image=address)
    assert (event.picture, event.picture_url) == (None, address)
    assert read({"picture": {"at": "image", "form": "url"}}, image=address).picture_url == address
    event = read({"picture": {"at": "image", "form": "base64"}}, image=address)
    assert (event.picture, event.picture_url) == (None, None)
    assert event.refused[0].reason is Reason.ENCODING


@pytest.mark.parametrize(
    ("form", "image", "reason"),
    [
        ("auto", "img1_base64", Reason.ENCODING),
        ("auto", TEXT[:-3], Reason.ENCODING),
        ("auto", "data:image/jpeg," + TEXT, Reason.ENCODING),
        ("auto", "data:image/jpeg;base64", Reason.ENCODING),
        ("auto", "图片", Reason.ENCODING),
        ("auto", "http://a b/", Reason.TYPE),
        ("auto", "http://" + "a" * 3_000, Reason.TYPE),
        ("auto", "http://a\n.example/", Reason.TYPE),
        ("auto", [TEXT], Reason.TYPE),
        ("auto", 5, Reason.TYPE),
        ("url", TEXT, Reason.TYPE),
        ("url", "file:///etc/passwd", Reason.TYPE),
        ("url", "ftp://pictures.example/a.jpg", Reason.TYPE),
    ],
)
def test_what_is_no_picture_is_refused_alone(form: str, image: Any, reason: Reason) -> None:
    event = read({"picture": {"at": "image", "form": form}}, image=image)
    assert (event.what, event.picture, event.picture_url) == ("no_helmet", None, None)
    assert [(part.field, part.reason) for part in event.refused] == [("picture", reason)]


@pytest.mark.parametrize("image", [None, ""])
def test_an_event_may_lack_its_picture(image: Any) -> None:
    event = read(image=image)
    assert (event.picture, event.notes) == (None, ("the event has no picture",))


def test_times_of_events() -> None:
    with pytest.raises(Rejected, match="no time where"):
        read(t=None)
    lacking = read({"time": {"at": "t", "format": "epoch_s", "absent": "received"}}, t=None)
    assert lacking.reported_us == AT_RECEIPT
    local = sheet(BASE, time={"at": "t", "format": "%Y%m%d%H%M%S", "zone": "Asia/Shanghai"})
    payload = json.dumps({"t": "20260301090203", "alg": "helmet"}).encode()
    assert event_decoder(local)(payload).reported_us == AT * 1_000_000
    utc = event_decoder(local, Terms(zone="UTC"))(payload)
    assert utc.reported_us - AT * 1_000_000 == 8 * 3_600_000_000


@pytest.mark.parametrize(("raw", "device"), [("cam-1", "cam-1"), (7, "7"), (None, ""), ([], "")])
def test_the_message_may_say_whose_it_is(raw: Any, device: str) -> None:
    assert read({"each": {"device": "who"}}, who=raw).device == device


@pytest.mark.parametrize("payload", [b"", b"[]", b"5", b"\xff", b"{"])
def test_what_is_no_event(payload: bytes) -> None:
    with pytest.raises(Rejected):
        event_decoder(sheet(BASE))(payload)


def test_names_that_no_text_can_hold_can_be_shown_all_the_same() -> None:
    event = read(
        {"each": {"device": "cam"}},
        cam="C\ud83d",
        alg="\ud83d",
        boxes=[{"xyxy": [1, 2, 30, 40], "label": "\ud83d"}],
    )
    assert (event.device, event.what, event.boxes[0].label) == ("C?", "other", "?")
    assert all(note.isprintable() for note in event.notes)
