"""`smartsite record`: spans, topics, sites and devices of raw segments, each message once."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from device_profiles.recording import Message, read_recording
from device_profiles.sites import Device
from device_profiles.vocabulary import Kind
from ingest.pipeline import TimeLimits, gather
from ingest.retrying import retry
from ingest.store.worker import Worker
from ingest.store.writer import TelemetryWriter
from smartsite.cli import app
from smartsite.recording import speaker_matcher
from smartsite.services import password_environment
from tests.integration.yard import (
    NOW,
    NOW_US,
    SITE,
    arrivals_of,
    ask,
    do,
    register,
    routes_of,
    site_file,
    telemetry,
    topic_of,
)

Record = Callable[..., list[Message]]


@pytest.fixture
def record(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Record:
    """Runs the command on the test's database; what it wrote."""
    monkeypatch.chdir(tmp_path)
    for name, value in password_environment(database_url).items():
        monkeypatch.setenv(name, value)

    def run(
        *more: str, since: timedelta = timedelta(0), says: str = "messages in"
    ) -> list[Message]:
        file = tmp_path / "a.jsonl"
        begin = (NOW + since).strftime("%Y-%m-%dT%H:%M:%S")
        result = CliRunner().invoke(app, ["record", str(file), "--since", begin, *more])
        assert result.exit_code == 0, result.output
        assert says in result.output
        return list(read_recording(file))

    return run


async def write(url: str, *messages: tuple[str | bytes, bytes], after_s: int = 0) -> None:
    worker = Worker(url, "ingest")
    try:
        arrivals = arrivals_of(*messages, received_us=NOW_US + after_s * 1_000_000)
        flush = gather(arrivals, await routes_of(url), TimeLimits())
        await TelemetryWriter(worker).write(flush)
    finally:
        await worker.close()


async def test_what_was_received_comes_out_as_it_came(database_url: str, record: Record) -> None:
    register(database_url, site_file())
    sent = [
        (topic_of("dust-1"), telemetry(NOW, noise_db=50)),
        (topic_of("dust-9"), telemetry(NOW, noise_db=51)),
        (topic_of("crane-1", site="elsewhere"), b"\xff no text"),
        ("anything/at all", b"{"),
    ]
    await write(database_url, *sent[:2])
    await write(database_url, *sent[2:], after_s=60)
    assert [(one.topic, one.payload) for one in record()] == sent

    def topics(*more: str, since: timedelta = timedelta(0)) -> list[str]:
        return [one.topic for one in record(*more, since=since)]

    first, second, third, fourth = (topic for topic, _ in sent)
    assert topics(since=timedelta(seconds=60)) == [third, fourth]
    assert topics("--until", f"{NOW + timedelta(seconds=60):%Y-%m-%dT%H:%M:%S}") == [first, second]
    assert topics("--site", SITE) == [first, second]
    assert topics("--device", f"{SITE}/dust-9") == [second]
    assert topics("--site", "elsewhere", "--device", f"{SITE}/dust-1") == [first, third]
    assert topics("--topic", "+/+/dust/#", "--device", f"{SITE}/dust-1") == [first]
    assert topics("--site", SITE, "--topic", "anything/#") == []

    new = Device(site=SITE, id="dust-9", kind=Kind.DUST)
    register(database_url, site_file(devices=[new]))
    rows = [row["id"] for row in ask(database_url, "SELECT id FROM quarantine")]
    assert (await retry(database_url, rows, TimeLimits(), NOW)).stored == {"dust": 1}
    assert [(one.topic, one.payload) for one in record()] == sent


async def test_what_has_aged_out_is_said(database_url: str, record: Record) -> None:
    register(database_url, site_file())
    await write(database_url, (topic_of("dust-1"), telemetry(NOW, noise_db=50)))
    await write(database_url, (topic_of("dust-2"), telemetry(NOW, noise_db=50)), after_s=1)
    do(database_url, "UPDATE segments SET body = NULL WHERE number = 1")
    (left,) = record(says="up to 1 messages have aged out")
    assert left.topic == topic_of("dust-2")


def test_a_speaker_is_told_by_its_topic_alone() -> None:
    matches = speaker_matcher({"s1"}, {("s2", "d1")})
    assert matches("site/s1/dust/d9/telemetry")
    assert matches("a/b/site/s1/camera/d9/frame/12")
    assert matches("site/s2/dust/d1/status")
    assert not matches("site/s2/dust/d2/status")
    assert not matches("site/s1")
    assert not matches("s1/site/s3/dust/d1/telemetry")
    assert speaker_matcher((), ())("anything")
