"""A small webhook receiver: what a contractor's or a regulator's end does, for demo and tests.

It checks the signature, takes each `webhook-id` once, and remembers what came when. It can be
told to fail. Its memory is bounded: of what came before the newest `KEPT` it forgets all.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec
from aiohttp import web

from alerts.errors import SignatureRejected
from alerts.messages import MAX_BODY_BYTES, Message, decode_message
from alerts.webhooks import ID_HEADER, Secret, verify

KEPT = 10_000


@dataclass(frozen=True, slots=True)
class Received:
    """A message taken.

    Attributes:
        webhook_id: The idempotency key.
        at: When it came; aware.
        body: The bytes that were signed.
        message: What they say.
    """

    webhook_id: str
    at: datetime
    body: bytes
    message: Message


@dataclass(frozen=True, slots=True)
class Call:
    """One request, whatever became of it.

    Attributes:
        webhook_id: As the header says; "" without one.
        at: When it came; aware.
        status: What was answered.
        said: Why, where it was refused.
    """

    webhook_id: str
    at: datetime
    status: int
    said: str = ""


class Receiver:
    """A server of one address.

    Args:
        secrets: Every secret that is valid.
        host: Where to listen.
        port: Which port; 0 takes a free one.
        clock: Tells the time, aware.

    Attributes:
        received: Messages taken, each once, in the order they came.
        calls: Every request, repeated and refused ones included.
        duplicates: How many requests repeated a message that was taken.
    """

    def __init__(
        self,
        secrets: Sequence[Secret],
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        clock: Callable[[], datetime] | None = None,
    ) -> None:
        self.secrets = tuple(secrets)
        self._host, self._port = host, port
        self._clock = clock or (lambda: datetime.now(UTC))
        self._runner: web.AppRunner | None = None
        self._failures: deque[tuple[int, dict[str, str]]] = deque()
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._changed = asyncio.Condition()
        self.received: deque[Received] = deque(maxlen=KEPT)
        self.calls: deque[Call] = deque(maxlen=KEPT)
        self.duplicates = 0

    @property
    def url(self) -> str:
        """Where it listens, once started."""
        return f"http://{self._host}:{self._port}/webhook"

    async def start(self) -> None:
        """Begin to listen.

        Raises:
            OSError: The address is taken.
        """
        app = web.Application(client_max_size=2 * MAX_BODY_BYTES)
        app.router.add_post("/webhook", self._take)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        try:
            site = web.TCPSite(runner, self._host, self._port)
            await site.start()
        except OSError:
            await runner.cleanup()
            raise
        self._runner = runner
        self._port = runner.addresses[0][1]

    async def stop(self) -> None:
        """Stop listening; started again, it takes the same port."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def fail(self, times: int, status: int = 503, headers: dict[str, str] | None = None) -> None:
        """Refuse the next requests.

        Args:
            times: How many.
            status: What to answer.
            headers: What to send with it.
        """
        self._failures.extend([(status, headers or {})] * times)

    async def wait_for(self, enough: Callable[[Receiver], bool]) -> None:
        """Wait until something has come.

        Args:
            enough: Looked at after every request.
        """
        async with self._changed:
            await self._changed.wait_for(lambda: enough(self))

    async def _take(self, request: web.Request) -> web.Response:
        status, said, headers = await self._judge(request)
        webhook_id = request.headers.get(ID_HEADER, "")
        self.calls.append(Call(webhook_id, self._clock(), status, said))
        async with self._changed:
            self._changed.notify_all()
        return web.Response(status=status, text=said, headers=headers)

    async def _judge(self, request: web.Request) -> tuple[int, str, dict[str, str]]:
        body = await request.read()
        if self._failures:
            status, headers = self._failures.popleft()
            return status, "told to fail", headers
        try:
            verified = verify(self.secrets, request.headers, body, self._clock())
        except SignatureRejected as fault:
            return 401, str(fault), {}
        if verified.webhook_id in self._seen:
            self.duplicates += 1
            return 200, "taken before", {}
        try:
            message = decode_message(body)
        except msgspec.DecodeError as fault:
            return 400, str(fault), {}
        self._seen[verified.webhook_id] = None
        if len(self._seen) > KEPT:
            self._seen.popitem(last=False)
        self.received.append(Received(verified.webhook_id, self._clock(), body, message))
        return 200, "", {}
