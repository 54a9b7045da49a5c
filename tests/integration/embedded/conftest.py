"""What the tests of the embedded servers share."""

import socket
from collections.abc import Iterator

import pytest

from smartsite.embedded.folders import LOOPBACK


@pytest.fixture
def stranger_port() -> Iterator[int]:
    """A port that some other program listens on."""
    with socket.socket() as listener:
        listener.bind((LOOPBACK, 0))
        listener.listen()
        port: int = listener.getsockname()[1]
        yield port
