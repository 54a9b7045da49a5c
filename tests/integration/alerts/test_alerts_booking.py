import asyncio
import hashlib
import json

import msgspec
import psycopg
import pytest

from alerts.errors import IllegalTransition, UnknownSite, UnknownViolation, UnsoundFinding
from alerts.life import Event, State
from alerts.listing import violations
from alerts.messages import decode_message
from alerts.violations import Booked, book, transition, withdraw_unfound
from device_profiles.findings import Evidence, Finding, Severity
from device_profiles.readings import Source
from ingest.segments import pack, unpack
from tests.integration.alerts.stage import Stage
from tests.unit.alerts.samples import T0, at, finding


async def withdraw(stage: Stage, violation_id: str, reason: str = "calibration") -> None:
    async with stage.connection.transaction():
        await transition(
            stage.connection,
            violation_id,
            Event.WITHDRAWN,
            "inspector",
            stage.clock(),
            {"reason": reason},
        )


async def test_a_finding_opens_a_violation_and_tells_both(stage: Stage) -> None:
    said = finding(0)
    assert await stage.book(said) == [Booked(said.identity, (Event.OPENED,), 2)]
    told = await stage.deliveries()
    assert [row["recipient_id"] for row in told] == ["builder-hook", "bureau-hook"]
    assert {row["state"] for row in told} == {"pending"}
    assert {row["next_attempt_at"] for row in told} == {T0}
    assert len({row["id"] for row in told}) == 2
    assert len({row["body"] for row in told}) == 1
    message = decode_message(told[0]["body"])
    assert message.type == "violation.opened"
    assert message.data.id == said.identity
    assert message.data.site.name == "东区一号工地"


async def test_booking_twice_writes_nothing(stage: Stage) -> None:
    for said in (finding(0), finding(0, known=5, severity=Severity.CRITICAL), finding(0, 10)):
        await stage.book(said)
        before = await stage.snapshot()
        assert await stage.book(said) == [Booked(said.identity)]
        assert await stage.snapshot() == before
    assert await stage.events() == ["opened", "amended", "closed"]


async def test_a_replay_writes_nothing(stage: Stage) -> None:
    story = [
        finding(0),
        finding(0, known=3, severity=Severity.CRITICAL, mean=200),
        finding(0, 10, severity=Severity.CRITICAL, mean=190),
        finding(20),
        finding(20, 30),
        finding(40),
    ]
    for said in story:
        await stage.book(said)
    before = await stage.snapshot()
    for said in story:
        await stage.book(said)
    await stage.book(*story)
    assert await stage.snapshot() == before


async def test_of_one_batch_the_last_saying_counts(stage: Stage) -> None:
    said = finding(0, 10)
    assert await stage.book(finding(0), finding(0, known=5), said) == [
        Booked(said.identity, (Event.OPENED, Event.CLOSED), 4)
    ]
    types = [decode_message(row["body"]).type for row in await stage.deliveries()]
    assert types == ["violation.opened"] * 2 + ["violation.closed"] * 2


async def test_amended_is_told_only_when_it_matters(stage: Stage) -> None:
    (opened,) = await stage.book(finding(0))
    (milder,) = await stage.book(finding(0, known=1, mean=90))
    (worse,) = await stage.book(finding(0, known=2, severity=Severity.CRITICAL))
    (ended,) = await stage.book(finding(0, 3, severity=Severity.CRITICAL))
    (shorter,) = await stage.book(finding(0, 2, severity=Severity.CRITICAL))
    (reopened,) = await stage.book(finding(0, known=9, severity=Severity.CRITICAL))
    assert [
        (booked.events, booked.deliveries)
        for booked in (opened, milder, worse, ended, shorter, reopened)
    ] == [
        ((Event.OPENED,), 2),
        ((Event.AMENDED,), 0),
        ((Event.AMENDED,), 2),
        ((Event.CLOSED,), 2),
        ((Event.AMENDED,), 0),
        ((Event.AMENDED,), 2),
    ]
    assert len({booked.violation_id for booked in (opened, milder, worse, ended, reopened)}) == 1


async def test_what_changed_is_kept(stage: Stage) -> None:
    await stage.book(finding(0))
    await stage.book(finding(-2, 10, severity=Severity.CRITICAL))
    *_, last = await stage.ask("SELECT event, actor, detail FROM violation_events ORDER BY id")
    assert last == {
        "event": "closed",
        "actor": "judge",
        "detail": {
            "changed": {
                "opened_at": ["2026-11-21T02:00:00Z", "2026-11-21T01:58:00Z"],
                "closed_at": [None, "2026-11-21T02:10:00Z"],
                "severity": ["warning", "critical"],
                "evidence": "changed",
            }
        },
    }


async def test_another_opening_of_the_same_episode_keeps_its_id(stage: Stage) -> None:
    first = finding(0, 10)
    await stage.book(first)
    (again,) = await stage.book(finding(-3, 12))
    assert again.violation_id == first.identity
    (row,) = await stage.ask("SELECT id, opened_at, closed_at FROM violations")
    assert (row["opened_at"], row["closed_at"]) == (at(-3), at(12))
    before = await stage.snapshot()
    await stage.book(finding(-3, 12))
    assert await stage.snapshot() == before


async def test_other_subjects_sites_and_times_are_other_violations(stage: Stage) -> None:
    await stage.do(
        "INSERT INTO sites (id, name, timezone, contractor_id, regulator_id)"
        " VALUES ('site-2', '二号', 'Asia/Urumqi', 'builder', 'bureau')"
    )
    await stage.book(
        finding(0, 10),
        finding(0, 10, subject="dust-2"),
        finding(0, 10, site="site-2"),
        finding(10, 20),
    )
    rows = await stage.ask("SELECT id FROM violations")
    assert len(rows) == 4
    urumqi = [row["body"] for row in await stage.deliveries() if '"id":"site-2"' in row["body"]]
    assert '"opened_at_local":"2026-11-21T08:00:00+06:00"' in urumqi[0]


async def test_two_that_were_one_become_one(stage: Stage) -> None:
    first, second = finding(0, 10), finding(12, 20)
    await stage.book(first, second)
    (merged,) = await stage.book(finding(0, 20))
    assert merged == Booked(first.identity, (Event.AMENDED,), 2, (second.identity,))
    states = await stage.ask("SELECT id, state FROM violations ORDER BY opened_at")
    assert [row["state"] for row in states] == ["open", "withdrawn"]
    body = json.loads((await stage.deliveries())[-1]["body"])
    assert body["type"] == "violation.withdrawn"
    assert body["data"]["reason"] == f"part of violation {first.identity}"


async def test_one_that_was_two_becomes_two(stage: Stage) -> None:
    await stage.book(finding(0, 60))
    await stage.book(finding(0, 20))
    await stage.book(finding(40, 60))
    rows = await stage.ask("SELECT opened_at, closed_at FROM violations ORDER BY opened_at")
    assert [(row["opened_at"], row["closed_at"]) for row in rows] == [
        (at(0), at(20)),
        (at(40), at(60)),
    ]


async def test_withdrawn_stays_withdrawn(stage: Stage) -> None:
    said = finding(0)
    await stage.book(said)
    await withdraw(stage, said.identity)
    before = await stage.snapshot()
    for again in (said, finding(0, 10)):
        assert await stage.book(again) == [Booked(said.identity, stays_withdrawn=True)]
    assert await stage.snapshot() == before
    body = json.loads((await stage.deliveries())[-1]["body"])
    assert (body["type"], body["data"]["state"]) == ("violation.withdrawn", "withdrawn")
    assert body["data"]["reason"] == "calibration"


async def test_a_whole_life(stage: Stage) -> None:
    said = finding(0)
    await stage.book(said)
    steps = (Event.ACKNOWLEDGED, Event.RECTIFIED, Event.CONFIRMED)
    note = {"note": "已洒水"}
    states = []
    for event in steps:
        async with stage.connection.transaction():
            states.append(
                await transition(
                    stage.connection, said.identity, event, "wang", stage.clock(), note
                )
            )
    assert states == [State.ACKNOWLEDGED, State.RECTIFIED, State.CONFIRMED]
    (closed,) = await stage.book(finding(0, 10))  # the readings go on beside what people do
    assert closed.events == (Event.CLOSED,)
    assert await stage.events() == ["opened", *map(str, steps), "closed"]
    assert len(await stage.deliveries()) == 4


async def test_illegal_steps_write_nothing(stage: Stage) -> None:
    said = finding(0)
    await stage.book(said)
    before = await stage.snapshot()
    for event in (Event.RECTIFIED, Event.CONFIRMED, Event.OPENED, Event.CLOSED, Event.WITHDRAWN):
        with pytest.raises(IllegalTransition):
            async with stage.connection.transaction():
                await transition(stage.connection, said.identity, event, "wang", stage.clock())
    with pytest.raises(UnknownViolation, match="no violation 'nobody'"):
        async with stage.connection.transaction():
            await transition(stage.connection, "nobody", Event.ACKNOWLEDGED, "wang", stage.clock())
    assert await stage.snapshot() == before


async def test_a_refused_finding_writes_nothing_of_the_batch(stage: Stage) -> None:
    with pytest.raises(UnsoundFinding):
        await stage.book(finding(0), finding(5, 1, subject="dust-2"))
    with pytest.raises(UnknownSite, match="site 'nowhere' is not registered"):
        await stage.book(finding(0), finding(0, site="nowhere"))
    assert await stage.events() == []


async def test_the_callers_transaction_decides(stage: Stage) -> None:
    async with stage.connection.transaction(force_rollback=True):
        await book(stage.connection, [finding(0)], T0)
        assert await stage.events() == ["opened"]
    assert await stage.events() == []
    with pytest.raises(RuntimeError, match="transaction"):
        await book(stage.connection, [finding(0)], T0)


async def test_two_bookers_of_one_subject_take_turns(stage: Stage) -> None:
    other = await psycopg.AsyncConnection.connect(stage.database_url)

    async def waiting() -> bool:
        cursor = await other.execute("SELECT FROM pg_locks WHERE NOT granted")
        return await cursor.fetchone() is not None

    async with other:
        await book(other, [finding(0)], T0)
        second = asyncio.create_task(stage.book(finding(-1, known=3)))
        async with asyncio.timeout(30):
            while not await waiting():  # noqa: ASYNC110 - a lock sets no event
                await asyncio.sleep(0.01)
        assert not second.done()
        await other.commit()
        (booked,) = await second
    assert booked.events == (Event.AMENDED,)
    assert booked.violation_id == finding(0).identity


async def test_who_is_not_told_and_why_is_kept(stage: Stage) -> None:
    await stage.do("DELETE FROM recipients WHERE id = 'builder-hook'")
    await stage.do("UPDATE recipients SET disabled_at = now(), disabled_reason = 'gone'")
    (booked,) = await stage.book(finding(0))
    assert booked.deliveries == 0
    (event,) = await stage.ask("SELECT detail FROM violation_events")
    assert event["detail"] == {
        "untold": [
            {"tell": False, "reason": "organisation_has_no_recipient", "organisation": "builder"},
            {
                "tell": False,
                "reason": "recipient_disabled",
                "organisation": "bureau",
                "recipient": "bureau-hook",
            },
        ]
    }


async def test_what_is_not_found_again_is_withdrawn(stage: Stage) -> None:
    kept, lost, outside = finding(0, 10), finding(20, 30), finding(60, 70)
    await stage.book(kept, lost, outside, finding(20, 30, subject="dust-2"))
    (found,) = await stage.book(finding(1, 11))
    async with stage.connection.transaction():
        gone = await withdraw_unfound(
            stage.connection,
            rule="dust.pm10_mean",
            site="site-1",
            devices=("dust-1",),
            from_at=at(0),
            to_at=at(60),
            found=[found.violation_id],
            now=stage.clock(),
            reason="not found again over more complete data",
        )
    assert gone == [lost.identity]
    rows = await stage.ask("SELECT id FROM violations WHERE state = 'withdrawn'")
    assert [row["id"] for row in rows] == [lost.identity]


def pointing(number: int, index: int) -> Finding:
    entry = Evidence(device="dust-1", observed_at=T0, source=Source(1, number, index), role="first")
    return msgspec.structs.replace(finding(0, subject=f"dust-{number}-{index}"), evidence=(entry,))


async def test_evidence_gets_the_hashes_of_what_was_received(stage: Stage) -> None:
    payload = b'{"ts": 1, "values": {"pm10_ug_m3": 91.5}}'
    body = pack([1, 2], [b"a", b"b"], [b"other", payload], [0, 0])
    await stage.do("INSERT INTO workers (name) VALUES ('ingest')")
    for number, stored in ((1, body.body), (2, body.body + b"!")):
        await stage.do(
            "INSERT INTO segments VALUES (1, %(number)s, now(), now(), 2, 2, 0, 9, %(sha256)s,"
            " %(body)s)",
            {"number": number, "sha256": body.sha256, "body": stored},
        )
    async with stage.connection.transaction():
        await book(
            stage.connection,
            [pointing(1, 1), pointing(1, 2), pointing(2, 1), pointing(3, 0)],
            T0,
            unpack=unpack,
        )
    found = {entry.subject: entry for entry in await violations(stage.connection)}
    (good,) = found["dust-1-1"].evidence
    assert good.payload_sha256 == hashlib.sha256(payload).hexdigest()
    assert good.segment_sha256 == body.sha256.hex()
    assert good.unresolved is None
    assert [
        found[subject].evidence[0].unresolved for subject in ("dust-1-2", "dust-2-1", "dust-3-0")
    ] == [
        "segment holds no such message",
        "segment does not match its hash",
        "segment not stored",
    ]
    told = decode_message((await stage.deliveries())[0]["body"])
    assert told.data.evidence[0].payload_sha256 == good.payload_sha256
    before = await stage.snapshot()
    async with stage.connection.transaction():
        await book(stage.connection, [pointing(1, 1)], T0, unpack=unpack)
    assert await stage.snapshot() == before


async def test_the_listing(stage: Stage) -> None:
    early, late = finding(0, 10), finding(20)
    await stage.book(early)
    stage.clock.forward(minutes=20)
    await stage.book(late)
    await withdraw(stage, early.identity)

    async def ids(**only: object) -> list[str]:
        listed = await violations(stage.connection, **only)  # type: ignore[arg-type]
        return [entry.id for entry in listed]

    assert await ids() == [late.identity, early.identity]
    assert await ids(limit=1) == [late.identity]
    assert await ids(site="site-1", since=at(11)) == [late.identity]
    assert await ids(since=at(10)) == [late.identity, early.identity]
    assert await ids(state=State.WITHDRAWN) == [early.identity]
    assert await ids(site="site-2") == []
    listed = await violations(stage.connection, state=State.WITHDRAWN)
    as_json = json.loads(msgspec.json.encode(listed[0]))
    assert as_json["opened_at"] == "2026-11-21T02:00:00Z"
    assert as_json["booked_at"] == "2026-11-21T02:00:00Z"
    assert [event["event"] for event in as_json["events"]] == ["opened", "closed", "withdrawn"]
    assert [
        (delivery["event"], delivery["recipient"], delivery["organisation"], delivery["state"])
        for delivery in as_json["deliveries"][:2]
    ] == [
        ("opened", "builder-hook", "builder", "pending"),
        ("opened", "bureau-hook", "bureau", "pending"),
    ]
