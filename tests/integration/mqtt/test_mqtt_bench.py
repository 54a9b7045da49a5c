"""The benchmark of the consumer runs; what it measures is for a quiet machine."""

from __future__ import annotations

import pytest

from ingest.mqtt.codec import Version
from smartsite.bench import consumer


@pytest.mark.parametrize("version", list(Version))
def test_of_the_codec(version: Version, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer, "ROUNDS", 1)
    assert 0 < consumer.codec_us_per_message(version) < 1_000


async def test_of_the_connection(broker_url: str) -> None:
    assert await consumer.connection_us_per_message(broker_url, messages=3_000) > 0
    assert await consumer.connection_us_per_message(broker_url, messages=500, rest_s=0.01) > 0
