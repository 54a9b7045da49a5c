"""The command line as a subprocess, as people run it."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Smartsite = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def folder(service_dir: Path) -> Path:
    """An empty folder to work in, which the database's own user can enter."""
    return service_dir


@pytest.fixture
def environment() -> dict[str, str]:
    """An environment without settings of whoever runs the tests."""
    return {name: value for name, value in os.environ.items() if not name.startswith("SMARTSITE_")}


@pytest.fixture
def smartsite(folder: Path, environment: dict[str, str]) -> Smartsite:
    """Runs the command to its end."""

    def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "smartsite", *arguments],
            cwd=folder,
            env=environment | more,
            capture_output=True,
            text=True,
            timeout=170,
            check=False,
        )

    return run


@pytest.fixture
def started(
    folder: Path, environment: dict[str, str]
) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts the command and sees to its end."""
    processes: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "smartsite", *arguments],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()
