"""A copy of `deploy/` as an operator has it: a site file, and secrets made by its own script."""

import asyncio
import shutil
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from device_profiles.sites import Device
from device_profiles.topics import parse_topic
from smartsite.cli import app
from smartsite.services import password_environment
from smartsite.settings import load_site_file
from tests.integration.deploy.mosquitto import (
    PATIENCE_SECONDS,
    Mosquitto,
    accepted,
    find_program,
    shell_environment,
)
from tests.integration.yard import register as register_file
from tests.integration.yard import site_file
from tests.unit.docs.manual import ROOT


@pytest.fixture
def deploy(tmp_path: Path) -> Path:
    """The copy; its files name the secrets where they lie here."""
    copy = tmp_path / "deploy"
    shutil.copytree(ROOT / "deploy", copy, ignore=shutil.ignore_patterns(".env", "site.toml"))
    for made in (*(copy / "secrets").iterdir(), *(copy / "broker").iterdir()):
        if made.name not in ("README.md", "acl", "acl.local.example"):
            made.unlink()
    subprocess.run([copy / "secrets.sh"], check=True, env=shell_environment(copy))
    (copy / "site.example.toml").rename(copy / "site.toml")
    for name in ("smartsite.toml", "site.toml", "timescaledb/10-roles.sh"):
        file = copy / name
        text = file.read_text("utf-8")
        assert "/run/secrets/" in text
        file.write_text(text.replace("/run/secrets/", f"{copy}/secrets/"), "utf-8")
    return copy


@pytest.fixture
def service_password(deploy: Path) -> str:
    """The service's password at the broker."""
    return (deploy / "secrets" / "mqtt_password").read_text("utf-8").strip()


@pytest.fixture
def mosquitto(deploy: Path, tmp_path: Path) -> Iterator[Mosquitto]:
    """The broker, running."""
    program = find_program("mosquitto")
    if program is None:
        pytest.skip("Mosquitto is not installed here (Debian: apt install mosquitto)")
    folder = tmp_path / "mosquitto"
    folder.mkdir()
    with Mosquitto(program, deploy, folder) as broker:
        yield broker


@pytest.fixture
def smartsite(
    deploy: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """Runs the command as the container does; what it prints. The site file is registered."""
    for name, value in password_environment(database_url).items():
        monkeypatch.setenv(name, value)
    register_file(database_url, load_site_file(deploy / "site.toml"))

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(app, [*arguments, "--config", str(deploy / "smartsite.toml")])
        assert result.exit_code == 0, result.output
        return result.stdout

    return run


@pytest.fixture
def rewrite(
    mosquitto: Mosquitto, deploy: Path, smartsite: Callable[..., str]
) -> Callable[[], None]:
    """Does what `users.sh` does."""

    def run() -> None:
        smartsite("devices", "acl", "--broker", "mosquitto", str(deploy / "broker"))
        mosquitto.reload()

    return run


@pytest.fixture
def register(
    mosquitto: Mosquitto,
    database_url: str,
    smartsite: Callable[..., str],
    rewrite: Callable[[], None],
) -> Callable[[str], Awaitable[str]]:
    """Gives a device a broker password as an operator does, and waits until it holds.

    It is named by its user name; one that the site file does not have is registered first.
    """

    async def give(user: str) -> str:
        address = parse_topic(f"{user}/telemetry".encode())
        device = Device(site=address.site, id=address.device, kind=address.kind)
        if address.site != "example-site":
            register_file(database_url, site_file(address.prefix, [device]))
        password = smartsite("devices", "passwd", f"{device.site}/{device.id}").strip()
        rewrite()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not await accepted(mosquitto.as_device(user, password)):
                pass
        return password

    return give
