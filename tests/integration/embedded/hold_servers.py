"""Run by the tests: starts both servers, says where they are, and waits to be ended.

Usage: hold_servers.py FOLDER
"""

import json
import sys
from pathlib import Path

import psutil

from smartsite.embedded.broker import EmbeddedBroker
from smartsite.embedded.postgres import EmbeddedPostgres


def main() -> None:
    folder = Path(sys.argv[1])
    with (
        EmbeddedPostgres(folder / "postgres") as postgres,
        EmbeddedBroker(folder / "broker", sync=60) as broker,
    ):
        children = psutil.Process().children(recursive=True)
        said = {
            "pids": [child.pid for child in children],
            "ports": [postgres.port, broker.port],
            "database_url": postgres.url,
        }
        sys.stdout.write(json.dumps(said) + "\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main()
