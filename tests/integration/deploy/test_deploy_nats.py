"""The users file for nats-server, on the real one: who may say what, and who is out again."""

from __future__ import annotations

import asyncio
import csv
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import aiomqtt
import psycopg
import pytest
from typer.testing import CliRunner

from device_profiles.sites import Device
from device_profiles.vocabulary import Kind
from smartsite.cli import app
from smartsite.embedded.broker import find_program, greet
from smartsite.services import password_environment
from tests.integration.deploy.mosquitto import PATIENCE_SECONDS, POLL_SECONDS, accepted
from tests.integration.yard import SITE, ask, register, site_file

# Dots are nats-server's own joints: names hold them all the same.
DEVICES = (
    Device(site=SITE, id="dust.1", kind=Kind.DUST),
    Device(site=SITE, id="dust", kind=Kind.DUST),
    Device(site=SITE, id="gate", kind=Kind.CAMERA),
)
DUST, OTHER, GATE = (f"d.1/site/{SITE}/{one.kind}/{one.id}" for one in DEVICES)
SERVICE_PASSWORD = "the service's own"

Command = Callable[..., str]

ATTEMPT_SECONDS = 5.0
"""A client that comes while nats-server reads its users again is left without an answer."""


class Nats:
    """One nats-server whose file includes `users.conf`; blocking, but for its clients."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        (folder / "nats.conf").write_text(
            "server_name: test\nlisten: 127.0.0.1:-1\n"
            f'jetstream {{ store_dir: "{folder}/jetstream" }}\n'
            f"mqtt {{ listen: 127.0.0.1:{self.port} }}\n"
            'include "users.conf"\n'
        )

    def __enter__(self) -> Self:
        self._log = (self._folder / "nats.log").open("wb")
        self._process = subprocess.Popen(
            [find_program(), "-c", self._folder / "nats.conf"], stdout=self._log, stderr=self._log
        )
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            assert self._process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            try:
                greet(self.port, "readiness")
            except OSError:
                time.sleep(POLL_SECONDS)
            else:
                return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.terminate()
        self._process.wait(PATIENCE_SECONDS)
        self._log.close()

    @property
    def log(self) -> str:
        """What it has said so far."""
        return (self._folder / "nats.log").read_text("utf-8", "replace")

    def reload(self) -> None:
        """Have it read its users again."""
        self._process.send_signal(signal.SIGHUP)

    def client(
        self,
        user: str,
        password: str,
        identifier: str | None = None,
        timeout: float = ATTEMPT_SECONDS,
    ) -> aiomqtt.Client:
        """A client."""
        return aiomqtt.Client(
            "127.0.0.1",
            self.port,
            username=user,
            password=password,
            identifier=identifier,
            timeout=timeout,
        )

    def service(self) -> aiomqtt.Client:
        """The service."""
        return self.client("smartsite", SERVICE_PASSWORD, "smartsite-ingest")


@pytest.fixture
def smartsite(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """Runs the command; what it prints."""
    monkeypatch.chdir(tmp_path)
    for name, value in password_environment(database_url).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SMARTSITE_BROKER__URL", "mqtt://127.0.0.1:1")
    monkeypatch.setenv("SMARTSITE_BROKER__USERNAME", "smartsite")
    monkeypatch.setenv("SMARTSITE_BROKER__PASSWORD", "env:MQTT_SECRET")
    monkeypatch.setenv("MQTT_SECRET", SERVICE_PASSWORD)
    register(database_url, site_file("d.1", DEVICES))

    def run(*arguments: str, given: str | None = None) -> str:
        result = CliRunner().invoke(app, ["devices", *arguments], input=given)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.stdout

    return run


@pytest.fixture
def nats(service_dir: Path, smartsite: Command) -> Iterator[Nats]:
    """The broker with nobody but the service."""
    smartsite("acl", "--broker", "nats", str(service_dir))
    with Nats(service_dir) as broker:
        yield broker


async def _hear(client: aiomqtt.Client, until: str) -> list[str]:
    heard: list[str] = []
    async with asyncio.timeout(PATIENCE_SECONDS):
        async for message in client.messages:
            heard.append(message.topic.value)
            if message.topic.value == until:
                return heard
    raise AssertionError("the connection ended")


async def _refused(client: aiomqtt.Client) -> bool:
    """Whether the broker says no; one that is reading its users again may say nothing at all."""
    try:
        async with client:
            return False
    except aiomqtt.MqttCodeError:
        return True
    except aiomqtt.MqttError:
        return False


async def _rewrite(smartsite: Command, nats: Nats, folder: Path, new: aiomqtt.Client) -> None:
    smartsite("acl", "--broker", "nats", str(folder))
    nats.reload()
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await accepted(new):
            pass


async def test_devices_speak_as_themselves_until_they_are_retired(
    nats: Nats, smartsite: Command, service_dir: Path
) -> None:
    dust = smartsite("passwd", f"{SITE}/dust.1").strip()
    other = smartsite("passwd", f"{SITE}/dust").strip()
    gate = smartsite("passwd", f"{SITE}/gate").strip()
    await _rewrite(smartsite, nats, service_dir, nats.client(GATE, gate))
    assert not await accepted(nats.client(DUST, "wrong"))
    assert not await accepted(nats.client(DUST, other))
    assert not await accepted(nats.client("smartsite", dust))
    mine = [f"{DUST}/telemetry", f"{DUST}/event", f"{GATE}/frame/1", f"{DUST}/status"]
    not_mine = [
        f"{OTHER}/telemetry",
        f"{DUST}/telemetry/more",
        f"{DUST}/commands",
        f"site/{SITE}/dust/dust.1/telemetry",
        f"d/1/site/{SITE}/dust/dust.1/telemetry",
        f"d.1/site/{SITE}/dust/dust/1/telemetry",
        "$MQTT/sub/x",
    ]
    async with nats.service() as service:
        await service.subscribe("#", qos=1)
        async with nats.client(GATE, gate) as camera:
            await camera.publish(mine[2], b"a picture", qos=1)
        async with nats.client(DUST, dust) as device:
            for topic in ("#", f"{OTHER}/telemetry", f"{DUST}/#"):
                (granted,) = await device.subscribe(topic, qos=1)
                assert not isinstance(granted, int)
                assert granted.is_failure
            for topic in (*not_mine, mine[0], mine[1], mine[3]):
                await device.publish(topic, b"{}", qos=1)
            assert sorted(await _hear(service, mine[3])) == sorted(mine)

            smartsite("retire", f"{SITE}/dust.1")
            smartsite("acl", "--broker", "nats", str(service_dir))
            nats.reload()
            with pytest.raises(aiomqtt.MqttError):
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await anext(aiter(device.messages))  # until the broker hangs up
    assert not await accepted(nats.client(DUST, dust))
    assert await accepted(nats.client(OTHER, other))


async def test_a_site_is_given_passwords_at_once(
    nats: Nats, smartsite: Command, service_dir: Path, tmp_path: Path
) -> None:
    first = smartsite("passwd", f"{SITE}/gate").strip()
    file = tmp_path / "passwords.csv"
    smartsite("passwd", "--all-of", SITE, "--csv", str(file))
    assert file.stat().st_mode & 0o777 == 0o600
    rows = list(csv.DictReader(file.read_text("utf-8").splitlines()))
    assert [row["user"] for row in rows] == [OTHER, DUST]  # the camera has one
    await _rewrite(smartsite, nats, service_dir, nats.client(OTHER, rows[0]["password"]))
    assert await accepted(nats.client(GATE, first))

    renewed = tmp_path / "renewed.csv"
    smartsite("passwd", "--all-of", SITE, "--renew", "--csv", str(renewed))
    new = {
        row["user"]: row["password"]
        for row in csv.DictReader(renewed.read_text("utf-8").splitlines())
    }
    assert new.keys() == {DUST, OTHER, GATE}
    await _rewrite(smartsite, nats, service_dir, nats.client(GATE, new[GATE]))
    assert not await accepted(nats.client(GATE, first))


async def test_one_is_revoked_without_being_retired(
    nats: Nats, smartsite: Command, service_dir: Path
) -> None:
    smartsite("passwd", f"{SITE}/dust.1", "--stdin", given="of a person's own\n")
    other = smartsite("passwd", f"{SITE}/dust").strip()
    await _rewrite(smartsite, nats, service_dir, nats.client(DUST, "of a person's own"))
    smartsite("passwd", f"{SITE}/dust.1", "--revoke")
    smartsite("acl", "--broker", "nats", str(service_dir))
    nats.reload()
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await _refused(nats.client(DUST, "of a person's own")):
            pass
    assert await accepted(nats.client(OTHER, other))


def test_no_password_is_kept_and_the_files_are_closed(
    smartsite: Command, database_url: str, tmp_path: Path
) -> None:
    password = smartsite("passwd", f"{SITE}/dust.1").strip()
    (kept,) = ask(database_url, "SELECT * FROM device_credentials")
    assert password not in str(kept)
    for broker, names in (("nats", {"users.conf"}), ("mosquitto", {"passwords", "acl"})):
        folder = tmp_path / broker
        folder.mkdir()
        smartsite("acl", "--broker", broker, str(folder))
        assert {file.name for file in folder.iterdir()} == names
        for file in folder.iterdir():
            assert file.stat().st_mode & 0o777 == 0o640
            text = file.read_text("utf-8")
            assert password not in text
            assert SERVICE_PASSWORD not in text


def test_a_file_that_is_there_is_not_written_over_and_nothing_is_changed(
    smartsite: Command, database_url: str, tmp_path: Path
) -> None:
    file = tmp_path / "passwords.csv"
    file.write_text("precious")
    with pytest.raises(Exception, match="File exists"):
        smartsite("passwd", "--all-of", SITE, "--csv", str(file))
    assert file.read_text("utf-8") == "precious"
    assert ask(database_url, "SELECT FROM device_credentials") == []


def test_passwords_that_could_not_be_kept_are_not_written_down(
    smartsite: Command, database_url: str, tmp_path: Path
) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE EXCEPTION 'disk full'; END $$"
        )
        connection.execute(
            "CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON device_credentials"
            " INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()"
        )
    file = tmp_path / "passwords.csv"
    with pytest.raises(psycopg.Error, match="disk full"):
        smartsite("passwd", "--all-of", SITE, "--csv", str(file))
    assert not file.exists()


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["passwd"], "name a device"),
        (["passwd", f"{SITE}/dust", "--all-of", SITE], "name a device"),
        (["passwd", "--all-of", SITE], "go together"),
        (["passwd", f"{SITE}/dust", "--renew"], "--renew"),
        (["passwd", f"{SITE}/nobody"], "not registered"),
        (["passwd", "--all-of", "nowhere", "--csv", "x.csv"], "not registered"),
        (["acl", "--broker", "mosquitto", "no/such/folder"], "cannot be written"),
    ],
)
def test_what_makes_no_sense_is_refused(smartsite: Command, arguments: list[str], why: str) -> None:
    with pytest.raises(Exception, match=why):
        smartsite(*arguments)


@pytest.mark.parametrize("name", ["SMARTSITE_BROKER__USERNAME", "SMARTSITE_BROKER__PASSWORD"])
def test_the_service_is_not_shut_out(
    smartsite: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.delenv(name)
    with pytest.raises(Exception, match="shut out"):
        smartsite("acl", "--broker", "mosquitto", str(tmp_path))
    monkeypatch.setenv("SMARTSITE_BROKER__URL", "embedded")
    with pytest.raises(Exception, match="embedded"):
        smartsite("acl", "--broker", "mosquitto", str(tmp_path))
    assert list(tmp_path.iterdir()) == []
