"""Timelines of telling people: the clock is set by hand, everything else is real."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import pytest
from aiohttp import web
from prometheus_client import REGISTRY

from alerts.deliver import Deliverer, DeliverySettings, utc_now
from alerts.errors import DeliverySettingsUnusable, SecretUnusable
from alerts.life import Event
from alerts.receiver import Receiver
from alerts.violations import transition
from alerts.webhooks import Secret, new_secret
from device_profiles.findings import Severity
from ingest.errors import DatabaseUnavailable
from tests.integration.alerts.stage import Stage
from tests.unit.alerts.samples import at, finding

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def counted(outcome: str) -> float:
    return REGISTRY.get_sample_value("smartsite_delivery_attempts_total", {"outcome": outcome}) or 0


def types(receiver: Receiver) -> list[str]:
    return [received.message.type.removeprefix("violation.") for received in receiver.received]


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Wait for what announces itself to nobody."""
    async with asyncio.timeout(30):
        while not await holds():  # noqa: ASYNC110 - a database row sets no event
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def serving(
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
) -> AsyncIterator[str]:
    """An end that behaves as the test wants."""
    app = web.Application()
    app.router.add_post("/{path:.*}", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def running(deliverer: Deliverer) -> AsyncIterator[None]:
    stop = asyncio.Event()
    task = asyncio.create_task(deliverer.run(stop))
    try:
        yield
    finally:
        stop.set()
        await task


async def test_failed_twice_then_taken_under_the_same_id(
    stage: Stage, builder: Receiver, bureau: Receiver
) -> None:
    builder.fail(2)
    before = {outcome: counted(outcome) for outcome in ("delivered", "retry")}
    await stage.book(finding(0))
    async with stage.deliverer() as deliverer:
        assert await deliverer.deliver_due() == 2
        assert await deliverer.deliver_due() == 0
        stage.clock.forward(seconds=4)
        assert await deliverer.deliver_due() == 0
        stage.clock.forward(seconds=1)
        assert await deliverer.deliver_due() == 1
        stage.clock.forward(minutes=5)
        assert await deliverer.deliver_due() == 1
        stage.clock.forward(days=3)
        assert await deliverer.deliver_due() == 0
    assert [call.status for call in builder.calls] == [503, 503, 200]
    assert len({call.webhook_id for call in builder.calls}) == 1
    assert [call.status for call in bureau.calls] == [200]
    assert builder.calls[0].webhook_id != bureau.calls[0].webhook_id
    assert builder.received[0].body == bureau.received[0].body
    for row in await stage.deliveries():
        assert row["state"] == "delivered"
        assert row["last_status"] == 200
        assert row["last_error"] is None
    assert counted("delivered") - before["delivered"] == 2
    assert counted("retry") - before["retry"] == 2


async def test_the_events_of_one_violation_come_in_order(
    stage: Stage, builder: Receiver, bureau: Receiver
) -> None:
    builder.fail(1)
    await stage.book(finding(0))
    await stage.book(finding(50, subject="dust-2"))
    async with stage.deliverer() as deliverer:
        await deliverer.deliver_due()
        await stage.book(finding(0, known=1, severity=Severity.CRITICAL))
        await stage.book(finding(0, 2, severity=Severity.CRITICAL))
        await deliverer.deliver_due()
        assert types(builder) == ["opened"]  # of the other violation: it waits for nobody
        assert types(bureau) == ["opened", "opened", "amended", "closed"]
        waiting = [row for row in await stage.deliveries() if row["state"] == "pending"]
        assert {row["next_attempt_at"] for row in waiting} == {at(0) + timedelta(seconds=5)}
        stage.clock.forward(seconds=5)
        await deliverer.deliver_due()
    assert types(builder) == ["opened", "opened", "amended", "closed"]


async def test_what_waits_behind_a_failure_is_not_overdue(stage: Stage, builder: Receiver) -> None:
    """Health looks at what is overdue: an event that waits for its turn is not."""
    await stage.book(finding(0))
    await stage.book(finding(0, 5))
    builder.fail(3)
    async with stage.deliverer() as deliverer:
        for _ in range(3):
            await deliverer.deliver_due()
            stage.clock.forward(minutes=5)
    (last,) = await stage.ask("SELECT max(next_attempt_at) AS at FROM deliveries")
    waiting = [row for row in await stage.deliveries() if row["state"] == "pending"]
    assert [row["next_attempt_at"] for row in waiting] == [last["at"]] * 2


async def test_who_is_gone_is_told_no_more(
    stage: Stage, builder: Receiver, bureau: Receiver
) -> None:
    await stage.book(finding(0, 10))
    builder.fail(1, 410)
    before = counted("gone")
    async with stage.deliverer() as deliverer:
        await deliverer.deliver_due()
        await stage.book(finding(20))
        await deliverer.deliver_due()
    assert len(builder.calls) == 1
    assert types(bureau) == ["opened", "closed", "opened"]
    (recipient,) = await stage.ask("SELECT * FROM recipients WHERE disabled_at IS NOT NULL")
    assert recipient["id"] == "builder-hook"
    assert recipient["disabled_reason"] == "HTTP 410: 'told to fail': the recipient is gone"
    failed = [row for row in await stage.deliveries() if row["recipient_id"] == "builder-hook"]
    assert [(row["event"], row["state"]) for row in failed] == [
        ("opened", "failed"),
        ("closed", "failed"),
    ]
    assert failed[1]["last_error"].startswith("recipient disabled: HTTP 410")
    assert counted("gone") - before == 1


async def test_it_gives_up_with_a_reason_and_goes_on_to_the_next(
    stage: Stage, builder: Receiver
) -> None:
    await stage.book(finding(0, 10))
    builder.fail(10, 500)
    before = counted("gave_up")
    async with stage.deliverer() as deliverer:
        for _ in range(10):
            await deliverer.deliver_due()
            stage.clock.forward(hours=25)
    first, second = (
        row for row in await stage.deliveries() if row["recipient_id"] == "builder-hook"
    )
    assert (first["state"], first["attempts"]) == ("failed", 10)
    assert first["last_error"] == "gave up after 10 attempts: HTTP 500: 'told to fail'"
    assert second["state"] == "delivered"
    assert types(builder) == ["closed"]
    assert counted("gave_up") - before == 1


async def test_a_recipient_may_put_us_off(stage: Stage, builder: Receiver) -> None:
    builder.fail(1, 429, {"Retry-After": "120"})
    await stage.book(finding(0))
    async with stage.deliverer() as deliverer:
        await deliverer.deliver_due()
        stage.clock.forward(seconds=119)
        assert await deliverer.deliver_due() == 0
        stage.clock.forward(seconds=1)
        assert await deliverer.deliver_due() == 1
    assert types(builder) == ["opened"]


async def test_redirects_are_not_followed(stage: Stage, builder: Receiver) -> None:
    async def elsewhere(_: web.Request) -> web.Response:
        return web.Response(status=307, headers={"Location": builder.url})

    await stage.book(finding(0))
    async with serving(elsewhere) as url, stage.deliverer() as deliverer:
        await stage.do("UPDATE recipients SET url = %(url)s", {"url": url})
        await deliverer.deliver_due()
    assert not builder.calls
    for row in await stage.deliveries():
        assert (row["state"], row["last_status"]) == ("pending", 307)
        assert row["last_error"] == "HTTP 307 (redirects are not followed)"


@pytest.mark.parametrize("status", [200, 500])
async def test_an_answer_without_end_is_not_read(stage: Stage, status: int) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=status)
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                await response.write(b"\0x" * 32_768)
        return response

    await stage.book(finding(0))
    async with serving(endless) as url, stage.deliverer() as deliverer:
        await stage.do("UPDATE recipients SET url = %(url)s", {"url": url})
        await deliverer.deliver_due()
    for row in await stage.deliveries():
        assert row["last_status"] == status
        assert row["state"] == ("delivered" if status == 200 else "pending")
        assert len(row["last_error"] or "") < 250


async def test_who_does_not_answer_is_left(stage: Stage) -> None:
    async def silent(_: web.Request) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError

    await stage.book(finding(0))
    async with serving(silent) as url, stage.deliverer(timeout_s=0.2) as deliverer:
        await stage.do("UPDATE recipients SET url = %(url)s", {"url": url})
        await deliverer.deliver_due()
    for row in await stage.deliveries():
        assert (row["state"], row["last_status"]) == ("pending", None)
        assert row["last_error"] == "no answer within 0.2 s"


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("http://127.0.0.1:1/", "Cannot connect"),
        ("http://[::1/", "not a URL"),
        ("http://", "not a URL"),
        ("http://" + "a" * 70 + ".invalid/", ""),
    ],
)
async def test_an_address_that_leads_nowhere_is_tried_again(
    stage: Stage, url: str, error: str
) -> None:
    await stage.do("UPDATE recipients SET url = %(url)s", {"url": url})
    await stage.book(finding(0))
    async with stage.deliverer() as deliverer:
        assert await deliverer.deliver_due() == 2
    for row in await stage.deliveries():
        assert (row["state"], row["last_status"]) == ("pending", None)
        assert row["last_error"]
        assert error in row["last_error"]


async def test_a_secret_is_rotated_without_a_pause(
    stage: Stage, builder: Receiver, tmp_path: Path
) -> None:
    old, new = bytes(range(24)), bytes(range(200, 232))
    file = tmp_path / "builder.secret"
    await stage.do(
        "UPDATE recipients SET secret_ref = %(ref)s WHERE id = 'builder-hook'",
        {"ref": f"file:{file}"},
    )
    async with stage.deliverer() as deliverer:
        for place, (ours, theirs) in enumerate(
            [([old], [old]), ([new, old], [old]), ([new, old], [new]), ([new], [new])]
        ):
            file.write_text("\n".join(new_secret(key) for key in ours))
            builder.secrets = tuple(Secret(key) for key in theirs)
            await stage.book(finding(10 * place, 10 * place + 5))
            await deliverer.deliver_due()
        assert len(builder.received) == 8
        builder.secrets = (Secret(old),)
        await stage.book(finding(100))
        await deliverer.deliver_due()
    assert builder.calls[-1].status == 401


async def test_a_missing_secret_is_said_at_the_start_with_its_recipient(stage: Stage) -> None:
    del stage.environ["BUREAU_SECRET"]
    stage.environ["BUILDER_SECRET"] = "hunter2"
    with pytest.raises(SecretUnusable) as fault:
        await stage.deliverer().run(asyncio.Event())
    assert str(fault.value) == (
        "recipient builder-hook: secret env:BUILDER_SECRET secret 1 does not begin with whsec_;"
        " recipient bureau-hook: secret env:BUREAU_SECRET is not set"
    )


async def test_the_secrets_of_disabled_recipients_are_not_asked_for(stage: Stage) -> None:
    del stage.environ["BUREAU_SECRET"]
    await stage.do("UPDATE recipients SET disabled_at = now() WHERE id = 'bureau-hook'")
    async with stage.deliverer() as deliverer:
        await deliverer.check_secrets()


async def test_a_secret_that_goes_missing_holds_up_its_recipient_only(
    stage: Stage, builder: Receiver, bureau: Receiver
) -> None:
    secret = stage.environ.pop("BUREAU_SECRET")
    before = counted("misconfigured")
    await stage.book(finding(0))
    async with stage.deliverer() as deliverer:
        await deliverer.deliver_due()
        assert (types(builder), types(bureau)) == (["opened"], [])
        assert counted("misconfigured") - before == 1
        stage.environ["BUREAU_SECRET"] = secret
        stage.clock.forward(seconds=5)
        await deliverer.deliver_due()
    assert types(bureau) == ["opened"]


async def test_a_slow_recipient_holds_only_its_own_places(stage: Stage, bureau: Receiver) -> None:
    arrived, let_go = asyncio.Semaphore(0), asyncio.Event()

    async def slow(_: web.Request) -> web.Response:
        arrived.release()
        await let_go.wait()
        return web.Response()

    async with serving(slow) as url:
        await stage.do(
            "UPDATE recipients SET url = %(url)s WHERE id = 'builder-hook'", {"url": url}
        )
        for place in range(12):
            await stage.book(finding(0, subject=f"dust-{place}"))
        async with running(stage.deliverer(concurrency=4, per_recipient=2, poll_s=3_600)):
            await bureau.wait_for(lambda receiver: len(receiver.received) == 12)
            await arrived.acquire()
            await arrived.acquire()
            assert arrived.locked()  # two, and no third
            let_go.set()
            for _ in range(10):
                await arrived.acquire()
    assert {row["state"] for row in await stage.deliveries()} == {"delivered"}


async def test_many_workers_share_the_queue(
    stage: Stage, builder: Receiver, bureau: Receiver
) -> None:
    for place in range(15):
        await stage.book(finding(0, subject=f"dust-{place}"))
    async with contextlib.AsyncExitStack() as stack:
        workers = [
            await stack.enter_async_context(stage.deliverer(concurrency=3)) for _ in range(3)
        ]
        made = await asyncio.gather(*(worker.deliver_due() for worker in workers))
        made += await asyncio.gather(*(worker.deliver_due() for worker in workers))
    assert sum(made) == 30
    assert len(builder.calls) == len(builder.received) == 15
    assert len(bureau.calls) == len(bureau.received) == 15


async def test_booking_wakes_the_worker(stage: Stage, builder: Receiver, bureau: Receiver) -> None:
    async with running(stage.deliverer(poll_s=3_600)):
        for place in range(3):
            await stage.book(finding(10 * place, 10 * place + 5))
            await builder.wait_for(lambda receiver: len(receiver.received) == 2 * place + 2)  # noqa: B023
        await bureau.wait_for(lambda receiver: len(receiver.received) == 6)
        async with stage.connection.transaction():
            await transition(
                stage.connection,
                finding(0).identity,
                Event.WITHDRAWN,
                "wang",
                stage.clock(),
                {"reason": "calibration"},
            )
        await builder.wait_for(lambda receiver: len(receiver.received) == 7)
    assert types(builder) == ["opened", "closed"] * 3 + ["withdrawn"]


async def test_without_a_wake_it_is_found_by_polling(stage: Stage, builder: Receiver) -> None:
    async with running(stage.deliverer(poll_s=0.05)):
        await stage.book(finding(0))
        await builder.wait_for(lambda receiver: len(receiver.received) == 1)
        await until(stage.all_delivered)
        await stage.do("UPDATE deliveries SET state = 'pending'")  # this notifies nobody
        await builder.wait_for(lambda receiver: receiver.duplicates == 1)


async def test_a_retry_is_made_when_its_time_comes(stage: Stage, builder: Receiver) -> None:
    builder.fail(3)
    pauses = tuple(timedelta(milliseconds=20 * place) for place in range(5))
    deliverer = Deliverer(
        stage.database_url,
        DeliverySettings(poll_s=3_600, schedule=pauses),
        environ=stage.environ,
    )
    builder._clock = utc_now
    async with running(deliverer):
        await stage.book(finding(0))
        await builder.wait_for(lambda receiver: len(receiver.received) == 1)
    assert [call.status for call in builder.calls] == [503, 503, 503, 200]


async def test_on_stopping_what_is_under_way_is_finished(stage: Stage) -> None:
    arrived, let_go = asyncio.Event(), asyncio.Event()

    async def slow(_: web.Request) -> web.Response:
        arrived.set()
        await let_go.wait()
        return web.Response()

    await stage.book(finding(0))
    async with serving(slow) as url:
        await stage.do("UPDATE recipients SET url = %(url)s", {"url": url})
        stop = asyncio.Event()
        task = asyncio.create_task(stage.deliverer().run(stop))
        await arrived.wait()
        stop.set()
        await asyncio.sleep(0)
        assert not task.done()
        let_go.set()
        await task
    assert {row["state"] for row in await stage.deliveries()} == {"delivered"}
    assert [task.get_name() for task in asyncio.all_tasks() if "deliver" in task.get_name()] == []


KILLED = """
import asyncio, sys
from alerts.deliver import Deliverer, DeliverySettings

async def main():
    deliverer = Deliverer(sys.argv[1], DeliverySettings(), clock=clock)
    await deliverer.run(asyncio.Event())

from datetime import datetime
clock = lambda: datetime.fromisoformat(sys.argv[2])
asyncio.run(main())
"""


async def test_killed_in_between_another_takes_over(
    stage: Stage, builder: Receiver, bureau: Receiver
) -> None:
    """kill -9 after the recipient took the message, before that was written down."""
    arrived: asyncio.Queue[str] = asyncio.Queue()

    async def takes_and_says_nothing(request: web.Request) -> web.Response:
        await request.read()
        arrived.put_nowait(request.headers["webhook-id"])
        await asyncio.Event().wait()
        raise AssertionError

    await stage.book(finding(0))
    async with serving(takes_and_says_nothing) as url:
        await stage.do("UPDATE recipients SET url = %(url)s", {"url": url})
        worker = await asyncio.create_subprocess_exec(
            sys.executable, "-c", KILLED, stage.database_url, stage.clock().isoformat(),
            env=stage.environ,
        )  # fmt: skip
        first = {await arrived.get(), await arrived.get()}
        worker.send_signal(signal.SIGKILL)
        await worker.wait()
    await stage.do(
        "UPDATE recipients SET url = CASE id WHEN 'builder-hook' THEN %(builder)s"
        " ELSE %(bureau)s END",
        {"builder": builder.url, "bureau": bureau.url},
    )
    async with stage.deliverer() as deliverer:
        stage.clock.forward(seconds=59)
        assert await deliverer.deliver_due() == 0  # still leased
        stage.clock.forward(seconds=1)
        assert await deliverer.deliver_due() == 2
    assert {builder.received[0].webhook_id, bureau.received[0].webhook_id} == first
    assert [row["attempts"] for row in await stage.deliveries()] == [2, 2]


async def test_told_twice_is_taken_once(stage: Stage, builder: Receiver) -> None:
    """The answer was lost: the same id comes again, and the recipient knows it."""
    await stage.book(finding(0))
    async with stage.deliverer() as deliverer:
        await deliverer.deliver_due()
        await stage.do("UPDATE deliveries SET state = 'pending'")
        assert await deliverer.deliver_due() == 2
    assert len(builder.calls) == 2
    assert (len(builder.received), builder.duplicates) == (1, 1)


@pytest.mark.parametrize(
    ("in_time", "late", "state", "last_status"),
    [(200, 500, "delivered", 200), (503, 500, "pending", 503), (503, 200, "delivered", 200)],
)
async def test_who_lost_the_lease_does_not_overrule_who_has_it(
    stage: Stage, in_time: int, late: int, state: str, last_status: int
) -> None:
    """Only what was taken is taken, whoever says so."""
    arrived, let_go = asyncio.Event(), asyncio.Event()

    async def slow_first(_: web.Request) -> web.Response:
        if arrived.is_set():
            return web.Response(status=in_time)
        arrived.set()
        await let_go.wait()
        return web.Response(status=late)

    await stage.do("DELETE FROM recipients WHERE id = 'bureau-hook'")
    await stage.book(finding(0))
    async with (
        serving(slow_first) as url,
        stage.deliverer() as sleeper,
        stage.deliverer() as other,
    ):
        await stage.do("UPDATE recipients SET url = %(url)s", {"url": url})
        first = asyncio.create_task(sleeper.deliver_due())
        await arrived.wait()
        stage.clock.forward(seconds=61)
        assert await other.deliver_due() == 1
        let_go.set()
        await first
    (row,) = await stage.deliveries()
    assert (row["state"], row["attempts"], row["last_status"]) == (state, 2, last_status)
    if state == "pending":
        assert row["next_attempt_at"] == stage.clock() + timedelta(minutes=5)


class Proxy:
    """A TCP proxy in front of the database that can be cut."""

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = 0

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(*self._target)
        self._writers |= {writer, back}
        await asyncio.gather(self._pump(reader, back), self._pump(there, writer))
        self._writers -= {writer, back}

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.transport.abort()


@pytest.fixture
async def proxy(stage: Stage) -> AsyncIterator[Proxy]:
    info = stage.connection.info
    proxy = Proxy(info.host, info.port)
    await proxy.open()
    stage.database_url = (
        f"host=127.0.0.1 port={proxy.port} dbname={info.dbname} user={info.user}"
        f" password={info.password} sslmode=disable"
    )
    yield proxy
    await proxy.cut()


async def test_a_dead_database_is_waited_for(
    stage: Stage, proxy: Proxy, builder: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    async def said() -> bool:
        return "the database cannot be used" in caplog.text

    async with running(stage.deliverer(poll_s=0.05)):
        await stage.book(finding(0))
        await builder.wait_for(lambda receiver: len(receiver.received) == 1)
        await proxy.cut()
        await until(said)
        await stage.book(finding(0, subject="dust-2"))
        assert len(builder.received) == 1
        await proxy.open()
        await builder.wait_for(lambda receiver: len(receiver.received) == 2)
    assert builder.duplicates == 0


async def test_what_was_taken_while_the_database_died_is_written_down_later(
    stage: Stage, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    arrived, let_go = asyncio.Semaphore(0), asyncio.Event()
    calls: list[str] = []

    async def said() -> bool:
        return "the database cannot be used" in caplog.text

    async def slow(request: web.Request) -> web.Response:
        calls.append(request.headers["webhook-id"])
        arrived.release()
        await let_go.wait()
        return web.Response()

    await stage.book(finding(0))
    async with serving(slow) as url:
        await stage.do("UPDATE recipients SET url = %(url)s", {"url": url})
        async with running(stage.deliverer(poll_s=0.05)):
            await arrived.acquire()
            await arrived.acquire()
            await proxy.cut()
            let_go.set()
            await until(said)
            await proxy.open()
            await until(stage.all_delivered)
    assert len(calls) == len(set(calls)) == 2


async def test_stopping_while_the_database_is_dead(
    stage: Stage, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    async def said() -> bool:
        return "the database cannot be used" in caplog.text

    await proxy.cut()
    async with running(stage.deliverer()):
        await until(said)
    with pytest.raises(DatabaseUnavailable):
        await stage.deliverer().check_secrets()
    await proxy.open()


def test_a_lease_shorter_than_an_attempt_is_refused() -> None:
    with pytest.raises(DeliverySettingsUnusable, match="lease_s"):
        DeliverySettings(timeout_s=60, lease_s=60)
    with pytest.raises(DeliverySettingsUnusable, match="at least 1"):
        DeliverySettings(concurrency=0)
