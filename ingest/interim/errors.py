"""What can go wrong with a broker.

::

    IngestError
    ├── Unavailable
    │   └── BrokerUnavailable     cannot be reached, went away, or stopped answering: reconnect
    │       └── ProtocolError     sent what MQTT does not allow: reconnect
    └── Misconfigured
        └── BrokerRefused         refuses our name, password or a filter: a person has to help
"""

from __future__ import annotations

from ingest.errors import Misconfigured, Unavailable


class BrokerUnavailable(Unavailable):
    """The broker cannot be reached, went away, or stopped answering."""


class ProtocolError(BrokerUnavailable):
    """The broker sent what MQTT does not allow."""


class BrokerRefused(Misconfigured):
    """The broker refuses our name, our password or a filter."""
