"""Just enough of nats-server's own protocol to set one limit that MQTT's configuration lacks.

nats-server keeps all queued MQTT messages in one stream, ``$MQTT_msgs``, which it makes without
a limit of its own. Where the limit for the whole store is reached instead, sessions cannot be
saved any more either: the subscriber that could drain the queue is refused along with everybody
else, for ever. A limit on that stream alone, refusing new messages, leaves room for sessions.

Protocol: https://docs.nats.io/reference/reference-protocols/nats-protocol;
requests: https://docs.nats.io/reference/reference-protocols/nats_api_reference.
"""

import io
import json
import socket
from typing import Any

from smartsite.embedded.folders import LOOPBACK

QUEUE = "$MQTT_msgs"
_INBOX = "_INBOX.smartsite"
_TIMEOUT_SECONDS = 10.0


def bound_queue(
    port: int, max_bytes: int, *, user: str | None = None, password: str | None = None
) -> None:
    """Let the MQTT queue refuse new messages when it holds so many bytes.

    Args:
        port: nats-server's client port on the loopback interface.
        max_bytes: limit of the stream on disk.
        user: name to connect with, if any.
        password: its password.

    Raises:
        OSError: the server does not answer as expected; the message says what it said.
    """
    greeting: dict[str, Any] = {"verbose": False, "name": "smartsite"}
    if user is not None:
        greeting |= {"user": user, "pass": password}
    with (
        socket.create_connection((LOOPBACK, port), timeout=_TIMEOUT_SECONDS) as connection,
        connection.makefile("rb") as reader,
    ):

        def request(subject: str, content: dict[str, Any]) -> dict[str, Any]:
            body = json.dumps(content).encode()
            connection.sendall(f"PUB {subject} {_INBOX} {len(body)}\r\n".encode() + body + b"\r\n")
            return _answer(reader, subject)

        reader.readline()  # INFO: the server speaks first
        connection.sendall(f"CONNECT {json.dumps(greeting)}\r\nSUB {_INBOX} 1\r\n".encode())
        config = request(f"$JS.API.STREAM.INFO.{QUEUE}", {})["config"]
        request(
            f"$JS.API.STREAM.UPDATE.{QUEUE}", config | {"max_bytes": max_bytes, "discard": "new"}
        )


def _answer(reader: io.BufferedReader, subject: str) -> dict[str, Any]:
    while line := reader.readline():
        words = line.split()
        if words[0] == b"MSG":
            answer: dict[str, Any] = json.loads(reader.read(int(words[-1])))
            reader.readline()
            if "error" in answer:
                raise OSError(f"nats-server refused {subject}: {answer['error']}")
            return answer
        if words[0] == b"-ERR":
            raise OSError(f"nats-server refused {subject}: {line.decode().strip()}")
    raise ConnectionError(f"nats-server closed instead of answering {subject}")
