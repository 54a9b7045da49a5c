"""The real service as a process of its own, as an operator would start it."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sys
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
import psutil

from smartsite.embedded.process import Child
from smartsite.services import password_environment

READY = "hearing what"
"""What the log says whenever the session stands."""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def clean_environment() -> dict[str, str]:
    """Ours without the settings of whoever runs the tests."""
    return {
        name: text
        for name, text in os.environ.items()
        if not name.startswith(("SMARTSITE", "PROMETHEUS"))
    }


class Service:
    """`smartsite run --role ingest`, or the whole of `smartsite run`, with its page of health.

    Attributes:
        log: What it says.
        peak_bytes: The most memory it held, known once it is stopped in order.
    """

    peak_bytes = 0

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, str],
        *,
        role: str | None = "ingest",
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._port = port = free_port()
        self.log = folder / f"{role or 'all'}-{port}.log"
        self.child = Child(
            [sys.executable, "-m", "smartsite", "run", *(("--role", role) if role else ())],
            name=role or "smartsite run",
            env=clean_environment()
            | {f"SMARTSITE_{name}": text for name, text in settings.items()}
            | {"SMARTSITE_DATA_DIR": str(folder), "SMARTSITE_HEALTH__LISTEN": f"127.0.0.1:{port}"},
            cwd=folder,
            log=self.log,
        )

    @classmethod
    def ingest(
        cls,
        folder: Path,
        database_url: str,
        broker_url: str,
        *,
        keep_reading: bool,
        **settings: str,
    ) -> Self:
        """The role `ingest` on a broker and a database."""
        database = {
            name.removeprefix("SMARTSITE_"): text
            for name, text in password_environment(database_url).items()
        }
        broker = {
            "BROKER__URL": broker_url,
            "BROKER__KEEP_READING": str(keep_reading).lower(),
            "BROKER__KEEPALIVE_S": "5",
        }
        return cls(folder, database | broker | settings)

    def __enter__(self) -> Self:
        self.child.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.child.kill()
        if kind is not None:
            print("\n".join(self.said().splitlines()[-60:]))  # noqa: T201 - shown with the failure

    def said(self) -> str:
        """All it has logged, of every start."""
        return self.log.read_text("utf-8", "replace") if self.log.exists() else ""

    def times_ready(self) -> int:
        """How often its session has come to stand, of every start."""
        return self.said().count(READY)

    def is_ready(self) -> bool:
        """Whether it has, since its last start."""
        assert self.child.alive, f"the service ended: {self.child.last_lines()}"
        return any(READY in line for line in self.child.last_lines(1_000))

    def peak_rss(self) -> int:
        """The most resident memory its process ever held, bytes."""
        status = Path(f"/proc/{self.child.pid}/status")
        if status.exists():
            found = re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(), re.MULTILINE)
            assert found is not None
            return int(found[1]) * 1024
        rss: int = psutil.Process(self.child.pid).memory_info().rss  # elsewhere that of now
        return rss

    def metric(self, name: str) -> float | None:
        """A metric's value; None while there is none, or nobody to ask."""
        try:
            text = self._metrics()
        except (OSError, HTTPException):
            return None
        found = re.search(rf"^{re.escape(name)}(?:\{{.*\}})? (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else None

    def percentile(self, histogram: str, share: float) -> float:
        """The bound of the bucket that a share of a histogram lies below."""
        pattern = rf'^{re.escape(histogram)}_bucket\{{le="([^"]+)".*\}} (\S+)$'
        buckets = [
            (float(bound), float(count))
            for bound, count in re.findall(pattern, self._metrics(), re.MULTILINE)
        ]
        return next(bound for bound, count in buckets if count >= share * buckets[-1][1])

    def _metrics(self) -> str:
        return self._get("/metrics", 10)[1].decode()

    def health(self) -> tuple[int, dict[str, Any]]:
        """Status and body of its health."""
        status, body = self._get("/health", 30)
        return status, msgspec.json.decode(body)

    def _get(self, path: str, timeout_s: float) -> tuple[int, bytes]:
        connection = HTTPConnection("127.0.0.1", self._port, timeout=timeout_s)
        with contextlib.closing(connection):
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()

    def says_unusable(self) -> bool:
        """Whether its metrics say that commits fail."""
        return self.metric("smartsite_database_usable") == 0

    def stop(self) -> None:
        """End it in order."""
        self.peak_bytes = self.peak_rss()
        assert self.child.stop() == 0, self.child.last_lines()
