"""What can go wrong between us and a broker.

::

    IngestError
    ├── ProtocolError           rejected: what the broker sent is not MQTT; drop the connection,
    │                           connect again with back-off
    ├── Unavailable
    │   └── BrokerUnavailable   it cannot be reached, is silent, hung up, or said "later"
    └── Misconfigured
        └── BrokerMisconfigured     the settings cannot be right
            ├── ConnectRefused      the broker does not let us in: credentials, client id, version
            ├── TlsRefused          one side does not trust the other, or does not speak TLS
            ├── FilterRefused       it does not grant a subscription
            └── MessageRefused      it does not take a message of ours

No message holds a user name, a password or a URL.
"""

from __future__ import annotations

from ingest.errors import IngestError, Misconfigured, Unavailable


class ProtocolError(IngestError):
    """What the broker sent breaks MQTT; nothing after it can be trusted."""


class BrokerUnavailable(Unavailable):
    """The broker cannot be reached, or is gone; the same will work later."""


class BrokerMisconfigured(Misconfigured):
    """With these settings no connection can come about."""


class ConnectRefused(BrokerMisconfigured):
    """The broker will not let us in before a person changes something.

    Attributes:
        code: Return code (MQTT 3.1.1, 3.2.2.3) or reason code (MQTT 5, 3.2.2.2) of the CONNACK.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class TlsRefused(BrokerMisconfigured):
    """TLS does not come about: a certificate is missing or not trusted, or there is no TLS."""


class FilterRefused(BrokerMisconfigured):
    """The broker does not grant a subscription, or less than what was asked.

    Attributes:
        refused: Every filter at fault, with the code of the SUBACK for it.
    """

    def __init__(self, message: str, refused: dict[str, int]) -> None:
        super().__init__(message)
        self.refused = refused


class MessageRefused(BrokerMisconfigured):
    """The broker does not take a message of ours (MQTT 5 says so; 3.1.1 cannot).

    Attributes:
        code: Reason code of the PUBACK (5: 3.4.2.1).
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code
