"""A broker that says what a test tells it to, truth or lie."""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, Self

from ingest.mqtt import codec
from ingest.mqtt.codec import Version
from ingest.mqtt.connection import Connection, Options, Phase, State

V3, V5 = Version.V3_1_1, Version.V5
CONNACK = {V3: b"\x20\x02\x00\x00", V5: b"\x20\x03\x00\x00\x00"}
SESSION_PRESENT = {V3: b"\x20\x02\x01\x00", V5: b"\x20\x03\x01\x00\x00"}
PINGRESP = b"\xd0\x00"


class Peer:
    """One TCP connection, seen from the broker."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def packet(self) -> tuple[int, bytes]:
        """The client's next packet: first byte, and what follows the length."""
        first = (await self._reader.readexactly(1))[0]
        length = shift = 0
        while True:
            byte = (await self._reader.readexactly(1))[0]
            length |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return first, await self._reader.readexactly(length)

    async def expect(self, first: int) -> bytes:
        """The next packet of a kind; pings before it are answered."""
        while True:
            got, body = await self.packet()
            if got == first:
                return body
            assert got == 0xC0, f"0x{got:02x} instead of 0x{first:02x}"
            await self.say(PINGRESP)

    async def say(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def hang_up(self) -> None:
        self._writer.close()

    async def welcome(
        self, version: Version = V3, *, present: bool = False, codes: bytes | None = b"\x01"
    ) -> None:
        """CONNECT and SUBSCRIBE answered as they should be; no SUBSCRIBE awaited without codes."""
        await self.expect(0x10)
        await self.say((SESSION_PRESENT if present else CONNACK)[version])
        if codes is not None:
            await self.grant(version, codes)

    async def grant(self, version: Version = V3, codes: bytes = b"\x01") -> bytes:
        """A SUBSCRIBE answered with codes; its filters are returned."""
        body = await self.expect(0x82)
        answer = body[:2] + (b"\0" if version is V5 else b"") + codes
        await self.say(bytes([0x90, len(answer)]) + answer)
        return body

    async def gone(self) -> bytes:
        """All that the client says until it hangs up, however it does that."""
        try:
            return await self._reader.read()
        except ConnectionError:
            return b""


Script = Callable[[Peer], Awaitable[None]]


async def stay(peer: Peer) -> None:
    """Answer pings until the client leaves."""
    while True:
        try:
            first, _ = await peer.packet()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        if first == 0xE0:
            return
        if first == 0xC0:
            await peer.say(PINGRESP)


async def honest(peer: Peer) -> None:
    """Let in, grant one filter, stay."""
    await peer.welcome()
    await stay(peer)


def message(packet_id: int, payload: bytes = b"x", version: Version = V3, **flags: bool) -> bytes:
    """A PUBLISH that nobody can object to."""
    return codec.publish(version, b"site/a", payload, packet_id=packet_id, **flags)


def says(data: bytes, then: Script = stay) -> Script:
    """In the place of a CONNACK."""

    async def script(peer: Peer) -> None:
        await peer.expect(0x10)
        await peer.say(data)
        await then(peer)

    return script


def adds(data: bytes, then: Script = stay, version: Version = V3) -> Script:
    """After all that is proper."""

    async def script(peer: Peer) -> None:
        await peer.welcome(version)
        await peer.say(data)
        await then(peer)

    return script


def grants(codes: bytes, packet_id: bytes = b"\x00\x01") -> Script:
    """In the place of the right SUBACK."""

    async def script(peer: Peer) -> None:
        await peer.welcome(codes=None)
        await peer.expect(0x82)
        await peer.say(bytes([0x90, 2 + len(codes)]) + packet_id + codes)
        await stay(peer)

    return script


async def hang_up(peer: Peer) -> None:
    await peer.hang_up()


async def honest_5(peer: Peer) -> None:
    """`honest`, in MQTT 5."""
    await peer.welcome(V5)
    await stay(peer)


class ScriptedBroker:
    """Plays one script after the other, one for each TCP connection, the last for all others.

    What goes wrong in a script is raised at the end.
    """

    def __init__(self, *scripts: Script, tls: ssl.SSLContext | None = None) -> None:
        self.connections = 0
        self.port = 0
        self._scripts: Sequence[Script] = scripts
        self._tls = tls
        self._faults: list[BaseException] = []
        self._playing: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"mqtt{'s' if self._tls else ''}://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._meet, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.close()
        for task in self._playing:
            task.cancel()
        await asyncio.gather(*self._playing, return_exceptions=True)
        await self._server.wait_closed()
        if error is None and self._faults:
            raise self._faults[0]

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        script = self._scripts[min(self.connections, len(self._scripts) - 1)]
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._playing.add(task)
        try:
            await script(Peer(reader, writer))
        except (asyncio.CancelledError, asyncio.IncompleteReadError, ConnectionError):
            pass
        except Exception as fault:  # noqa: BLE001 - raised at the end
            self._faults.append(fault)
        finally:
            self._playing.discard(task)
            writer.close()


async def eventually(met: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait for what announces itself to nobody."""
    async with asyncio.timeout(seconds):
        while not met():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.01)


class _Impatient(random.Random):
    """Lets a connection try again soon: after 2 ms, and 0.6 s at most."""

    def uniform(self, a: float, b: float) -> float:
        return 0.02


class Client:
    """A connection under test, with all that came of it; use as an async context manager."""

    def __init__(self, url: str, **options: Any) -> None:
        given = {"client_id": "tester", "filters": (("site/#", 1),)} | options
        self.connection = Connection(
            Options(url=url, **given), self._take, self._state, dice=_Impatient()
        )
        self.stop = asyncio.Event()
        self.states: list[State] = []
        self.payloads: list[bytes] = []
        self.packet_ids: list[tuple[int, int]] = []
        self.flags: list[int] = []
        self.batches = 0
        self.on_batch: Callable[[codec.Batch], None] = lambda _batch: None
        self._news = asyncio.Event()
        self._running: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._running = asyncio.create_task(self.connection.run(self.stop))
        self._running.add_done_callback(lambda _done: self._news.set())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._running is not None
        self.stop.set()
        if error is None:
            await self._running
        else:
            await asyncio.gather(self._running, return_exceptions=True)

    async def ended(self) -> None:
        """Wait for the end of `run`, and raise what it raises."""
        assert self._running is not None
        running, self._running = self._running, asyncio.create_task(asyncio.sleep(0))
        await running

    async def until(self, met: Callable[[], bool], seconds: float = 30.0) -> None:
        """Wait for something that messages or states bring about."""
        assert self._running is not None
        async with asyncio.timeout(seconds):
            while not met():
                if self._running.done():
                    self._running.result()
                    raise AssertionError("the connection has stopped")
                self._news.clear()
                await self._news.wait()

    async def ready(self, times: int = 1) -> None:
        await self.until(lambda: self.phases.count(Phase.READY) >= times)

    @property
    def phases(self) -> list[Phase]:
        return [state.phase for state in self.states]

    @property
    def errors(self) -> list[Exception]:
        return [state.error for state in self.states if state.error and state.phase == "waiting"]

    def acknowledge(self, count: int | None = None) -> int:
        """Acknowledge the first so many messages that are not; how many PUBACKs were written."""
        part = self.packet_ids[:count]
        del self.packet_ids[:count]
        return sum(
            self.connection.acknowledge(
                generation, [packet_id for its, packet_id in part if its == generation]
            )
            for generation in sorted({generation for generation, _ in part})
        )

    def _take(self, batch: codec.Batch) -> None:
        self.batches += 1
        self.payloads += batch.payloads
        self.packet_ids += [(batch.generation, packet_id) for packet_id in batch.packet_ids]
        self.flags += batch.flags
        self._news.set()
        self.on_batch(batch)

    def _state(self, state: State) -> None:
        self.states.append(state)
        self._news.set()
