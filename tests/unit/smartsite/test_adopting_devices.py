"""Whom an adoption takes, and how devices and offsets are named for people."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest

from device_profiles.vocabulary import Kind
from ingest.quarantine import PendingDevice, topic_pattern
from smartsite.commands.common import site_and_device
from smartsite.commands.devices import _advice, _all_of, _kind_of, offset_text
from smartsite.errors import Misconfigured

NOW = datetime(2026, 11, 21, tzinfo=UTC)


def pending(device: str, kind: Kind, **other: Any) -> PendingDevice:
    facts: dict[str, Any] = {
        "site": "yard",
        "device": device,
        "kind": kind,
        "prefix": "",
        "messages": 1,
        "first_received_at": NOW,
        "last_received_at": NOW,
        "site_registered": True,
        "district": "",
        "retired_at": None,
    }
    return PendingDevice(**facts | other)


WAITING = [
    pending("camera-1", Kind.CAMERA, retired_at=NOW),
    pending("crane-1", Kind.CRANE),
    pending("dust-1", Kind.DUST),
    pending("dust-1", Kind.CRANE, prefix="elsewhere"),
    pending("dust-2", Kind.DUST),
    pending("dust-2", Kind.CRANE),
    pending("dust-3", Kind.DUST, prefix="elsewhere"),
]


def test_a_whole_site_is_who_speaks_rightly_and_as_one_kind(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert _all_of(WAITING, "yard", None) == [
        ("yard", "crane-1", Kind.CRANE),
        ("yard", "dust-1", Kind.DUST),
    ]
    assert "left out: yard/dust-2 speaks as crane and as dust" in capsys.readouterr().err
    with pytest.raises(Misconfigured, match="'yard' can be adopted"):
        _all_of([], "yard", None)


def test_a_device_is_what_it_says_where_its_site_speaks() -> None:
    assert _kind_of(WAITING, "yard", "dust-1", None) is Kind.DUST
    assert _kind_of(WAITING, "yard", "dust-3", None) is Kind.DUST
    assert _kind_of(WAITING, "yard", "camera-1", None) is Kind.CAMERA
    assert _kind_of(WAITING, "yard", "dust-2", Kind.CRANE) is Kind.CRANE


def test_what_cannot_be_adopted_says_what_to_do() -> None:
    with pytest.raises(Misconfigured, match="crane and as dust: say which by --kind"):
        _kind_of(WAITING, "yard", "dust-2", None)
    with pytest.raises(Misconfigured, match=r"yard/dust-9.*devices pending"):
        _kind_of(WAITING, "yard", "dust-9", None)
    nowhere = pending("dust-1", Kind.DUST, site="nowhere", site_registered=False, district=None)
    with pytest.raises(Misconfigured, match="site import"):
        _kind_of([nowhere], "nowhere", "dust-1", Kind.DUST)


def test_who_waits_is_told_what_keeps_it() -> None:
    assert _advice(pending("d", Kind.DUST)) == "adopt"
    assert "import its site" in _advice(pending("d", Kind.DUST, site_registered=False))
    assert "'elsewhere'" in _advice(pending("d", Kind.DUST, prefix="elsewhere"))
    assert "retired" in _advice(pending("d", Kind.DUST, retired_at=NOW))


@pytest.mark.parametrize("text", ["", "yard", "yard/", "/dust-1", "yard/dust/1", "yard/dust 1"])
def test_a_device_is_named_by_site_and_device(text: str) -> None:
    assert site_and_device("yard/dust-1") == ("yard", "dust-1")
    with pytest.raises(Misconfigured, match="SITE/DEVICE"):
        site_and_device(text)


@dataclass(frozen=True)
class Offset:
    seconds: float
    text: str


@pytest.mark.parametrize(
    "offset",
    [
        Offset(28_800, "+8 h 0 min"),
        Offset(-3_725, "-1 h 2 min"),
        Offset(60, "+0 h 1 min"),
        Offset(-42.5, "-42.5 s"),
    ],
    ids=lambda offset: offset.text,
)
def test_offsets_are_written_for_people(offset: Offset) -> None:
    assert offset_text(offset.seconds) == offset.text


def test_a_point_in_an_id_is_a_point() -> None:
    assert topic_pattern("a.b", "d-1") == (
        r"(^|/)site/a\.b/[^/]+/d\-1/(telemetry|event|status|frame/[0-9]+)$"
    )
