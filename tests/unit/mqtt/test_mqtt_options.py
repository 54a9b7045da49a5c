"""Options are refused as a whole, with every fault, and no credential is ever shown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ingest.errors import Misconfigured
from ingest.mqtt.codec import Version
from ingest.mqtt.connection import Connection
from ingest.mqtt.options import Options, resolve

GOOD = Options(url="mqtt://broker", client_id="smartsite-ingest", filters=(("site/#", 1),))


@pytest.mark.parametrize(
    ("url", "host", "port", "username", "password"),
    [
        ("mqtt://broker", "broker", 1883, None, None),
        ("mqtt://broker/", "broker", 1883, None, None),
        ("mqtt://10.0.0.7:2883", "10.0.0.7", 2883, None, None),
        ("mqtts://broker.example", "broker.example", 8883, None, None),
        ("mqtt://[::1]:1884", "::1", 1884, None, None),
        ("mqtt://me:p%40ss%3A@broker", "broker", 1883, "me", "p@ss:"),
    ],
)
def test_urls(url: str, host: str, port: int, username: str | None, password: str | None) -> None:
    endpoint = resolve(replace(GOOD, url=url))
    assert (endpoint.host, endpoint.port) == (host, port)
    assert (endpoint.username, endpoint.password) == (username, password)
    assert (endpoint.tls is not None) == url.startswith("mqtts")


def test_an_ipv6_address_is_told_in_brackets() -> None:
    assert str(resolve(replace(GOOD, url="mqtt://[::1]:1884"))) == "[::1]:1884"


def test_given_credentials_go_before_those_of_the_url() -> None:
    endpoint = resolve(replace(GOOD, url="mqtt://a:b@broker", username="me", password="mine"))
    assert (endpoint.username, endpoint.password) == ("me", "mine")


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"url": "http://broker"}, "url is not"),
        ({"url": "mqtt://"}, "url is not"),
        ({"url": "mqtt://broker:70000"}, "url is not"),
        ({"url": "mqtt://broker:x"}, "url is not"),
        ({"url": "mqtt://broker/topic"}, "url is not"),
        ({"url": "mqtt://[::1"}, "url is not"),
        ({"client_id": ""}, "client_id is empty"),
        ({"client_id": "a\0"}, "client_id is longer"),
        ({"username": "x" * 70_000}, "username is longer"),
        ({"username": "me", "password": "\ud800"}, "password is longer"),
        ({"password": "alone"}, "password without username"),
        ({"keepalive_s": 0}, "keepalive_s 0"),
        ({"keepalive_s": 65_536}, "keepalive_s 65536"),
        ({"session_expiry_s": -1}, "session_expiry_s"),
        ({"receive_maximum": 0}, "receive_maximum"),
        ({"max_payload_bytes": 0}, "max_payload_bytes"),
        ({"rest_s": 2.0}, "rest_s"),
        ({"filters": (("a", 2),)}, "QoS 2"),
        ({"filters": (("", 1),)}, "is no string of MQTT"),
        ({"filters": (("a\0", 1),)}, "is no string of MQTT"),
        ({"filters": (("a+/b", 1),)}, "only part of a level"),
        ({"filters": (("a/#b", 1),)}, "only part of a level"),
        ({"filters": (("a/#/b", 1),)}, "not its last level"),
        ({"filters": (("$share/g", 1),)}, "GROUP/FILTER"),
        ({"filters": (("$share//a", 1),)}, "GROUP/FILTER"),
        ({"filters": (("$share/g/", 1),)}, "GROUP/FILTER"),
        ({"filters": (("$share/+/a", 1),)}, "in its group"),
        ({"filters": (("a", 1), ("a", 0))}, "twice"),
        ({"retired_filters": ("site/#",)}, "is subscribed"),
        ({"retired_filters": ("a#",)}, "only part of a level"),
        ({"ca_file": Path("ca.pem")}, "belong to an mqtts"),
        ({"url": "mqtts://broker", "ca_file": Path("nowhere.pem")}, "ca_file nowhere.pem"),
        ({"url": "mqtts://broker", "cert_file": Path("nowhere.pem")}, "cert_file nowhere.pem"),
        ({"url": "mqtts://broker", "key_file": Path("nowhere.pem")}, "without cert_file"),
    ],
)
def test_faults(changes: dict[str, Any], fault: str) -> None:
    with pytest.raises(Misconfigured, match=fault):
        resolve(replace(GOOD, **changes))


def test_every_fault_is_told() -> None:
    options = replace(GOOD, url="x", client_id="", keepalive_s=0, filters=(("a#", 1), ("#/a", 1)))
    with pytest.raises(Misconfigured) as refusal:
        Connection(options, lambda _batch: None)
    assert str(refusal.value).count(";") == 4


@pytest.mark.parametrize("filters", [(("$share/group/site/+/#", 1),), (("+", 0), ("塔/+/#", 1))])
def test_filters_that_are_well(filters: tuple[tuple[str, int], ...]) -> None:
    assert resolve(replace(GOOD, filters=filters)).port == 1883


@pytest.mark.parametrize("version", list(Version))
def test_no_credential_is_shown(version: Version) -> None:
    options = replace(
        GOOD, url="mqtt://hidden:hidden@broker", version=version, username=None, password=None
    )
    explicit = replace(GOOD, username="hidden", password="hidden")
    for shown in (options, explicit, resolve(options), resolve(explicit)):
        assert "hidden" not in repr(shown)
        assert "hidden" not in str(shown)
    for broken in (replace(options, keepalive_s=0), replace(options, url="mqtt://hidden:hidden@")):
        with pytest.raises(Misconfigured) as refusal:
            resolve(broken)
        assert "hidden" not in str(refusal.value)
