"""Recordings: any message comes back as it was, and a bad line is named by file and number."""

import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from device_profiles import recording
from device_profiles.errors import Reason, Rejected
from device_profiles.recording import (
    Message,
    format_message,
    parse_message,
    read_recording,
    write_recording,
)

AT = datetime(2026, 11, 21, 8, 0, 0, 1, UTC)
LINE = b'{"received_at":"2026-11-21T08:00:00.000001Z","topic":"t","payload":"p","qos":1}'

moments = st.datetimes(timezones=st.just(UTC))
# Any text a broker may send as a topic; lone surrogates cannot stand in UTF-8.
topics = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
messages = st.builds(
    Message,
    received_at=moments,
    topic=topics,
    payload=st.binary(max_size=60) | topics.map(str.encode),
    qos=st.integers(0, 2),
    retain=st.booleans(),
)


@given(messages)
@settings(max_examples=200, deadline=None)
def test_a_message_comes_back_as_it_was(message: Message) -> None:
    line = format_message(message)
    assert b"\n" not in line
    assert parse_message(line) == message
    assert parse_message(line + b"\r\n") == message


@given(messages)
@settings(max_examples=100, deadline=None)
def test_a_line_is_what_the_format_says(message: Message) -> None:
    line = json.loads(format_message(message))
    try:
        message.payload.decode("utf-8")
    except UnicodeDecodeError:
        payload = "payload_base64"
    else:
        payload = "payload"
    assert set(line) == {"received_at", "topic", payload, "qos", "retain"}
    assert len(line["received_at"]) == len("2026-11-21T08:00:00.000001Z")
    assert line["received_at"].endswith("Z")


def test_times_are_written_in_utc() -> None:
    there = AT.astimezone(timezone(timedelta(hours=8)))
    assert format_message(Message(there, "t", b"")) == format_message(Message(AT, "t", b""))
    assert parse_message(LINE.replace(b"08:00:00.000001Z", b"16:00:00.000001+08:00")) == Message(
        AT, "t", b"p"
    )


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"", Reason.SYNTAX),
        (b"{", Reason.SYNTAX),
        (b"[]", Reason.SYNTAX),
        (b"\xff", Reason.SYNTAX),
        (b"null", Reason.SYNTAX),
        (LINE[:-1], Reason.SYNTAX),
        (LINE.replace(b'"topic"', b'"tropic"'), Reason.SYNTAX),
        (LINE.replace(b'"t"', b"1"), Reason.SYNTAX),
        (LINE.replace(b'"t"', b'"\xff"'), Reason.SYNTAX),
        (LINE.replace(b'"p"', b'{"ts":1}'), Reason.SYNTAX),
        (LINE.replace(b'"p"', rb'"\ud800"'), Reason.SYNTAX),
        (LINE.replace(b'"p"', b"null"), Reason.SYNTAX),
        (LINE.replace(b'"payload"', b'"payload_base64":"","payload"'), Reason.SYNTAX),
        (LINE.replace(b'"payload":"p"', b'"payload_base64":"p"'), Reason.ENCODING),
        (LINE.replace(b'"payload":"p"', '"payload_base64":"粉尘"'.encode()), Reason.ENCODING),
        (LINE.replace(b"2026-11-21T08", b"2026-11-21 25"), Reason.SYNTAX),
        (LINE.replace(b"000001Z", b"000001"), Reason.TIME),
        (LINE.replace(b"2026-11-21T08:00:00.000001Z", b"0001-01-01T00:00:00+01:00"), Reason.TIME),
        (LINE.replace(b":1}", b":3}"), Reason.RANGE),
        (LINE.replace(b":1}", b":-1}"), Reason.RANGE),
        (LINE.replace(b":1}", b":true}"), Reason.SYNTAX),
        (LINE.replace(b":1}", b":" + b"9" * 5_000 + b"}"), Reason.SYNTAX),
        (b"[" * 100_000, Reason.SYNTAX),
    ],
)
def test_what_is_no_line_is_rejected(line: bytes, reason: Reason) -> None:
    with pytest.raises(Rejected) as caught:
        parse_message(line)
    assert caught.value.reason is reason


@given(
    st.binary(max_size=80) | st.integers(0, len(LINE)).map(lambda at: LINE[:at] + LINE[at + 1 :])
)
@settings(max_examples=200, deadline=None)
def test_any_line_is_read_or_rejected(line: bytes) -> None:
    try:
        message = parse_message(line)
    except Rejected:
        return
    assert parse_message(format_message(message)) == message


@pytest.mark.parametrize("name", ["site.jsonl", "site.jsonl.zst"])
def test_a_file_comes_back_as_it_was(tmp_path: Path, name: str) -> None:
    written = [
        Message(AT + timedelta(seconds=number), f"t/{number}", bytes([number]) * 50, number % 3)
        for number in range(250)
    ]
    assert write_recording(tmp_path / name, iter(written)) == 250
    assert list(read_recording(tmp_path / name)) == written
    raw = (tmp_path / name).read_bytes()
    assert raw.startswith(b"\x28\xb5\x2f\xfd") == name.endswith(".zst")


@pytest.mark.parametrize("name", ["empty.jsonl", "empty.jsonl.zst"])
def test_an_empty_recording(tmp_path: Path, name: str) -> None:
    assert write_recording(tmp_path / name, []) == 0
    assert list(read_recording(tmp_path / name)) == []


def test_recordings_joined_are_one(tmp_path: Path) -> None:
    messages = [Message(AT, "t", b"1"), Message(AT, "t", b"2")]
    joined = tmp_path / "both.jsonl.zst"
    parts = []
    for number, message in enumerate(messages):
        part = tmp_path / f"{number}.jsonl.zst"
        write_recording(part, [message])
        parts.append(part.read_bytes())
    joined.write_bytes(b"".join(parts))
    assert list(read_recording(joined)) == messages


def compressed(path: Path, text: bytes) -> None:
    path.write_bytes(zstandard.compress(text) if path.suffix == ".zst" else text)


@pytest.mark.parametrize("name", ["site.jsonl", "site.jsonl.zst"])
def test_a_bad_line_is_named_by_file_and_number(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    compressed(path, LINE + b"\n\n  \n" + LINE + b"\n{}\n" + LINE)
    found = read_recording(path)
    assert [next(found).payload, next(found).payload] == [b"p", b"p"]
    with pytest.raises(Rejected) as caught:
        next(found)
    assert f"{path}, line 5: " in caught.value.detail


def test_the_last_line_needs_no_newline(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINE + b"\n" + LINE)
    assert len(list(read_recording(tmp_path / "a.jsonl"))) == 2


def test_a_line_without_end_is_not_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "MAX_LINE_BYTES", 1_000)
    path = tmp_path / "a.jsonl.zst"
    compressed(path, LINE + b"\n" + b"x" * 10_000_000)
    found = read_recording(path)
    next(found)
    with pytest.raises(Rejected, match="line 2"):
        next(found)


@pytest.mark.parametrize("damage", ["not zstandard", "altered", "cut"])
def test_a_damaged_file_is_rejected_by_name(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.jsonl.zst"
    write_recording(path, [Message(AT, "t", bytes(range(256)) * 9)] * 200)
    data = path.read_bytes()
    match damage:
        case "not zstandard":
            data = LINE + b"\n"
        case "altered":
            data = data[:20] + b"\xff\xff\xff\xff" + data[24:]
        case _:
            data = data[:-5]
    path.write_bytes(data)
    with pytest.raises(Rejected) as caught:
        list(read_recording(path))
    assert str(path) in caught.value.detail
