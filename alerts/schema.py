"""Writes the webhook's JSON Schema: ``python -m alerts.schema > docs/webhooks.schema.json``."""

from __future__ import annotations

import json
import sys

from alerts.messages import webhook_schema


def schema_text() -> str:
    """The published file's text.

    Returns:
        The schema, indented, with a line's end.
    """
    return json.dumps(webhook_schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(schema_text())
