"""A copy of `deploy/` as an operator has it: a site file, and secrets made by its own script."""

import asyncio
import shutil
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.deploy.mosquitto import (
    PATIENCE_SECONDS,
    Mosquitto,
    accepted,
    find_program,
    shell_environment,
)
from tests.unit.docs.manual import ROOT


@pytest.fixture
def deploy(tmp_path: Path) -> Path:
    """The copy; its files name the secrets where they lie here."""
    copy = tmp_path / "deploy"
    shutil.copytree(ROOT / "deploy", copy, ignore=shutil.ignore_patterns(".env", "site.toml"))
    for secret in (copy / "secrets").iterdir():
        if secret.name != "README.md":
            secret.unlink()
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
def register(mosquitto: Mosquitto, deploy: Path) -> Callable[[str], Awaitable[str]]:
    """Gives a device a broker password as an operator does, and waits until it holds."""

    async def give(user: str) -> str:
        script = await asyncio.create_subprocess_exec(
            deploy / "secrets.sh",
            user,
            env=shell_environment(deploy),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        told, _ = await script.communicate()
        assert script.returncode == 0
        password = told.decode().strip()
        mosquitto.reload()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not await accepted(mosquitto.as_device(user, password)):
                pass
        return password

    return give
