"""MQTT 3.1.1 and 5 as bytes: what a broker sends, read; what a client sends, written.

Pure: no socket, no clock. The contract of reading stands above `Reader`, in
`ingest.mqtt.codec.reader`. It is a consumer's subset: QoS 0 and 1, no topic aliases, no enhanced
authentication.
"""

from ingest.mqtt.codec.reader import (
    DUP,
    HEAD_BYTES,
    QOS_1,
    RETAIN,
    Batch,
    ConnAck,
    Disconnect,
    Event,
    Oversize,
    PingResp,
    PublishRefused,
    Reader,
    SubAck,
    UnsubAck,
)
from ingest.mqtt.codec.wire import Property, Version
from ingest.mqtt.codec.writers import (
    MAX_PACKET_ID,
    NEVER_EXPIRES,
    PINGREQ,
    Will,
    connect,
    disconnect,
    pubacks,
    publish,
    publish_many,
    subscribe,
    unsubscribe,
)

__all__ = [
    "DUP",
    "HEAD_BYTES",
    "MAX_PACKET_ID",
    "NEVER_EXPIRES",
    "PINGREQ",
    "QOS_1",
    "RETAIN",
    "Batch",
    "ConnAck",
    "Disconnect",
    "Event",
    "Oversize",
    "PingResp",
    "Property",
    "PublishRefused",
    "Reader",
    "SubAck",
    "UnsubAck",
    "Version",
    "Will",
    "connect",
    "disconnect",
    "pubacks",
    "publish",
    "publish_many",
    "subscribe",
    "unsubscribe",
]
