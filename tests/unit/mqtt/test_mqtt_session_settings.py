"""From the settings of the broker to the options of a session."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from ingest.mqtt.codec import Version
from ingest.mqtt.options import Options, resolve
from smartsite.profiles import Filters
from smartsite.roles.consuming import (
    MOST_BYTES,
    MOST_BYTES_READING_ON,
    flushing,
    session_options,
)
from smartsite.services import Whereabouts
from smartsite.settings import BrokerSettings, Settings

URL = "mqtt://broker.example"


def options(**broker: Any) -> Options:
    settings = Settings(broker=BrokerSettings(**{"url": URL} | broker))
    where = Whereabouts(pid=0, started=0.0, broker_url=URL, database_url="")
    filters = Filters(("site/+/+/+/+",), (), (), ())
    made = session_options(settings, where, "left", filters, 1_000, rest_s=0.02)
    resolve(made)
    return made


def test_what_is_set_is_what_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROKER_PASSWORD", "hidden")
    made = options(
        prefix="yuhua",
        version="5",
        username="me",
        password="env:BROKER_PASSWORD",
        keepalive_s=7,
        session_expiry_s=3_600,
        receive_maximum=99,
    )
    assert made == Options(
        url=URL,
        client_id="smartsite-left",
        filters=(("yuhua/site/+/+/+/+", 1),),
        version=Version.V5,
        username="me",
        password="hidden",
        keepalive_s=7,
        session_expiry_s=3_600,
        receive_maximum=99,
        max_payload_bytes=1_000,
        rest_s=0.02,
    )


@pytest.mark.parametrize("version", ["3.1.1", "5"])
def test_a_member_of_a_group_shares_and_hears_nothing_alone(
    version: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A session from before the group has the filter alone: it would hear everything twice."""
    made = options(prefix="yuhua", share_group="city", version=version)
    assert made.filters == (("$share/city/yuhua/site/+/+/+/+", 1),)
    assert made.retired_filters == ("yuhua/site/+/+/+/+",)
    assert ("does not tell whether" in caplog.text) == (version == "3.1.1")


def test_a_member_that_leaves_subscribes_to_nothing() -> None:
    made = options(share_group="city", drain=True)
    assert made.filters == ()
    assert made.retired_filters == ("$share/city/site/+/+/+/+", "site/+/+/+/+")


@pytest.mark.parametrize(
    ("broker", "words"),
    [
        ({"url": "embedded", "share_group": "g"}, "grants shared subscriptions and delivers no"),
        ({"share_group": "g", "keep_reading": True}, "nats-server, the embedded broker too"),
        ({"url": "embedded", "drain": True}, "drain is for members of a share_group"),
        ({"drain": True}, "drain is for members of a share_group"),
        ({"share_group": "a/b"}, "share_group"),
        ({"share_group": "a+"}, "share_group"),
        ({"share_group": ""}, "share_group"),
        ({"receive_maximum": 0}, "receive_maximum"),
        ({"receive_maximum": 65_536}, "receive_maximum"),
        ({"session_expiry_s": 59}, "session_expiry_s"),
        ({"session_expiry_s": 1 << 32}, "session_expiry_s"),
    ],
)
def test_what_cannot_be_right_is_refused(broker: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        BrokerSettings(**{"url": URL} | broker)


def test_mqtt_5_tells_a_broker_without_groups_apart() -> None:
    assert options(share_group="g", keep_reading=True, version="5").filters


def test_how_much_may_wait_depends_on_who_is_read_on() -> None:
    def most(**broker: Any) -> int:
        return flushing(Settings(broker=BrokerSettings(**broker)), 1, 1.0).most_bytes

    assert most() == MOST_BYTES_READING_ON
    assert most(url=URL) == MOST_BYTES
    assert most(url=URL, keep_reading=True) == MOST_BYTES_READING_ON
    assert most(keep_reading=False) == MOST_BYTES


def test_certificates_are_handed_on(tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("ca_file", "cert_file", "key_file")}
    settings = Settings(broker=BrokerSettings(url="mqtts://broker.example", **files))
    where = Whereabouts(pid=0, started=0.0, broker_url="mqtts://b", database_url="")
    made = session_options(settings, where, "left", Filters(("site/#",), (), (), ()), 1_000)
    assert {name: getattr(made, name) for name in files} == files
