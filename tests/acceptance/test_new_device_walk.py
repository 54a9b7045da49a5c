"""The page on new devices is true: its files, its commands and what they print."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.docs.manual import DOCS, blocks

PAGE = DOCS / "new-device.md"
_COMMAND = re.compile(r"^\$ (.+)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)


@pytest.fixture
def shell_environment(environment: dict[str, str]) -> dict[str, str]:
    scripts = str(Path(sys.executable).parent)
    return environment | {"PATH": os.pathsep.join((scripts, environment.get("PATH", "")))}


def test_the_walk_through(folder: Path, shell_environment: dict[str, str]) -> None:
    written = run = 0
    for block in blocks(PAGE):
        if block.name:
            file = folder / block.name
            file.parent.mkdir(exist_ok=True)
            file.write_text(block.text, "utf-8")
            written += 1
        if block.language != "console":
            continue
        for command, said in _COMMAND.findall(block.text):
            done = subprocess.run(
                ["sh", "-c", command],
                cwd=folder,
                env=shell_environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=120,
                check=False,
            )
            assert done.stdout == said, command
            assert done.returncode == 0, command
            run += 1
    assert (written, run) == (8, 8)
