"""Events of AI cameras: what the box says it saw, with its picture. Pure.

The picture is base64 with or without a ``data:`` prefix, or an address that expires: then it is
for whoever calls to fetch it at once. A picture, a box or a score that cannot be read is refused
by itself: the verdict stands without it.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from typing import Any

import msgspec

from device_profiles.datasheets import Boxes, Datasheet
from device_profiles.decoding.mapped import parse_text
from device_profiles.decoding.terms import NO_TERMS, Terms
from device_profiles.decoding.times import AT_RECEIPT, NO_TIME_NOTE, time_reader
from device_profiles.decoding.values import name_in, number_in
from device_profiles.errors import Reason, Rejected, shown
from device_profiles.paths import MISSING, Find, finder, look_up, look_up_all, parse_path
from device_profiles.readings import Refused

MAX_BOXES = 200
MAX_URL_CHARS = 2_000
_LABEL_CHARS = 64
_DEVICE_CHARS = 128


class ReportedBox(msgspec.Struct, frozen=True):
    """Where an AI box says it saw something.

    Attributes:
        label: Its word, or ours where the datasheet translates it.
        score: 0 to 1; None where it says none.
        box: Left, top, right, bottom, in pixels or shares of the picture.
        relative: Whether they are shares.
    """

    label: str
    score: float | None
    box: tuple[float, float, float, float]
    relative: bool


class ReportedEvent(msgspec.Struct, frozen=True):
    """What an AI box reports.

    Attributes:
        reported_us: Its own time, microseconds since 1970 UTC, or `AT_RECEIPT`.
        what: Kind of verdict: "no_helmet", "no_vest", "intrusion", "smoke_fire", "other".
        score: 0 to 1; None where it says none.
        boxes: Where.
        picture: The picture's bytes; None where there is none or it has to be fetched.
        picture_url: Where to fetch it.
        notes: What is odd and was accepted.
        refused: What of it was not taken: a picture, a box, a score.
        device: External id of the camera, where the message says whose it is; "" where not.
    """

    reported_us: int
    what: str
    score: float | None
    boxes: tuple[ReportedBox, ...]
    picture: bytes | None = None
    picture_url: str | None = None
    notes: tuple[str, ...] = ()
    refused: tuple[Refused, ...] = ()
    device: str = ""


DecodeEvent = Callable[[bytes], ReportedEvent]


def event_decoder(sheet: Datasheet, terms: Terms = NO_TERMS) -> DecodeEvent:
    """Build the decoder of a make's events.

    Args:
        sheet: Of format `event`.
        terms: What is known of the device.

    Returns:
        A function from payload to event; it raises `Rejected`.
    """
    assert sheet.picture and sheet.verdict and sheet.time  # noqa: S101, PT018 - checked at load
    picture_at = finder(sheet.picture.at)
    form = sheet.picture.form
    verdict = sheet.verdict
    verdict_at = finder(verdict.at) if verdict.at else None
    score_at = finder(verdict.score) if verdict.score else None
    time = sheet.time
    time_at = finder(str(time.at)) if time.at is not None else None
    read_time = time_reader(time, terms.zone)
    read_boxes = _boxes_reader(sheet.boxes) if sheet.boxes else None
    device_at = finder(sheet.each.device) if sheet.each.device else None

    def decode(payload: bytes) -> ReportedEvent:
        message = parse_text(payload, sheet.encoding)
        if type(message) is not dict:
            raise Rejected(Reason.TYPE, f"{shown(message)} is not an object")
        notes: list[str] = []
        refused: list[Refused] = []
        raw_time = time_at(message) if time_at is not None else MISSING
        if raw_time is MISSING or raw_time is None or raw_time == "":
            if time.absent == "refuse":
                raise Rejected(Reason.TIME, "there is no time where the datasheet says")
            notes.append(NO_TIME_NOTE)
            reported_us = AT_RECEIPT
        else:
            reported_us = read_time(raw_time)
        what = verdict.what or _what(verdict_at, verdict.words, message, notes)
        raw_score = score_at(message) if score_at is not None else MISSING
        score = _score(raw_score, refused, percent=verdict.percent)
        boxes = read_boxes(message, notes, refused) if read_boxes is not None else ()
        picture, url = None, None
        raw_picture = picture_at(message)
        try:
            picture, url = _picture(raw_picture, form)
        except Rejected as fault:
            refused.append(Refused(fault.reason, fault.detail, "picture", shown(raw_picture)))
        else:
            if picture is None and url is None:
                notes.append("the event has no picture")
        raw_device = device_at(message) if device_at is not None else MISSING
        named = type(raw_device) is str or type(raw_device) is int
        device = name_in(raw_device, _DEVICE_CHARS) if named else ""
        return ReportedEvent(
            reported_us, what, score, boxes, picture, url, tuple(notes), tuple(refused), device
        )

    return decode


def _what(find: Find | None, words: dict[str, Any], message: Any, notes: list[str]) -> str:
    raw = find(message) if find is not None else MISSING
    word = str(raw).strip() if type(raw) is str or type(raw) is int else None
    if not word:
        raise Rejected(Reason.INCOMPLETE, "there is no verdict where the datasheet says")
    if word not in words:
        notes.append(f"verdict {shown(raw)} is not in the datasheet")
        return "other"
    return str(words[word])


def _score(raw: Any, refused: list[Refused], *, percent: bool) -> float | None:
    if raw is MISSING or raw is None or raw == "":
        return None
    most = 100 if percent else 1
    try:
        score = number_in(raw)
        if not 0 <= score <= most:
            raise Rejected(Reason.RANGE, f"score {shown(raw)} is not between 0 and {most}")
    except Rejected as fault:
        refused.append(Refused(fault.reason, fault.detail, "score", shown(raw)))
        return None
    return score / most


ReadBoxes = Callable[[Any, list[str], list[Refused]], tuple[ReportedBox, ...]]


def _boxes_reader(boxes: Boxes) -> ReadBoxes:
    each = parse_path(boxes.each, each=True) if boxes.each else None
    at = _any_finder(boxes.at) if boxes.at else None
    four = [_any_finder(path) for path in boxes.four or ()]
    label_at = _any_finder(boxes.label) if boxes.label else None
    score_at = _any_finder(boxes.score) if boxes.score else None
    relative = boxes.scale == "relative"
    most = 1.001 if relative else 100_000.0
    least = -0.001 * most

    def read_one(message: Any, refused: list[Refused]) -> ReportedBox:
        raw = at(message) if at is not None else [find(message) for find in four]
        if type(raw) is not list or len(raw) != 4 or MISSING in raw:
            raise Rejected(Reason.TYPE, f"box {shown(message)} has not four numbers")
        a, b, c, d = (number_in(one) for one in raw)
        match boxes.form:
            case "xywh":
                a, b, c, d = a, b, a + c, b + d
            case "cxcywh":
                a, b, c, d = a - c / 2, b - d / 2, a + c / 2, b + d / 2
        if not (least <= a < c <= most and least <= b < d <= most):
            raise Rejected(Reason.RANGE, f"box {shown(raw)} is no {boxes.form} in {boxes.scale}")
        raw_label = label_at(message) if label_at is not None else MISSING
        known = type(raw_label) is str or type(raw_label) is int
        label = name_in(raw_label, _LABEL_CHARS) if known else ""
        raw_score = score_at(message) if score_at is not None else MISSING
        score = _score(raw_score, refused, percent=boxes.percent)
        return ReportedBox(boxes.labels.get(label, label), score, (a, b, c, d), relative)

    def read(message: Any, notes: list[str], refused: list[Refused]) -> tuple[ReportedBox, ...]:
        found = look_up_all(message, each) if each is not None else [message]
        if len(found) > MAX_BOXES:
            notes.append(f"{len(found)} boxes, the first {MAX_BOXES} are read")
        read_boxes = []
        for one in found[:MAX_BOXES]:
            try:
                read_boxes.append(read_one(one, refused))
            except Rejected as fault:
                refused.append(Refused(fault.reason, fault.detail, "boxes", shown(one)))
        return tuple(read_boxes)

    return read


def _any_finder(path: str) -> Find:
    """Boxes may be lists, where other readings are objects."""
    steps = parse_path(path)
    return lambda message: look_up(message, steps)


def _picture(raw: Any, form: str) -> tuple[bytes | None, str | None]:
    if raw is MISSING or raw is None or raw == "":
        return None, None
    if type(raw) is not str:
        raise Rejected(Reason.TYPE, f"picture {shown(raw)} is neither base64 nor an address")
    text = raw.strip()
    if text.startswith(("http://", "https://")) and form != "base64":
        if len(text) > MAX_URL_CHARS or not text.isprintable() or " " in text:
            raise Rejected(Reason.TYPE, f"picture address {shown(text)} is no address")
        return None, text
    if form == "url":
        raise Rejected(Reason.TYPE, f"picture {shown(text)} is no http(s) address")
    if text.startswith("data:"):
        head, comma, text = text.partition(",")
        if not comma or not head.endswith(";base64"):
            raise Rejected(Reason.ENCODING, f"picture {shown(head)} is not base64")
    try:
        # Line ends within are common; anything else that is not base64 is refused.
        picture = base64.b64decode(text.replace("\r", "").replace("\n", ""), validate=True)
    except (binascii.Error, ValueError):
        raise Rejected(Reason.ENCODING, "the picture is not base64") from None
    return (picture or None), None
