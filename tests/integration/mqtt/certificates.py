"""Two authorities and what they sign, made with the command line of OpenSSL."""

from __future__ import annotations

import subprocess
from pathlib import Path

_CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


class Certificates:
    """A folder of keys and certificates, each ``NAME.pem`` with ``NAME.key``.

    - ``ca``: the authority; it signs ``server`` (for 127.0.0.1), ``elsewhere`` (a server of
      another name), ``expired`` and ``client``.
    - ``stranger``: an authority nobody trusts; it signs ``alien``, a client's.
    """

    def __init__(self, program: str, folder: Path) -> None:
        self.folder = folder
        self._program = program
        for name in ("ca", "stranger"):
            self._openssl(
                "req", "-x509", *_CURVE, "-keyout", f"{name}.key", "-out", f"{name}.pem",
                "-days", "2", "-subj", f"/CN={name}",
            )  # fmt: skip
        self._sign("server", "ca", "IP:127.0.0.1")
        self._sign("elsewhere", "ca", "DNS:elsewhere.example")
        self._sign("expired", "ca", "IP:127.0.0.1", days=-1)
        self._sign("client", "ca", "DNS:client.example")
        self._sign("alien", "stranger", "DNS:client.example")

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    def options(self, ca: str = "ca", own: str | None = "client") -> dict[str, Path]:
        """Of a connection: whom it trusts, and who it is."""
        trust = {"ca_file": self / f"{ca}.pem"}
        if own is None:
            return trust
        return trust | {"cert_file": self / f"{own}.pem", "key_file": self / f"{own}.key"}

    def listener(self, own: str = "server") -> tuple[str, ...]:
        """Configuration of a Mosquitto that asks for a client's certificate."""
        return (
            f"cafile {self / 'ca.pem'}",
            f"certfile {self / f'{own}.pem'}",
            f"keyfile {self / f'{own}.key'}",
            "require_certificate true",
        )

    def _sign(self, name: str, by: str, alternative: str, days: int = 2) -> None:
        (self / "extensions").write_text(f"subjectAltName={alternative}\n", "utf-8")
        self._openssl("req", *_CURVE, "-keyout", f"{name}.key", "-out", f"{name}.csr",
                      "-subj", f"/CN={name}")  # fmt: skip
        self._openssl(
            "x509", "-req", "-in", f"{name}.csr", "-CA", f"{by}.pem", "-CAkey", f"{by}.key",
            "-CAcreateserial", "-days", str(days), "-out", f"{name}.pem",
            "-extfile", "extensions",
        )  # fmt: skip

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(
            [self._program, *arguments], cwd=self.folder, check=True, capture_output=True
        )
