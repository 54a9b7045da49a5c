"""Writes what is published about our formats: ``python -m smartsite.schemas docs``.

The JSON Schema of the settings file and of the site file, and the native MQTT contract as
AsyncAPI 3.0, all made from the models that read them. A test holds the published files to this.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from device_profiles.jpeg import MAX_PIXELS, MAX_SIDE
from device_profiles.native import MAX_BATCH
from device_profiles.sites import SiteFile
from device_profiles.topics import ID, PREFIX
from device_profiles.vocabulary import (
    MAX_ALARMS,
    MAX_NAME_CHARS,
    QUANTITIES,
    SERIES_BY_NAME,
    Channel,
    Kind,
    Quantity,
)
from smartsite.settings import Settings

DIALECT = "https://json-schema.org/draft/2020-12/schema"
CONTRACT_VERSION = "1.0.0"
"""Of the native MQTT contract; its first number changes when a device's payload must."""

# What native.py refuses beyond, or cuts; a test asks it.
FIRST_MS = 946_684_800_000
END_MS = 4_102_444_800_000
DETAIL_CHARS = 200

Schema = dict[str, Any]


def settings_schema() -> Schema:
    """The JSON Schema of the settings file.

    Returns:
        A schema (2020-12) of smartsite.toml read as JSON.
    """
    return {"$schema": DIALECT, **Settings.model_json_schema(), "title": "smartsite.toml"}


def site_schema() -> Schema:
    """The JSON Schema of a site file.

    Returns:
        A schema (2020-12) of a site file read as JSON.
    """
    return {"$schema": DIALECT, **SiteFile.model_json_schema(), "title": "smartsite site file"}


def _quantity(quantity: Quantity) -> Schema:
    return {
        "type": ["number", "null"],
        "minimum": quantity.low,
        "maximum": quantity.high,
        "title": quantity.zh,
        "description": f"{quantity.en}, {quantity.unit}",
    }


def _values(kind: Kind) -> Schema:
    properties = {quantity.name: _quantity(quantity) for quantity in QUANTITIES[kind]}
    if kind is Kind.CRANE:
        properties["alarms"] = {
            "type": ["array", "null"],
            "items": {"type": "string", "maxLength": MAX_NAME_CHARS},
            "maxItems": MAX_ALARMS,
            "title": "报警",
            "description": "names of the alarms that stand; an empty list: none does",
        }
    return {
        "type": "object",
        "minProperties": 1,
        "properties": properties,
        "additionalProperties": True,
        "description": "Names unknown to the vocabulary are kept as they are.",
    }


def _telemetry(kind: Kind) -> Schema:
    reading = f"#/components/schemas/{kind}Reading"
    return {
        "oneOf": [
            {"$ref": reading},
            {"type": "array", "minItems": 1, "maxItems": MAX_BATCH, "items": {"$ref": reading}},
        ]
    }


def _reading(kind: Kind) -> Schema:
    return {
        "type": "object",
        "required": ["ts", "values"],
        "properties": {
            "ts": {"$ref": "#/components/schemas/time"},
            "seq": {
                "type": ["integer", "null"],
                "minimum": -(2**63),
                "maximum": 2**63 - 1,
                "description": "the device's own count",
            },
            "series": {
                "enum": [*SERIES_BY_NAME, None],
                "description": "what ts means: an instant (also if absent), or the start of a"
                " minute, hour or day",
            },
            "values": {"$ref": f"#/components/schemas/{kind}Values"},
        },
        "additionalProperties": True,
    }


def _schemas() -> Schema:
    schemas: Schema = {
        "time": {
            "oneOf": [
                {
                    "type": "string",
                    "format": "date-time",
                    "pattern": "([Zz]|[+-][0-9]{2}:[0-9]{2})$",
                    "description": "RFC 3339 with its zone",
                },
                {
                    "type": "integer",
                    "minimum": FIRST_MS,
                    "exclusiveMaximum": END_MS,
                    "description": "milliseconds since 1970-01-01 UTC",
                },
            ]
        },
        "status": {
            "type": "object",
            "required": ["online"],
            "properties": {
                "online": {"type": "boolean"},
                "detail": {
                    "type": "string",
                    "description": f"kept up to {DETAIL_CHARS} characters",
                },
            },
            "additionalProperties": True,
        },
        "event": {"type": "object", "description": "any JSON object; kept as it is"},
        "frame": {
            "type": "string",
            "format": "binary",
            "description": f"a baseline or progressive JPEG, at most {MAX_SIDE} pixels a side and"
            f" {MAX_PIXELS} in all",
        },
    }
    for kind in QUANTITIES:
        schemas[f"{kind}Values"] = _values(kind)
        schemas[f"{kind}Reading"] = _reading(kind)
        schemas[f"{kind}Telemetry"] = _telemetry(kind)
    return schemas


def _channel(kind: str, channel: str, message: str) -> Schema:
    parameters: Schema = {
        "prefix": {
            "description": "empty, or a district: ids, each followed by '/'. In all it matches"
            f" {PREFIX.pattern}",
            "default": "",
        },
        "site": {"description": f"site id, {ID.pattern}"},
        "device": {"description": f"device id within the site, {ID.pattern}"},
    }
    if kind == "{kind}":
        parameters["kind"] = {"enum": [*Kind], "description": "kind of device"}
    if channel.endswith("{epoch_ms}"):
        parameters["epoch_ms"] = {
            "description": "when the picture was taken, milliseconds since 1970-01-01 UTC"
        }
    return {
        "address": f"{{prefix}}site/{{site}}/{kind}/{{device}}/{channel}",
        "parameters": parameters,
        "messages": {message: {"$ref": f"#/components/messages/{message}"}},
    }


def _message(name: str, title: str, examples: list[object]) -> Schema:
    message: Schema = {
        "name": name,
        "title": title,
        "contentType": "application/json",
        "payload": {"$ref": f"#/components/schemas/{name}"},
    }
    if examples:
        message["examples"] = [{"payload": example} for example in examples]
    return message


def asyncapi() -> Schema:
    """The native MQTT contract.

    Returns:
        An AsyncAPI 3.0 document; what it calls receiving is what the service does.
    """
    channels = {
        f"{kind}Telemetry": _channel(kind, Channel.TELEMETRY, f"{kind}Telemetry")
        for kind in QUANTITIES
    }
    channels |= {
        "event": _channel("{kind}", Channel.EVENT, "event"),
        "status": _channel("{kind}", Channel.STATUS, "status"),
        "frame": _channel(Kind.CAMERA, f"{Channel.FRAME}/{{epoch_ms}}", "frame"),
    }
    messages = {
        "dustTelemetry": _message(
            "dustTelemetry",
            "dust and noise monitor: one reading, or several",
            [
                {
                    "ts": "2026-11-21T08:00:00+08:00",
                    "seq": 17,
                    "values": {"pm10_ug_m3": 86.5, "pm2_5_ug_m3": 41.0, "noise_db": 63.2},
                },
                [{"ts": 1_795_219_200_000, "series": "minute", "values": {"pm10_ug_m3": 84.1}}],
            ],
        ),
        "craneTelemetry": _message(
            "craneTelemetry",
            "tower crane: one reading, or several",
            [
                {
                    "ts": 1_795_219_200_000,
                    "values": {
                        "slew_deg": 212.4,
                        "trolley_m": 31.5,
                        "hook_height_m": 18.0,
                        "load_t": 1.2,
                        "alarms": ["overload warning"],
                    },
                }
            ],
        ),
        "event": _message("event", "anything else a device says", [{"event": "door open"}]),
        "status": _message(
            "status",
            "whether the device is there; retained, and its last will",
            [{"online": True, "detail": "started"}, {"online": False}],
        ),
        "frame": _message("frame", "one picture", []) | {"contentType": "image/jpeg"},
    }
    operations = {
        f"receive{name[0].upper()}{name[1:]}": {
            "action": "receive",
            "channel": {"$ref": f"#/channels/{name}"},
            "bindings": {"mqtt": {"qos": 1, "retain": name == "status", "bindingVersion": "0.2.0"}},
        }
        for name in channels
    }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "smartsite native MQTT contract",
            "version": CONTRACT_VERSION,
            "description": "What devices publish to be understood without a profile of their own."
            " In words: docs/mqtt.md.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "broker": {
                "host": "broker.example:1883",
                "protocol": "mqtt",
                "protocolVersion": "3.1.1",
                "description": "the site's broker; MQTT 5 where the broker speaks it",
            }
        },
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages, "schemas": _schemas()},
    }


def published() -> dict[str, str]:
    """Every published file.

    Returns:
        By file name, its text.
    """
    documents = {
        "asyncapi.json": asyncapi(),
        "settings.schema.json": settings_schema(),
        "site.schema.json": site_schema(),
    }
    return {
        name: json.dumps(document, indent=2, ensure_ascii=False) + "\n"
        for name, document in documents.items()
    }


if __name__ == "__main__":
    for name, text in published().items():
        (Path(sys.argv[1]) / name).write_text(text, "utf-8")
