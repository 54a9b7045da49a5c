"""What is in `deploy/` fits together, and the service takes it."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from tests.unit.docs.manual import ROOT, table_with

COMPOSE = (ROOT / "deploy" / "compose.yaml").read_text("utf-8")


def test_the_settings_and_the_site_pass_the_check(deploy: Path) -> None:
    command = [sys.executable, "-m", "smartsite", "check", "--json", "--config"]
    checked = subprocess.run(
        [*command, deploy / "smartsite.toml"],
        stdout=subprocess.PIPE,
        check=False,
        text=True,
    )
    assert json.loads(checked.stdout) == {"ok": True, "faults": []}
    assert checked.returncode == 0


def test_every_secret_is_made_declared_and_explained(deploy: Path) -> None:
    used = set(re.findall(r"file: \./secrets/(\w+)", COMPOSE))
    made = {file.name for file in (deploy / "secrets").iterdir()} - {"README.md", ".gitignore"}
    explained = {
        row["file"] for row in table_with(ROOT / "deploy" / "secrets" / "README.md", "file")
    }
    named = {
        name
        for file in (ROOT / "deploy").rglob("*")
        if file.is_file() and file.suffix != ".md"
        for name in re.findall(r"/run/secrets/(\w+)", file.read_text("utf-8"))
    }
    assert made == used == explained == named


def test_secrets_are_made_once_and_are_no_ones_else(deploy: Path) -> None:
    secrets = deploy / "secrets"
    kept = {
        file.name: file.read_text("utf-8")
        for file in secrets.iterdir()
        if file.name != "mosquitto_passwords"
    }
    assert len(set(kept.values())) == len(kept)
    assert secrets.stat().st_mode & 0o077 == 0
    for name in ("contractor_webhook_secret", "regulator_webhook_secret"):
        assert re.fullmatch(r"whsec_[A-Za-z0-9+/]{43}=\n", kept[name])
    for name, text in kept.items():
        assert not re.search(r"\s\S", text) or name == "README.md"


def test_every_image_is_pinned_and_every_published_port_can_be_moved() -> None:
    images = re.findall(r"^    image: (\S+)$", COMPOSE, re.MULTILINE)
    assert len(images) == 5
    for image in images:
        assert re.search(r":v?\d+\.\d+(\.\d+)?(-\w+)?$", image), image
    ports = re.findall(r'^      - "(.+):(\d+)"$', COMPOSE, re.MULTILINE)
    assert {port for _, port in ports} == {"1883", "9464", "9090", "3000"}
    examples = (ROOT / "deploy" / ".env.example").read_text("utf-8")
    for listen, _ in ports:
        name, _, default = listen.strip("${}").partition(":-")
        assert f"\n{name}={default}\n" in examples


def test_the_image_holds_every_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    packages = set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text("utf-8")
    sent = (ROOT / "deploy" / "Dockerfile.dockerignore").read_text("utf-8")
    assert set(re.findall(r"^COPY (\w+)/ \1/$", dockerfile, re.MULTILINE)) == packages | {
        "requirements"
    }
    assert set(re.findall(r"^!(\w+)/$", sent, re.MULTILINE)) == packages | {"requirements"}
