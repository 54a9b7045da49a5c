"""A copy of `deploy/` as an operator has it: a site file, and secrets made by its own script."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.deploy.mosquitto import PATIENCE_SECONDS, Mosquitto, accepted
from tests.unit.docs.manual import ROOT

PASSWD = "mosquitto_passwd"


def _find(program: str) -> str | None:
    # Debian keeps servers where only root's PATH looks.
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin")


def _environment(deploy: Path) -> dict[str, str]:
    """With `mosquitto_passwd`, or what stands in for it where there is no broker either."""
    environment = dict(os.environ)
    found = _find(PASSWD)
    if found is None:
        stand_in = deploy / "bin" / PASSWD
        stand_in.parent.mkdir(exist_ok=True)
        stand_in.write_text('#!/bin/sh\necho "$3:unhashed" >>"$2"\n', "utf-8")
        stand_in.chmod(0o755)
        found = str(stand_in)
    environment["PATH"] = f"{Path(found).parent}:{environment['PATH']}"
    return environment


@pytest.fixture
def deploy(tmp_path: Path) -> Path:
    """The copy; its files name the secrets where they lie here."""
    copy = tmp_path / "deploy"
    shutil.copytree(ROOT / "deploy", copy, ignore=shutil.ignore_patterns(".env", "site.toml"))
    for secret in (copy / "secrets").iterdir():
        if secret.name != "README.md":
            secret.unlink()
    subprocess.run([copy / "secrets.sh"], check=True, env=_environment(copy))
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
    program = _find("mosquitto")
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
            env=_environment(deploy),
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
