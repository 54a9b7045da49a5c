"""Messages that hold readings of several devices, and batches of one."""

import json
from typing import Any

import pytest

from device_profiles.decoding.build import gateway_decoder
from device_profiles.decoding.terms import NO_TERMS, Terms
from device_profiles.decoding.times import AT_RECEIPT
from device_profiles.errors import Reason, Rejected
from device_profiles.native import MAX_BATCH
from device_profiles.readings import Decoded
from tests.unit.device_profiles.sheets import AT, DUST, decoder, sheet, values_of


def read(message: Any, each: dict[str, Any], **more: Any) -> list[tuple[str, Decoded]]:
    return gateway_decoder(sheet(DUST, each=each, **more), lambda _: NO_TERMS)(
        json.dumps(message).encode()
    )


def reading(value: Any = 5, **more: Any) -> dict[str, Any]:
    return {"t": AT, "pm10": value} | more


def test_devices_by_the_keys_of_an_object() -> None:
    found = dict(read({"a": [reading(1), reading(2)], "b": [reading(3)]},
                      {"key_is_device": True, "at": "[*]"}))  # fmt: skip
    assert [values_of(found["a"], place=place)["pm10_ug_m3"] for place in (0, 1)] == [1, 2]
    assert values_of(found["b"]) == {"pm10_ug_m3": 3}
    bare = dict(read({"a": reading(1), "b": reading(2)}, {"key_is_device": True}))
    assert values_of(bare["b"]) == {"pm10_ug_m3": 2}


def test_devices_by_a_field() -> None:
    each = {"at": "data.items[*]", "device": "who.id"}
    items = [reading(1, who={"id": " a "}), reading(2, who={"id": 7}), reading(3, who={"id": "a"})]
    found = dict(read({"data": {"items": items}}, each))
    assert list(found) == ["a", "7"]
    assert len(found["a"].readings) == 2
    alone = dict(read(reading(1, id="x"), {"device": "id"}))
    assert values_of(alone["x"]) == {"pm10_ug_m3": 1}


@pytest.mark.parametrize("who", [None, [], True, {}, 1.5])
def test_a_reading_of_nobody_stands_under_no_name(who: Any) -> None:
    assert [device for device, _ in read([reading(1, id=who)], {"at": "[*]", "device": "id"})] == [
        ""
    ]


def test_faults_say_which_reading_it_was() -> None:
    found = dict(read({"a": [reading(1), reading("x", noise=1)], "b": ["?", {"t": 1}]},
                      {"key_is_device": True, "at": "[*]"}))  # fmt: skip
    assert [part.detail for part in found["a"].refused] == [
        "reading 1: pm10_ug_m3: 'x' is not a number"
    ]
    assert [part.detail for part in found["b"].refused] == [
        "reading 2: '?' is not an object",
        "reading 3: time 1 is not between 2000 and 2100",
    ]
    assert found["b"].readings == []


def test_names_within_and_times_that_lack() -> None:
    """As ThingsBoard has it: bare, or under `values` with a time, one or a list."""
    each = {"at": "[*]", "or_alone": True, "flatten": "values"}
    time = {"at": "ts", "format": "epoch_ms", "absent": "received"}
    device = decoder(DUST, each=each, time=time)

    def got(message: Any) -> list[tuple[int, dict[str, float]]]:
        decoded = device(json.dumps(message).encode())
        return [
            (one.reported_us, values_of(decoded, place=place))
            for place, one in enumerate(decoded.readings)
        ]

    five = {"pm10_ug_m3": 5}
    at = AT * 1_000_000
    assert got({"pm10": 5}) == [(AT_RECEIPT, five)]
    assert got({"ts": AT * 1_000, "values": {"pm10": 5}}) == [(at, five)]
    assert got([{"pm10": 5}, {"ts": AT * 1_000, "values": {"pm10": 5}}]) == [
        (AT_RECEIPT, five),
        (at, five),
    ]
    assert device(b'{"pm10": 5}').notes == ("no time of its own: that of receipt stands in",)


def test_every_device_has_its_own_terms() -> None:
    asked: list[str] = []

    def terms_of(device: str) -> Terms:
        asked.append(device)
        return Terms(units={"pm10_ug_m3": "mg/m3"}) if device == "mg" else NO_TERMS

    gateway = gateway_decoder(sheet(DUST, each={"key_is_device": True}), terms_of)
    payload = json.dumps({"mg": reading(0.005), "ug": reading(5)}).encode()
    for _ in range(2):
        assert [values_of(decoded) for _, decoded in gateway(payload)] == [{"pm10_ug_m3": 5}] * 2
    assert asked.count("mg") == 1


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({}, Reason.INCOMPLETE),
        ({"a": []}, Reason.INCOMPLETE),
        ([], Reason.TYPE),
        (5, Reason.TYPE),
        ({"a": [{}] * (MAX_BATCH + 1)}, Reason.TOO_LARGE),
    ],
)
def test_messages_that_hold_nothing_or_too_much(message: Any, reason: Reason) -> None:
    with pytest.raises(Rejected) as caught:
        read(message, {"key_is_device": True, "at": "[*]"})
    assert caught.value.reason is reason


def test_a_batch_of_one_device() -> None:
    batch = decoder(DUST, each={"at": "list[*]"})
    decoded = batch(json.dumps({"list": [reading(1), reading("x"), reading(2)]}).encode())
    assert len(decoded.readings) == 2
    assert [part.detail for part in decoded.refused] == [
        "reading 1: pm10_ug_m3: 'x' is not a number"
    ]
    by_name = batch(json.dumps({"list": {"first": reading(1), "second": reading(2)}}).encode())
    assert len(by_name.readings) == 2
    nothings: list[Any] = [{}, {"list": []}, {"list": 5}, []]
    for empty in nothings:
        with pytest.raises(Rejected) as caught:
            batch(json.dumps(empty).encode())
        assert caught.value.reason is Reason.INCOMPLETE
    with pytest.raises(Rejected) as caught:
        batch(json.dumps({"list": [reading("x")]}).encode())
    assert caught.value.detail == "pm10_ug_m3: 'x' is not a number"
    with pytest.raises(Rejected) as caught:
        batch(json.dumps({"list": [1] * (MAX_BATCH + 1)}).encode())
    assert caught.value.reason is Reason.TOO_LARGE
