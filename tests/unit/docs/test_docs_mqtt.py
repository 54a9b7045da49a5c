"""The manual's MQTT contract, its AsyncAPI document and the code that reads payloads agree."""

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from device_profiles.errors import Reason, Rejected
from device_profiles.jpeg import MAX_PIXELS, MAX_SIDE
from device_profiles.native import (
    MAX_BATCH,
    MAX_EXTRA_BYTES,
    decode_event,
    decode_status,
    telemetry_decoder,
)
from device_profiles.recording import format_message, parse_message
from device_profiles.topics import MAX_TOPIC_BYTES, Address, parse_topic
from device_profiles.vocabulary import (
    MAX_ALARMS,
    MAX_EXTRA,
    MAX_NAME_CHARS,
    QUANTITIES,
    Channel,
    Kind,
    Quantity,
)
from ingest.pipeline import Scope
from smartsite.schemas import DETAIL_CHARS, END_MS, FIRST_MS, published
from smartsite.settings import Settings
from tests.unit.docs.manual import DOCS, blocks, table_with, tables

PAGE = DOCS / "mqtt.md"
CONTRACT: dict[str, Any] = json.loads((DOCS / "asyncapi.json").read_text("utf-8"))
EXAMPLES = [block for block in blocks(PAGE) if block.language == "json"]
EVERY_QUANTITY = [
    pytest.param(kind, quantity, id=f"{kind}-{quantity.name}")
    for kind, quantities in QUANTITIES.items()
    for quantity in quantities
]


def _validator(schema: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(
        {"$ref": f"#/components/schemas/{schema}", "components": CONTRACT["components"]}
    )


def _payload(kind: Kind, **values: object) -> bytes:
    return json.dumps({"ts": FIRST_MS, "values": values}).encode()


def _asyncapi_examples() -> Iterator[tuple[str, Any]]:
    for name, message in CONTRACT["components"]["messages"].items():
        for example in message.get("examples", []):
            yield name, example["payload"]


@pytest.mark.parametrize("name", sorted(published()))
def test_a_published_file_is_what_the_models_say(name: str) -> None:
    assert (DOCS / name).read_text("utf-8") == published()[name], (
        "run: python -m smartsite.schemas docs"
    )


def test_the_vocabulary_stands_in_the_manual_word_for_word() -> None:
    written = [
        [
            Quantity(
                name=row["name"],
                unit=row["unit"],
                low=float(row["from"]),
                high=float(row["to"]),
                zh=row["中文"],
                en=row["English"],
            )
            for row in table
        ]
        for table in tables(PAGE)
        if "中文" in table[0]
    ]
    assert written == [list(quantities) for quantities in QUANTITIES.values()]


def test_every_reason_scope_and_channel_is_explained() -> None:
    assert {row["reason"] for row in table_with(PAGE, "reason", "when")} == set(Reason)
    assert {row["scope"] for row in table_with(PAGE, "scope", "what is refused")} == set(Scope)
    (channels,) = (row for row in table_with(PAGE, "part") if row["part"] == "CHANNEL")
    assert all(channel in channels["what it is"] for channel in Channel)


def test_the_limits_are_those_of_the_code() -> None:
    settings = Settings()
    limits = {row["what"]: row["limit"] for row in table_with(PAGE, "what", "limit", "setting")}
    assert limits == {
        "telemetry, event or status payload": f"{settings.ingest.max_payload_bytes // 1024} KiB",
        "frame": f"{settings.frames.max_payload_bytes // 1024**2} MiB",
        "picture": f"{MAX_SIDE:,} pixels a side, {MAX_PIXELS:,} in all",
        "readings in one message": f"{MAX_BATCH:,}",
        "unknown names of one reading": f"{MAX_EXTRA}, and {MAX_EXTRA_BYTES:,} bytes of JSON",
        "name of an unknown quantity": f"{MAX_NAME_CHARS} characters",
        "time ahead of its receipt": f"{settings.ingest.future_s:g} s",
        "time before its receipt": f"{settings.ingest.past_days:g} days",
    }
    text = PAGE.read_text("utf-8")
    assert f"at most {MAX_TOPIC_BYTES:,} bytes" in text
    assert f"at most {MAX_ALARMS} of at most {MAX_NAME_CHARS} characters" in text
    assert f"kept up to {DETAIL_CHARS} characters" in text


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example_is_valid_and_is_read_whole(number: int) -> None:
    example = EXAMPLES[number]
    if example.name == "recording":
        for line in example.text.splitlines():
            message = parse_message(line.encode())
            assert format_message(message).decode() == line
            parse_topic(message.topic.encode())
        return
    _validator(example.name).validate(json.loads(example.text))
    _read_whole(example.name, example.text.encode())


def test_the_contracts_own_examples_are_read_whole() -> None:
    examples = list(_asyncapi_examples())
    assert {name for name, _ in examples} == {
        "dustTelemetry",
        "craneTelemetry",
        "event",
        "status",
    }
    for name, payload in examples:
        _validator(name).validate(payload)
        _read_whole(name, json.dumps(payload).encode())


def _read_whole(name: str, payload: bytes) -> None:
    if name == "status":
        decode_status(payload)
    elif name == "event":
        decode_event(payload)
    else:
        decoded = telemetry_decoder(Kind(name.removesuffix("Telemetry")))(payload)
        assert decoded.readings
        assert decoded.refused == ()
        assert all(reading.extra is None for reading in decoded.readings), "a name is misspelt"


@pytest.mark.parametrize(("kind", "quantity"), EVERY_QUANTITY)
def test_the_contract_states_each_quantitys_range(kind: Kind, quantity: Quantity) -> None:
    stated = CONTRACT["components"]["schemas"][f"{kind}Values"]["properties"][quantity.name]
    assert (stated["minimum"], stated["maximum"]) == (quantity.low, quantity.high)
    assert stated["title"] == quantity.zh
    assert stated["description"] == f"{quantity.en}, {quantity.unit}"
    validator = _validator(f"{kind}Telemetry")
    for value in (quantity.low, quantity.high, None):
        assert validator.is_valid(json.loads(_payload(kind, **{quantity.name: value})))
    for wrong in (quantity.low - 0.001, quantity.high + 0.001, str(quantity.low), True):
        assert not validator.is_valid(json.loads(_payload(kind, **{quantity.name: wrong})))


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        ({"values": {"pm10_ug_m3": 1}}, Reason.TIME),
        ({"ts": FIRST_MS - 1, "values": {"pm10_ug_m3": 1}}, Reason.TIME),
        ({"ts": END_MS, "values": {"pm10_ug_m3": 1}}, Reason.TIME),
        ({"ts": "2026-11-21T08:00:00", "values": {"pm10_ug_m3": 1}}, Reason.TIME),
        ({"ts": FIRST_MS}, Reason.INCOMPLETE),
        ({"ts": FIRST_MS, "values": {}}, Reason.INCOMPLETE),
        ({"ts": FIRST_MS, "values": [1]}, Reason.INCOMPLETE),
        ([], Reason.INCOMPLETE),
        ({"ts": FIRST_MS, "series": "week", "values": {"pm10_ug_m3": 1}}, Reason.TYPE),
        ("2026", Reason.TYPE),
    ],
)
def test_what_the_code_refuses_the_contract_does_not_allow(payload: object, reason: Reason) -> None:
    assert not _validator("dustTelemetry").is_valid(payload)
    with pytest.raises(Rejected) as refused:
        telemetry_decoder(Kind.DUST)(json.dumps(payload).encode())
    assert refused.value.reason is reason


def test_the_contracts_first_and_last_time_are_the_codes() -> None:
    decode = telemetry_decoder(Kind.DUST)
    for ts in (FIRST_MS, END_MS - 1):
        assert decode(json.dumps({"ts": ts, "values": {"pm10_ug_m3": 1}}).encode()).readings
    assert len(
        decode_status(json.dumps({"online": True, "detail": "x" * 999}).encode()).detail
    ) == (DETAIL_CHARS)


@pytest.mark.parametrize("prefix", ["", "yuhua/"])
def test_the_contracts_addresses_are_topics(prefix: str) -> None:
    said = set()
    for channel in CONTRACT["channels"].values():
        topic = channel["address"].format(
            prefix=prefix, site="s-1", kind="crane", device="d-1", epoch_ms=FIRST_MS
        )
        assert set(channel["parameters"]) == {
            part.partition("}")[0] for part in channel["address"].split("{")[1:]
        }
        address: Address = parse_topic(topic.encode())
        assert (address.prefix, address.site, address.device) == (prefix[:-1], "s-1", "d-1")
        said.add((address.channel, address.kind))
    assert {channel for channel, _ in said} == set(Channel)
    assert {kind for channel, kind in said if channel is Channel.TELEMETRY} == set(QUANTITIES)


def test_every_reference_in_the_contract_leads_somewhere() -> None:
    def references(part: object) -> Iterator[str]:
        if isinstance(part, dict):
            yield from (value for key, value in part.items() if key == "$ref")
            for value in part.values():
                yield from references(value)
        elif isinstance(part, list):
            for value in part:
                yield from references(value)

    found = list(references(CONTRACT))
    assert found
    for reference in found:
        part: Any = CONTRACT
        for step in reference.removeprefix("#/").split("/"):
            part = part[step]
