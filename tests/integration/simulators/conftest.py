"""A broker that misbehaves on demand, and a relay that can be cut."""

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import pytest

Answer = Callable[["Published"], Awaitable[bool]]


@dataclass(frozen=True)
class Published:
    """One PUBLISH as it came."""

    client_id: str
    topic: str
    payload: bytes
    retain: bool
    number: int


async def _acknowledge(_: Published) -> bool:
    return True


@dataclass
class ScriptedBroker:
    """Just enough of a broker to watch a publisher.

    Attributes:
        answer: Asked for each PUBLISH: True acknowledges it, False cuts the connection.
        connack: Return code of CONNACK.
        published: What came, in order, also what was not acknowledged.
        wills: Topic and payload of each connection's last will.
        left: Client ids that disconnected in order.
    """

    answer: Answer = _acknowledge
    connack: int = 0
    port: int = 0
    published: list[Published] = field(default_factory=list)
    wills: list[tuple[str, bytes]] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client_id = ""
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                first, body = await _packet(reader)
                if first >> 4 == 1:
                    client_id, will = _connect(body)
                    if will:
                        self.wills.append(will)
                    writer.write(bytes((0x20, 2, 0, self.connack)))
                elif first >> 4 == 3:
                    published, packet_id = _publish(first, body, client_id, len(self.published))
                    self.published.append(published)
                    if not await self.answer(published):
                        break
                    writer.write(b"\x40\x02" + packet_id)
                elif first >> 4 == 12:
                    writer.write(b"\xd0\x00")
                elif first >> 4 == 14:
                    self.left.append(client_id)
                    break
                await writer.drain()
        writer.close()


async def _packet(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    first = (await reader.readexactly(1))[0]
    length = shift = 0
    while True:
        byte = (await reader.readexactly(1))[0]
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return first, await reader.readexactly(length)


def _field(body: bytes, at: int) -> tuple[bytes, int]:
    (length,) = struct.unpack_from(">H", body, at)
    return body[at + 2 : at + 2 + length], at + 2 + length


def _connect(body: bytes) -> tuple[str, tuple[str, bytes] | None]:
    flags = body[7]
    client_id, at = _field(body, 10)
    if not flags & 4:
        return client_id.decode(), None
    topic, at = _field(body, at)
    payload, at = _field(body, at)
    return client_id.decode(), (topic.decode(), payload)


def _publish(first: int, body: bytes, client_id: str, number: int) -> tuple[Published, bytes]:
    topic, at = _field(body, 0)
    published = Published(client_id, topic.decode(), body[at + 2 :], bool(first & 1), number)
    return published, body[at : at + 2]


@pytest.fixture
async def scripted_broker() -> AsyncIterator[ScriptedBroker]:
    broker = ScriptedBroker()
    server = await asyncio.start_server(broker.serve, "127.0.0.1", 0)
    broker.port = server.sockets[0].getsockname()[1]
    yield broker
    server.close()


class Relay:
    """Stands between clients and a broker, and can cut all connections at once."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = 0
        self.cuts = 0

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def cut(self) -> None:
        self.cuts += 1
        for writer in self._writers:
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(*self._target)
        self._writers |= {writer, far_writer}
        try:
            await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))
        finally:
            self._writers -= {writer, far_writer}


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()


@pytest.fixture
async def relay(broker_url: str) -> AsyncIterator[Relay]:
    host, _, port = broker_url.removeprefix("mqtt://").partition(":")
    relay = Relay(host, int(port))
    server = await asyncio.start_server(relay.serve, "127.0.0.1", 0)
    relay.port = server.sockets[0].getsockname()[1]
    yield relay
    relay.cut()
    server.close()


@pytest.fixture(autouse=True)
def _quick_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reconnect at once: what is tested is that it does, not how politely."""
    monkeypatch.setattr("simulators.publish._PAUSE_S", (0.01, 0.05))
