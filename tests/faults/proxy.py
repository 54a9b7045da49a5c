"""A relay between the service and its broker: it counts, and breaks connections as told."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

# First bytes.
PUBLISH = 0x32  # of QoS 1, sent the first time, not retained
PUBACK = 0x40
SUBACK = 0x90
PINGREQ = 0xC0


@dataclass(frozen=True)
class Fate:
    """What becomes of one connection.

    Attributes:
        cut_up: Cut after so many bytes from the service; None: never.
        cut_down: After so many from the broker.
        reset: Cut by a reset; else in order, as far as TCP knows.
        dribble: So many bytes of each direction go a few at a time.
        delay_s: Every read is passed on so much later.
    """

    cut_up: int | None = None
    cut_down: int | None = None
    reset: bool = True
    dribble: int = 0
    delay_s: float = 0.0


HONEST = Fate()


class Framing:
    """Where the packets of one direction begin and end."""

    def __init__(self) -> None:
        self._head = b""
        self._body_left = 0

    @property
    def inside(self) -> bool:
        """Whether the last byte was not the last of a packet."""
        return bool(self._head) or self._body_left > 0

    def feed(self, data: bytes) -> list[int]:
        """The first bytes of the packets that begin in some bytes."""
        begun: list[int] = []
        place = 0
        while place < len(data):
            if self._body_left:
                step = min(self._body_left, len(data) - place)
                self._body_left -= step
                place += step
                continue
            self._head += data[place : place + 1]
            place += 1
            if len(self._head) > 1 and self._head[-1] < 0x80:
                begun.append(self._head[0])
                self._body_left = sum(
                    (byte & 0x7F) << 7 * power for power, byte in enumerate(self._head[1:])
                )
                self._head = b""
        return begun


@dataclass
class Proxy:
    """The relay.

    Attributes:
        broker_url: Where it leads.
        fates: What becomes of the connection of a number, from 0.
        dice: For the sizes of what it dribbles.
        connections: How many there were.
        cuts: How many it cut.
        cuts_inside: Of these, how many inside a packet.
        acks: PUBACKs that the service has sent.
        pings: PINGREQs that it has sent.
        subscribed: SUBACKs that the broker has sent.
        delivered: PUBLISHes that it has, without those marked as sent before.
        swallowing: Set to pass nothing on that the service says.
        swallowed: PUBACKs that were lost so.
    """

    broker_url: str
    fates: Callable[[int], Fate] = lambda _number: HONEST
    dice: random.Random = field(default_factory=lambda: random.Random(1))
    connections: int = 0
    cuts: int = 0
    cuts_inside: int = 0
    acks: int = 0
    pings: int = 0
    subscribed: int = 0
    delivered: int = 0
    swallowing: bool = False
    swallowed: int = 0
    _server: asyncio.Server | None = None
    _serving: set[asyncio.Task[None]] = field(default_factory=set)
    _ways: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        """Where it listens."""
        assert self._server is not None
        return f"mqtt://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    def cut(self) -> None:
        """Cut all connections of now."""
        for way in self._ways:
            way.cancel()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            await self._serve(reader, writer)
        except asyncio.CancelledError:
            pass  # asyncio would report the end of its own handler
        finally:
            writer.transport.abort()
            self._serving.discard(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        fate = self.fates(self.connections)
        self.connections += 1
        parts = urlsplit(self.broker_url)
        try:
            far_reader, far_writer = await asyncio.open_connection(parts.hostname, parts.port)
        except OSError:
            return
        ways = [
            asyncio.create_task(self._pass_on(reader, far_writer, fate.cut_up, fate, upward=True)),
            asyncio.create_task(
                self._pass_on(far_reader, writer, fate.cut_down, fate, upward=False)
            ),
        ]
        self._ways |= set(ways)
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            if not fate.reset:
                # What was passed on is to arrive before the end does.
                for one in (writer, far_writer):
                    with contextlib.suppress(OSError):
                        one.write_eof()
                await asyncio.wait(ways, timeout=0.2)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            self._ways -= set(ways)
            far_writer.transport.abort()

    async def _pass_on(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        cut_after: int | None,
        fate: Fate,
        *,
        upward: bool,
    ) -> None:
        """Pass one direction on, until it ends or is to be cut."""
        framing = Framing()
        passed = 0
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                if fate.delay_s:
                    await asyncio.sleep(fate.delay_s)
                if upward and self.swallowing:
                    self.swallowed += framing.feed(data).count(PUBACK)
                    continue
                if cut_after is not None:
                    data = data[: cut_after - passed]
                begun = framing.feed(data)
                if upward:
                    self.acks += begun.count(PUBACK)
                    self.pings += begun.count(PINGREQ)
                else:
                    self.subscribed += begun.count(SUBACK)
                    self.delivered += begun.count(PUBLISH)
                while data:
                    step = self.dice.randint(1, 5) if passed < fate.dribble else len(data)
                    writer.write(data[:step])
                    await writer.drain()
                    if passed < fate.dribble:
                        await asyncio.sleep(0)
                    passed += len(data[:step])
                    data = data[step:]
                if passed == cut_after:
                    self.cuts += 1
                    self.cuts_inside += framing.inside
                    return
