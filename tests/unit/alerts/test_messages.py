import json
from pathlib import Path

import jsonschema
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alerts.evidence import StoredEvidence
from alerts.life import Event, Violation
from alerts.messages import (
    MAX_BODY_BYTES,
    MAX_BOXES,
    MessageType,
    SiteCard,
    decode_message,
    render,
    webhook_schema,
)
from alerts.schema import schema_text
from device_profiles.readings import Source
from tests.unit.alerts.samples import at, finding, violation

SITE = SiteCard(id="site-1", name="东区一号工地", timezone="Asia/Shanghai")
VALIDATOR = jsonschema.Draft202012Validator(webhook_schema())
ROOT = Path(__file__).parents[3]


def many(count: int, **fields: object) -> tuple[StoredEvidence, ...]:
    roles = {0: "first", count // 2: "peak", count - 1: "last"}
    entries = (
        StoredEvidence(
            device="cam-1",
            observed_at=at(place),
            source=Source(1, 7, place),
            role=roles.get(place, "confirmation"),
            values={"pm10_ug_m3": 91.5},
            segment_sha256="a" * 64,
            payload_sha256="b" * 64,
            frame_sha256="c" * 64,
            model_sha256="d" * 64,
        )
        for place in range(count)
    )
    return tuple(msgspec.structs.replace(entry, **fields) for entry in entries)


def with_evidence(entries: tuple[StoredEvidence, ...]) -> Violation:
    return msgspec.structs.replace(violation(finding(0, 10)), evidence=entries)


def test_the_exact_body() -> None:
    there = violation(finding(0, 10))
    body = render(Event.CLOSED, there, SITE, at(11))
    assert body == (
        '{"type":"violation.closed","timestamp":"2026-11-21T02:11:00Z","data":{'
        f'"id":"{there.id}","rule":"dust.pm10_mean","kind":"dust",'
        '"site":{"id":"site-1","name":"东区一号工地","timezone":"Asia/Shanghai"},'
        '"subject":"dust-1","state":"open","severity":"warning",'
        '"opened_at":"2026-11-21T02:00:00Z","opened_at_local":"2026-11-21T10:00:00+08:00",'
        '"closed_at":"2026-11-21T02:10:00Z","closed_at_local":"2026-11-21T10:10:00+08:00",'
        '"measured":{"limit_ug_m3":80.0,"mean_ug_m3":88.25},'
        '"message_zh":"PM10 均值超标","message_en":"PM10 mean above the limit","reason":null,'
        '"evidence":[{"device":"dust-1","observed_at":"2026-11-21T02:00:00Z","role":"first",'
        '"source":{"worker":1,"number":7,"index":0},"values":{"pm10_ug_m3":91.5}},'
        '{"device":"dust-1","observed_at":"2026-11-21T02:10:00Z","role":"last",'
        '"source":{"worker":1,"number":7,"index":1},"values":{"pm10_ug_m3":91.5}}],'
        '"evidence_total":2,"notes":[]}}'
    )


def test_the_order_of_tables_does_not_matter() -> None:
    there = violation(finding(0))
    turned = msgspec.structs.replace(there, measured=dict(reversed(list(there.measured.items()))))
    assert render(Event.OPENED, there, SITE, at(0)) == render(Event.OPENED, turned, SITE, at(0))


@pytest.mark.parametrize(
    ("event", "type_"),
    [
        (Event.OPENED, MessageType.OPENED),
        (Event.AMENDED, MessageType.AMENDED),
        (Event.CLOSED, MessageType.CLOSED),
        (Event.WITHDRAWN, MessageType.WITHDRAWN),
    ],
)
def test_it_reads_back_and_fits_the_schema(event: Event, type_: MessageType) -> None:
    body = render(event, with_evidence(many(4)), SITE, at(11), "calibration")
    VALIDATOR.validate(json.loads(body))
    message = decode_message(body)
    assert message.type is type_
    assert message.data.reason == "calibration"
    assert [entry.frame_sha256 for entry in message.data.evidence] == ["c" * 64] * 4


def test_while_it_lasts_there_is_no_end() -> None:
    message = decode_message(render(Event.OPENED, violation(finding(0)), SITE, at(0)))
    assert message.data.closed_at is None
    assert message.data.closed_at_local is None


def test_steps_of_people_are_not_messages() -> None:
    with pytest.raises(KeyError):
        render(Event.ACKNOWLEDGED, violation(finding(0)), SITE, at(0))


def test_much_evidence_is_trimmed_and_said() -> None:
    body = render(Event.CLOSED, with_evidence(many(500)), SITE, at(11))
    message = decode_message(body)
    assert MAX_BODY_BYTES * 0.9 < len(body.encode()) < MAX_BODY_BYTES
    kept = message.data.evidence
    assert {"first", "peak", "last"} <= {entry.role for entry in kept}
    assert [entry.observed_at for entry in kept] == sorted(entry.observed_at for entry in kept)
    assert message.data.evidence_total == 500
    assert message.data.notes == (
        f"evidence: {len(kept)} of 500 entries; all of it is kept with the violation",
    )


def test_the_best_boxes_stay() -> None:
    boxes = tuple(("head", place / 100, 0.0, 0.0, 1.0, 1.0) for place in range(40))
    message = decode_message(render(Event.OPENED, with_evidence(many(1, boxes=boxes)), SITE, at(0)))
    (entry,) = message.data.evidence
    assert [box.score for box in entry.boxes] == [
        place / 100 for place in range(39, 39 - MAX_BOXES, -1)
    ]
    assert message.data.notes == ("evidence: 1 entries without some of their values or boxes",)


nasty = st.text(st.sampled_from('a中\x01"\\\U0001f3d7é'), max_size=3_000)


@settings(max_examples=150, deadline=None)
@given(
    texts=st.tuples(nasty, nasty, nasty, nasty, nasty),
    figures=st.dictionaries(nasty, st.floats(allow_nan=False, allow_infinity=False), max_size=60),
    count=st.integers(0, 40),
    boxes=st.lists(st.tuples(nasty, *[st.floats(0, 1e6)] * 5), max_size=30).map(tuple),
)
def test_below_the_bound_whatever_it_holds(
    texts: tuple[str, str, str, str, str],
    figures: dict[str, float],
    count: int,
    boxes: tuple[tuple[str, float, float, float, float, float], ...],
) -> None:
    zh, en, subject, name, reason = texts
    there = msgspec.structs.replace(
        with_evidence(many(count, values=figures, boxes=boxes, role=subject)),
        message_zh=zh,
        message_en=en,
        subject=subject,
        rule=name,
        measured=figures,
    )
    site = SiteCard(id="s" * 64, name=name, timezone="America/Argentina/ComodRivadavia")
    body = render(Event.WITHDRAWN, there, site, at(0), reason)
    assert len(body.encode()) < MAX_BODY_BYTES
    VALIDATOR.validate(json.loads(body))
    message = decode_message(body)
    if count:
        assert message.data.evidence  # the first by rank always has room


def test_the_longest_of_everything_still_leaves_room_for_evidence() -> None:
    long = "\x01" * 3_000
    boxes = ((long, 0.123, *[123_456.123] * 4),) * 30
    figures = {f"{place:03}" + "\x01" * 100: 1.2345678901234567e-300 for place in range(60)}
    there = msgspec.structs.replace(
        with_evidence(many(3, values=figures, boxes=boxes, device=long)),
        message_zh=long,
        message_en=long,
        subject=long,
        rule=long,
        kind=long,
        measured=figures,
    )
    body = render(
        Event.OPENED, there, SiteCard(id="s" * 64, name=long, timezone="UTC"), at(0), long
    )
    assert len(body.encode()) < MAX_BODY_BYTES
    assert len(decode_message(body).data.evidence) >= 1


def test_the_published_schema_is_this_code() -> None:
    published = (ROOT / "docs" / "webhooks.schema.json").read_text(encoding="utf-8")
    assert published == schema_text(), "python -m alerts.schema > docs/webhooks.schema.json"


def test_the_schema_refuses_what_is_no_message() -> None:
    good = json.loads(render(Event.OPENED, violation(finding(0)), SITE, at(0)))
    jsonschema.Draft202012Validator.check_schema(webhook_schema())
    for broken in (
        {**good, "type": "violation.acknowledged"},
        {**good, "data": {**good["data"], "id": 5}},
        {name: value for name, value in good.items() if name != "timestamp"},
        {**good, "data": {**good["data"], "severity": "dreadful"}},
    ):
        assert not VALIDATOR.is_valid(broken)
