"""What AI boxes report: their verdict, the boxes, and the picture they send or point at.

Their messages are as large as pictures, so they come by the role `frames`. The whole message is
kept in the frame store under its hash, as a frame is, and that hash stands in the raw segment: so
the verdict can be shown with the bytes it came from, although the picture in it is kept a second
time, under a hash of its own, for our own model to look at.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from device_profiles.decoding.events import ReportedBox, ReportedEvent
from device_profiles.decoding.times import AT_RECEIPT
from device_profiles.errors import Rejected
from device_profiles.jpeg import JpegHeader, read_jpeg_header
from ingest.pipeline import Arrivals
from ingest.profiles import kind_of_note
from ingest.registry import EventGateway, RegisteredDevice, Route, Routes, Use, reads_events

MAX_NOTES = 16


@dataclass(frozen=True, slots=True)
class Picture:
    """A JPEG that an event brought.

    Attributes:
        data: Its bytes.
        sha256: Their hash.
        header: What it says of itself.
    """

    data: bytes
    sha256: bytes
    header: JpegHeader


@dataclass(frozen=True, slots=True)
class Report:
    """An event that was understood.

    Attributes:
        device: The camera.
        payload_sha256: Hash of the whole message.
        reported_us: The box's own time, microseconds since 1970 UTC, or `AT_RECEIPT`.
        what: Its verdict, in the vocabulary's words.
        score: 0 to 1; None where it says none.
        said: Where it says it saw it.
        picture: What it sent; None: nothing, or nothing that can be used.
        url: Where its picture has yet to be fetched from.
        notes: What is odd, one line each.
    """

    device: RegisteredDevice
    payload_sha256: bytes
    reported_us: int
    what: str
    score: float | None
    said: tuple[ReportedBox, ...]
    picture: Picture | None
    url: str | None
    notes: tuple[str, ...]

    @property
    def profile(self) -> str:
        """Id of what it was read by."""
        return self.device.profile.sheet.id if self.device.profile else "native"

    @property
    def kinds_of_notes(self) -> list[str]:
        """What kinds of notes it has, to be counted."""
        return [kind_of_note(note) for note in self.notes]

    def observed_us(self, received_us: int) -> int:
        """The box's time, or that of receipt where it sends none."""
        return received_us if self.reported_us == AT_RECEIPT else self.reported_us

    @property
    def boxes(self) -> list[tuple[str, float, float, float, float, float]]:
        """Label, score and corners in pixels of the picture, rounded to 1e-3.

        A box without a score has the event's; where that has none either, 1: the box says it is
        there. What is said in shares of a picture we do not have is left out.
        """
        found = []
        header = self.picture.header if self.picture else None
        for one in self.said:
            if one.relative and header is None:
                continue
            width, height = (header.width, header.height) if one.relative and header else (1, 1)
            score = next((s for s in (one.score, self.score) if s is not None), 1.0)
            left, top, right, bottom = one.box
            found.append(
                (
                    one.label or self.what,
                    round(score, 3),
                    round(left * width, 3),
                    round(top * height, 3),
                    round(right * width, 3),
                    round(bottom * height, 3),
                )
            )
        return found

    def noting(self, note: str) -> Report:
        """The same with one more note and nothing to fetch."""
        return replace(self, notes=(*self.notes[: MAX_NOTES - 1], note), url=None)

    def with_picture(self, data: bytes) -> Report:
        """The same with a picture, if it is one.

        Args:
            data: What was sent or fetched.

        Returns:
            The report; with a note instead where it is no picture we can use.
        """
        try:
            header = read_jpeg_header(data)
        except Rejected as fault:
            return self.noting(f"its picture is not taken: {fault.detail}")
        picture = Picture(data, hashlib.sha256(data).digest(), header)
        return replace(self, picture=picture, url=None)


def read_report(route: Route | EventGateway, routes: Routes, payload: bytes) -> Report:
    """Read an AI box's message. Pure.

    Args:
        route: Where its topic leads.
        routes: Who is registered.
        payload: The message.

    Returns:
        What it says.

    Raises:
        Rejected: Nothing of it can be read, or its camera is not known.
    """
    report = route.report
    assert report is not None  # noqa: S101 - the caller has looked
    event = report(payload)
    device = routes.camera(route, event.device)
    own = route.device if isinstance(route, Route) else None
    if device is not own and device.terms.zone is not None and reads_events(device):
        event = routes.report_decoder(device)(payload)  # its clock is set to another zone
    return _understood(device, event, hashlib.sha256(payload).digest())


def _understood(device: RegisteredDevice, event: ReportedEvent, sha256: bytes) -> Report:
    notes = (*event.notes, *(f"{part.field}: {part.detail}" for part in event.refused))
    found = Report(
        device,
        sha256,
        event.reported_us,
        event.what,
        event.score,
        event.boxes,
        None,
        event.picture_url,
        notes[:MAX_NOTES],
    )
    return found if event.picture is None else found.with_picture(event.picture)


def read_reports(arrivals: Arrivals, routes: Routes) -> dict[int, Report | Rejected]:
    """Read the events among messages on cameras' topics. Pure.

    Args:
        arrivals: The messages.
        routes: Where topics lead.

    Returns:
        By index, what was understood or why it was not; messages that are no such events, and
        those above the limit, are not in it.
    """
    found: dict[int, Report | Rejected] = {}
    for index, (topic, payload) in enumerate(zip(arrivals.topics, arrivals.payloads, strict=True)):
        if index in arrivals.oversized:
            continue
        try:
            route = routes.known.get(topic) or routes.find(topic)
            if isinstance(route, EventGateway) or (
                isinstance(route, Route) and route.use is Use.REPORT
            ):
                found[index] = read_report(route, routes, payload)
        except Rejected as fault:
            found[index] = fault
    return found
