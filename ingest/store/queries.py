"""Named queries: SQL lives in ``.sql`` files beside the code, each statement under a name.

::

    -- name: sites_of_district
    SELECT id FROM sites WHERE district = %(district)s

A query runs from its header to the next one. Comments before the first header belong to the
file. A faulty file is a bug of the package that ships it, so its errors are built-in ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import LiteralString

_HEADER = re.compile(r"^--\s*name:(?P<name>.*)$")
_NAME = re.compile(r"[a-z][a-z0-9_]*")


class Queries(Mapping[str, LiteralString]):
    """The queries of one file by name; as good as literals, for they come from no peer.

    Args:
        origin: What the file is called in messages.
        statements: SQL text by name.
    """

    def __init__(self, origin: str, statements: Mapping[str, LiteralString]) -> None:
        self._origin = origin
        self._statements = dict(statements)

    def __getitem__(self, name: str) -> LiteralString:
        try:
            return self._statements[name]
        except KeyError:
            raise KeyError(
                f"{self._origin} has no query {name!r}; it has {', '.join(sorted(self))}"
            ) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._statements)

    def __len__(self) -> int:
        return len(self._statements)


def parse_queries(text: str, origin: str) -> Queries:
    """Cut a file's text into its queries.

    Args:
        text: The whole file.
        origin: What the file is called in messages.

    Returns:
        The queries by name, in the file's order.

    Raises:
        ValueError: A name is malformed or stands twice, a query is empty, or SQL stands before
            the first header; the message names file and line.
    """
    statements: dict[str, list[str]] = {}
    current: list[str] | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        header = _HEADER.match(line)
        if header is not None:
            name = header["name"].strip()
            if not _NAME.fullmatch(name):
                raise ValueError(f"{origin}:{number}: {name!r} is not a query's name")
            if name in statements:
                raise ValueError(f"{origin}:{number}: query {name!r} stands twice")
            current = statements[name] = []
        elif current is not None:
            current.append(line)
        elif line.strip() and not line.startswith("--"):
            raise ValueError(f"{origin}:{number}: SQL before the first '-- name:' header")
    empty = [
        name
        for name, lines in statements.items()
        if not any(line.strip() and not line.lstrip().startswith("--") for line in lines)
    ]
    if empty:
        raise ValueError(f"{origin}: query {empty[0]!r} is empty")
    return Queries(origin, {name: "\n".join(lines).strip() for name, lines in statements.items()})


def load_queries(path: Path) -> Queries:
    """Read a file of named queries.

    Args:
        path: The ``.sql`` file, UTF-8.

    Returns:
        The queries by name.

    Raises:
        ValueError: See `parse_queries`.
        OSError: The file cannot be read.
    """
    return parse_queries(path.read_text(encoding="utf-8"), path.name)
