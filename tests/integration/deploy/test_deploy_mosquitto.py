"""The broker of `deploy/`, really run: who may say what, and what it keeps."""

import asyncio
import json
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiomqtt
import pytest

from device_profiles.topics import parse_topic
from device_profiles.vocabulary import Kind
from smartsite.settings import load_site_file
from tests.integration.deploy.mosquitto import (
    PATIENCE_SECONDS,
    Mosquitto,
    accepted,
    shell_environment,
)

DUST = "site/example-site/dust/dust-1"
CRANE = "site/example-site/crane/crane-1"

# More than wait by default, and more than the window of what is under way.
MANY = 5_000

Register = Callable[[str], Awaitable[str]]


async def _hear(client: aiomqtt.Client, until: str) -> list[str]:
    """The topics heard up to and including one."""
    heard: list[str] = []
    async with asyncio.timeout(PATIENCE_SECONDS):
        async for message in client.messages:
            heard.append(message.topic.value)
            if message.topic.value == until:
                return heard
    raise AssertionError("the connection ended")


async def test_a_device_publishes_only_as_itself(
    mosquitto: Mosquitto, register: Register, service_password: str
) -> None:
    password = await register(DUST)
    last = f"{DUST}/status"
    mine = [f"{DUST}/telemetry", f"{DUST}/event", f"{DUST}/frame/1795219200000", last]
    not_mine = [
        "site/example-site/dust/dust-2/telemetry",
        f"{CRANE}/telemetry",
        "site/other-site/dust/dust-1/telemetry",
        f"yuhua/{DUST}/telemetry",
        f"{DUST}/site/example-site/crane/crane-1/telemetry",
        f"{DUST}/telemetry/more",
        f"{DUST}/commands",
        DUST,
        "smartsite/telemetry",
        "anything",
    ]
    async with mosquitto.as_service(service_password, "smartsite-ingest") as service:
        await service.subscribe("#", qos=1)
        async with mosquitto.as_device(DUST, password) as device:
            for topic in (*not_mine, *mine):
                await device.publish(topic, "{}", qos=1)
        assert await _hear(service, last) == mine


async def test_every_device_of_the_site_file_is_heard_on_its_topics(
    mosquitto: Mosquitto, register: Register, service_password: str, deploy: Path
) -> None:
    devices = load_site_file(deploy / "site.toml").device
    users = {f"site/{device.site}/{device.kind}/{device.id}": device.kind for device in devices} | {
        "yuhua/site/s2/dust/d1": Kind.DUST
    }
    passwords = {user: await register(user) for user in users}
    async with mosquitto.as_service(service_password, "smartsite-ingest") as service:
        await service.subscribe("#", qos=1)
        for user, kind in users.items():
            said = f"{user}/frame/1795219200000" if kind is Kind.CAMERA else f"{user}/telemetry"
            async with mosquitto.as_device(user, passwords[user]) as device:
                await device.publish(said, "{}", qos=1)
                await device.publish(f"{user}/status", "{}", qos=1)
            heard = await _hear(service, f"{user}/status")
            assert heard == [said, f"{user}/status"]
            assert {parse_topic(topic.encode()).kind for topic in heard} == {kind}


async def test_nobody_else_gets_in(mosquitto: Mosquitto, register: Register) -> None:
    password = await register(DUST)
    assert await accepted(mosquitto.as_device(DUST, password))
    assert not await accepted(mosquitto.as_device(DUST, "wrong"))
    assert not await accepted(mosquitto.as_device("site/example-site/dust/stranger", password))
    assert not await accepted(mosquitto.as_device("site/example-site/dust/+", password))
    assert not await accepted(aiomqtt.Client("127.0.0.1", mosquitto.devices))
    assert not await accepted(aiomqtt.Client("127.0.0.1", mosquitto.service))


async def test_who_is_retired_is_cut_off_and_stays_out(
    mosquitto: Mosquitto,
    register: Register,
    smartsite: Callable[..., str],
    rewrite: Callable[[], None],
    service_password: str,
) -> None:
    dust, crane = await register(DUST), await register(CRANE)
    async with (
        mosquitto.as_service(service_password, "smartsite-ingest") as service,
        mosquitto.as_device(CRANE, crane) as other,
    ):
        await service.subscribe("#", qos=1)

        async def speak_until_cut_off() -> None:
            async with mosquitto.as_device(DUST, dust) as device:
                await device.publish(f"{DUST}/telemetry", "{}", qos=1)
                smartsite("devices", "retire", "example-site/dust-1")
                rewrite()
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await anext(aiter(device.messages))  # until the broker hangs up

        with pytest.raises(aiomqtt.MqttError):
            await speak_until_cut_off()
        assert not await accepted(mosquitto.as_device(DUST, dust))
        await other.publish(f"{CRANE}/telemetry", "{}", qos=1)
        heard = await _hear(service, f"{CRANE}/telemetry")
        assert heard == [f"{DUST}/telemetry", f"{CRANE}/telemetry"]


async def test_a_new_password_ends_the_old_one(mosquitto: Mosquitto, register: Register) -> None:
    old, new = await register(DUST), await register(DUST)
    assert old != new
    assert not await accepted(mosquitto.as_device(DUST, old))


async def test_users_of_the_operators_own_are_kept(
    mosquitto: Mosquitto, register: Register, deploy: Path, service_password: str
) -> None:
    gateway = "site/example-site"
    shutil.copy(deploy / "broker" / "acl.local.example", deploy / "broker" / "acl.local")
    script = await asyncio.create_subprocess_exec(
        deploy / "secrets.sh",
        gateway,
        env=shell_environment(deploy),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    told, _ = await script.communicate()
    await register(DUST)
    async with (
        mosquitto.as_service(service_password, "smartsite-ingest") as service,
        mosquitto.as_device(gateway, told.decode().strip()) as speaker,
    ):
        await service.subscribe("#", qos=1)
        await speaker.publish("site/other-site/dust/dust-1/telemetry", "{}", qos=1)
        await speaker.publish(f"{CRANE}/telemetry", "{}", qos=1)
        assert await _hear(service, f"{CRANE}/telemetry") == [f"{CRANE}/telemetry"]


async def test_the_service_reads_and_nobody_else(
    mosquitto: Mosquitto, register: Register, service_password: str
) -> None:
    dust, crane = await register(DUST), await register(CRANE)
    async with (
        mosquitto.as_service(service_password, "smartsite-ingest") as service,
        mosquitto.as_device(CRANE, crane) as listener,
        mosquitto.as_device(DUST, dust) as speaker,
    ):
        await service.subscribe("#", qos=1)
        for topic_filter in ("#", "site/#", f"{DUST}/telemetry", f"{CRANE}/#"):
            await listener.subscribe(topic_filter, qos=1)
        await service.publish(f"{DUST}/event", "{}", qos=1)  # which it may not
        await speaker.publish(f"{DUST}/telemetry", "{}", qos=1)
        await listener.publish(f"{CRANE}/telemetry", "{}", qos=1)
        # What the broker had for the listener it sent before this acknowledgement.
        await listener.publish(f"{CRANE}/status", "{}", qos=1)
        heard = await _hear(service, f"{CRANE}/status")
        assert set(heard) == {f"{DUST}/telemetry", f"{CRANE}/telemetry", f"{CRANE}/status"}
        assert len(listener.messages) == 0


async def test_a_device_cannot_take_over_the_services_session(
    mosquitto: Mosquitto, register: Register, service_password: str
) -> None:
    password = await register(DUST)
    async with mosquitto.as_service(service_password, "smartsite-ingest", lasting=True) as service:
        await service.subscribe("#", qos=1)
        async with mosquitto.as_device(DUST, password, identifier="smartsite-ingest") as impostor:
            await impostor.publish(f"{DUST}/telemetry", "{}", qos=1)
            assert await _hear(service, f"{DUST}/telemetry") == [f"{DUST}/telemetry"]


async def test_what_was_saved_survives_kill_9(
    mosquitto: Mosquitto, register: Register, service_password: str
) -> None:
    password = await register(DUST)
    async with mosquitto.as_service(service_password, "smartsite-ingest", lasting=True) as service:
        await service.subscribe("site/+/+/+/+", qos=1)
    will = aiomqtt.Will(f"{DUST}/status", '{"online": false}', qos=1, retain=True)
    async with mosquitto.as_device(DUST, password, will=will) as device:
        await device.publish(f"{DUST}/status", '{"online": true}', qos=1, retain=True)
        for number in range(MANY):
            await device.publish(f"{DUST}/telemetry", str(number), qos=1)
    await asyncio.to_thread(mosquitto.wait_until_saved)
    mosquitto.kill()
    mosquitto.start()
    # What comes before the service is back finds its queue, too.
    async with mosquitto.as_device(DUST, password) as device:
        await device.publish(f"{DUST}/telemetry", str(MANY), qos=1)
    heard = []
    async with mosquitto.as_service(service_password, "smartsite-ingest", lasting=True) as service:
        async with asyncio.timeout(PATIENCE_SECONDS):
            async for message in service.messages:
                if message.topic.matches("+/+/+/+/telemetry"):
                    heard.append(int(bytes(message.payload)))
                    if heard[-1] == MANY:
                        break
    assert heard == list(range(MANY + 1))
    async with mosquitto.as_service(service_password, "smartsite-look") as look:
        await look.subscribe("site/+/+/+/status", qos=1)
        async with asyncio.timeout(PATIENCE_SECONDS):
            status = await anext(aiter(look.messages))
        assert status.retain
        assert json.loads(bytes(status.payload)) == {"online": True}


async def test_the_last_will_is_told_and_kept(
    mosquitto: Mosquitto, register: Register, service_password: str
) -> None:
    password = await register(DUST)
    will = aiomqtt.Will(f"{DUST}/status", '{"online": false}', qos=1, retain=True)
    async with mosquitto.as_service(service_password, "smartsite-ingest") as service:
        await service.subscribe(f"{DUST}/status", qos=1)
        # The same user again: the broker ends the first connection, as it would a dead one.
        first, second = (
            mosquitto.as_device(DUST, password, will=will),
            mosquitto.as_device(DUST, password),
        )
        async with first, second:
            await _hear(service, f"{DUST}/status")
    async with mosquitto.as_service(service_password, "smartsite-look") as look:
        await look.subscribe("#", qos=1)
        async with asyncio.timeout(PATIENCE_SECONDS):
            status = await anext(aiter(look.messages))
        assert (status.retain, status.payload) == (True, b'{"online": false}')


async def test_too_large_a_packet_ends_the_connection_and_is_said(
    mosquitto: Mosquitto, register: Register
) -> None:
    password = await register(DUST)
    fields = b"".join(
        len(field).to_bytes(2) + field for field in (b"any", DUST.encode(), password.encode())
    )
    connect = b"\x00\x04MQTT\x04\xc2\x00\x3c" + fields
    reader, writer = await asyncio.open_connection("127.0.0.1", mosquitto.devices)
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            writer.write(bytes([0x10, len(connect)]) + connect)
            assert await reader.readexactly(4) == b"\x20\x02\x00\x00"
            # A PUBLISH that claims 16 MiB: more than `max_packet_size` with what comes before it.
            writer.write(b"\x32\x80\x80\x80\x08")
            assert await reader.read() == b""
    finally:
        writer.close()
    assert f"Client {DUST} disconnected due to oversize packet." in mosquitto.log
