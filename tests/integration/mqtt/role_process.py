"""Roles as processes of their own, as an operator starts them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit


class RoleProcess:
    """One role with a name of its own, in a folder of its own.

    Args:
        role: ``ingest`` or ``frames``.
        folder: For its files; made.
        database_url: With the password.
        broker: The section of the settings.
    """

    def __init__(self, role: str, folder: Path, database_url: str, **broker: object) -> None:
        folder.mkdir()
        self.role = role
        self._log = folder / "role.log"
        parts = urlsplit(database_url)
        self._secret = parts.password or ""
        self._file = folder / "smartsite.toml"
        settings = "".join(f"{key} = {json.dumps(value)}\n" for key, value in broker.items())
        self._file.write_text(
            f'data_dir = "data"\n[broker]\n{settings}'
            f'[database]\nurl = "postgresql://{parts.username}@{parts.hostname}:{parts.port}'
            f'{parts.path}"\npassword = "env:ROLE_DATABASE_PASSWORD"\n'
            f'[{role}]\nworker = "{role}-{folder.name}"\n'
            f'[health]\nlisten = "127.0.0.1:{_free_port()}"\n',
            "utf-8",
        )
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def worker(self) -> str:
        """Its name."""
        return f"{self.role}-{self._file.parent.name}"

    @property
    def log(self) -> str:
        """What it has said so far."""
        return self._log.read_text("utf-8", "replace") if self._log.exists() else ""

    def hears(self, times: int = 1) -> bool:
        """Whether it has said so many times that it hears the broker.

        Raises:
            AssertionError: It has ended instead.
        """
        assert self._process is not None
        assert self._process.poll() is None, self.log
        return self.log.count("hearing what") >= times

    def start(self) -> None:
        environ = {
            name: text for name, text in os.environ.items() if not name.startswith("SMARTSITE")
        }
        command = [sys.executable, "-m", "smartsite", "run", "--role", self.role]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--config", str(self._file)],
                env=environ | {"ROLE_DATABASE_PASSWORD": self._secret},
                stdout=subprocess.DEVNULL,
                stderr=log,
            )

    def wait(self) -> int:
        """Wait for its end; its status."""
        assert self._process is not None
        return self._process.wait(60)

    def kill(self) -> None:
        """-9, if it lives."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> int:
        """As asked by a supervisor."""
        assert self._process is not None
        self._process.terminate()
        return self.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port
