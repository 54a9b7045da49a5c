"""The manual's own example of a device, run as it stands."""

import asyncio
import sys
from pathlib import Path

import aiomqtt

from device_profiles.native import decode_status, telemetry_decoder
from device_profiles.topics import parse_topic
from device_profiles.vocabulary import Channel, Kind
from smartsite.embedded.broker import EmbeddedBroker
from tests.unit.docs.manual import DOCS, blocks


async def test_the_manuals_device_is_understood(service_dir: Path, tmp_path: Path) -> None:
    (example,) = (block.text for block in blocks(DOCS / "mqtt.md") if block.language == "python")
    program = tmp_path / "device.py"
    program.write_text(example, "utf-8")
    with EmbeddedBroker(service_dir / "broker") as broker:
        assert broker.port is not None
        async with aiomqtt.Client("127.0.0.1", broker.port) as service, asyncio.timeout(60):
            await service.subscribe("site/+/+/+/+", qos=1)
            device = await asyncio.create_subprocess_exec(
                sys.executable, program, "127.0.0.1", str(broker.port)
            )
            messages = aiter(service.messages)
            status, telemetry = await anext(messages), await anext(messages)
            assert await device.wait() == 0
    assert parse_topic(status.topic.value.encode()).channel is Channel.STATUS
    assert decode_status(bytes(status.payload)).online
    address = parse_topic(telemetry.topic.value.encode())
    assert (address.kind, address.channel) == (Kind.DUST, Channel.TELEMETRY)
    decoded = telemetry_decoder(address.kind)(bytes(telemetry.payload))
    assert len(decoded.readings) == 1
    assert decoded.refused == ()
