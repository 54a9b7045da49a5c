"""What a broker's codes mean, and which kind of error each makes: tables, and the words for them.

A code that will stay the same until a person changes something, here or at the broker, is
*misconfigured*; all others are *unavailable*, and pass. What a broker says in its own words is
shown bounded and printable.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence

from device_profiles.errors import shown
from ingest.errors import IngestError
from ingest.mqtt.codec import ConnAck, Disconnect, Property, SubAck, UnsubAck
from ingest.mqtt.codec.wire import Properties
from ingest.mqtt.errors import (
    BrokerMisconfigured,
    BrokerUnavailable,
    ConnectRefused,
    FilterRefused,
    ProtocolError,
    TlsRefused,
)
from ingest.mqtt.options import Endpoint

SAID_CHARS = 200
"""How much of a broker's own words is shown."""

_REFUSED_3_1_1 = {
    1: "it does not speak this version of MQTT",
    2: "it does not take the client id",
    4: "user name or password is wrong",
    5: "not authorised",
}
_REFUSED_5 = {
    0x84: "it does not speak this version of MQTT",
    0x85: "it does not take the client id",
    0x86: "user name or password is wrong",
    0x87: "not authorised",
    0x8A: "banned",
    0x8C: "it wants another method of authentication",
    0x90: "it does not take the will's topic",
    0x95: "it does not take a CONNECT so large",
    0x99: "it does not take the will's payload",
    0x9A: "it retains no messages, as the will asks",
    0x9B: "it does not take the will's QoS",
    0x9C: "it wants us on another server",
    0x9D: "it has moved to another server",
}
_REFUSED_FILTER = {
    0x80: "refused; see its access rules, and on nats-server the sum of max_ack_pending",
    0x83: "refused",
    0x87: "not authorised",
    0x8F: "not a filter it takes",
    0x97: "above a quota",
    0x9E: "it has no shared subscriptions",
    0xA1: "it has no subscription ids",
    0xA2: "it has no wildcard subscriptions",
}
_HUNG_UP = {
    0x00: "without a reason",
    0x80: "without a reason",
    0x81: "malformed packet",
    0x82: "protocol error",
    0x83: "for a reason of its own",
    0x87: "not authorised",
    0x89: "busy",
    0x8B: "shutting down",
    0x8C: "it wants another method of authentication",
    0x8D: "keepalive timeout",
    0x8E: "another client has connected with our client id",
    0x8F: "a topic filter it does not take",
    0x90: "a topic it does not take",
    0x93: "receive maximum exceeded",
    0x94: "topic alias invalid",
    0x95: "packet too large",
    0x96: "too many messages",
    0x97: "above a quota",
    0x98: "administrative action",
    0x99: "payload not of the format it was said to have",
    0x9A: "it retains no messages",
    0x9B: "it does not speak QoS 1",
    0x9C: "it wants us on another server",
    0x9D: "it has moved to another server",
    0x9E: "it has no shared subscriptions",
    0x9F: "too many connections at once",
    0xA0: "we have been connected for as long as it allows",
    0xA1: "it has no subscription ids",
    0xA2: "it has no wildcard subscriptions",
}
_FOR_GOOD = frozenset({0x87, 0x8C, 0x8F, 0x9B, 0x9C, 0x9D, 0x9E, 0xA2})
"""Reasons for hanging up that will not pass."""

_CLOCK_FAULTS = frozenset({9, 10})
"""OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED."""


def said(*words: object) -> str:
    """A broker's own words, as the end of a message: bounded, printable, nothing if there are none.

    Args:
        words: What it said, a property each; empty ones are left out.
    """
    return "".join(f", {shown(text, SAID_CHARS)}" for text in words if text)


def connect_refused(endpoint: Endpoint, client_id: str, answer: ConnAck) -> IngestError:
    """The error for a CONNACK that does not let us in."""
    code = answer.code
    fault = (_REFUSED_3_1_1 if code < 0x80 else _REFUSED_5).get(code)
    name = f"{endpoint} does not let client {client_id!r} in"
    more = said(
        answer.properties.get(Property.REASON_STRING),
        answer.properties.get(Property.SERVER_REFERENCE),
    )
    if fault is not None:
        return ConnectRefused(f"{name}: {fault} (code {code:#x}{more})", code)
    if code == 3 or code >= 0x80:
        return BrokerUnavailable(f"{name} now: code {code:#x}{more}")
    return ProtocolError(f"CONNACK with reserved code {code}")


def filters_missing(
    endpoint: Endpoint, filters: Sequence[tuple[str, int]], stated: Properties
) -> FilterRefused | None:
    """The error for filters of a kind that an MQTT 5 broker says it has not (5: 3.2.2.3).

    Args:
        endpoint: The broker.
        filters: What we want.
        stated: Properties of its CONNACK.

    Returns:
        None if it has all of them.
    """
    refused: dict[str, int] = {}
    for pattern, _ in filters:
        if pattern.startswith("$share/") and stated.get(Property.SHARED_AVAILABLE) == 0:
            refused[pattern] = 0x9E
        elif {"+", "#"} & set(pattern) and stated.get(Property.WILDCARDS_AVAILABLE) == 0:
            refused[pattern] = 0xA2
    if not refused:
        return None
    reasons = [f"{pattern!r}: {_REFUSED_FILTER[code]}" for pattern, code in refused.items()]
    return _filter_refused(endpoint, len(filters), refused, reasons, "")


def filters_refused(
    endpoint: Endpoint, filters: Sequence[tuple[str, int]], answer: SubAck
) -> FilterRefused | None:
    """The error for a SUBACK that grants less than was asked for.

    Args:
        endpoint: The broker.
        filters: What was asked for, with the QoS wanted.
        answer: With as many codes.

    Returns:
        None if all is granted.
    """
    refused: dict[str, int] = {}
    reasons: list[str] = []
    for (pattern, qos), code in zip(filters, answer.codes, strict=True):
        if code >= 0x80:
            reason = _REFUSED_FILTER.get(code, "refused")
            reasons.append(f"{pattern!r}: {reason} (code {code:#x})")
        elif code < qos:
            reasons.append(f"{pattern!r}: granted with QoS {code}, which may lose messages")
        else:
            continue
        refused[pattern] = code
    if not refused:
        return None
    return _filter_refused(endpoint, len(filters), refused, reasons, answer.reason)


def filters_kept(
    endpoint: Endpoint, filters: Sequence[str], answer: UnsubAck
) -> FilterRefused | None:
    """The error for an UNSUBACK of MQTT 5 that leaves us a filter we want no more.

    Args:
        endpoint: The broker.
        filters: Those we want no more.
        answer: With a code for each.

    Returns:
        None if all are gone.
    """
    kept = {
        pattern: code for pattern, code in zip(filters, answer.codes, strict=True) if code >= 0x80
    }
    if not kept:
        return None
    reasons = [f"{pattern!r} (code {code:#x})" for pattern, code in kept.items()]
    return FilterRefused(
        f"{endpoint} does not end {len(kept)} of {len(filters)} subscriptions: "
        + "; ".join(reasons)
        + said(answer.reason),
        kept,
    )


def hung_up(endpoint: Endpoint, packet: Disconnect) -> IngestError:
    """The error for a DISCONNECT of MQTT 5."""
    why = _HUNG_UP.get(packet.code, "for an unknown reason")
    text = f"{endpoint} hung up: {why} (code {packet.code:#x}{said(packet.reason)})"
    kind = BrokerMisconfigured if packet.code in _FOR_GOOD else BrokerUnavailable
    return kind(text)


def tls_failed(endpoint: Endpoint, fault: ssl.SSLError) -> IngestError | None:
    """The error for a TLS handshake that one side does not want to finish.

    A certificate that is out of date, or not yet valid, comes good without anybody changing
    anything here: the broker's is renewed, or our clock is set.

    Args:
        endpoint: The broker.
        fault: As `ssl` raises it.

    Returns:
        None if it is an ordinary loss of the connection.
    """
    if isinstance(fault, ssl.SSLCertVerificationError):
        text = f"the certificate of {endpoint} is not trusted: {fault.verify_message}"
        return (BrokerUnavailable if fault.verify_code in _CLOCK_FAULTS else TlsRefused)(text)
    reason = fault.reason or ""
    if "ALERT" in reason and ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason):
        return TlsRefused(f"{endpoint} wants a client certificate it trusts: {_words(reason)}")
    if "HANDSHAKE_FAILURE" in reason or "ALERT_PROTOCOL_VERSION" in reason:
        return TlsRefused(f"{endpoint} and we find no TLS in common: {_words(reason)}")
    if "WRONG_VERSION_NUMBER" in reason or "RECORD_LAYER_FAILURE" in reason:
        return TlsRefused(f"{endpoint} does not speak TLS: is mqtt:// meant, or another port?")
    return None


def _words(reason: str) -> str:
    return reason.lower().replace("_", " ")


def _filter_refused(
    endpoint: Endpoint, asked: int, refused: dict[str, int], reasons: Sequence[str], words: str
) -> FilterRefused:
    return FilterRefused(
        f"{endpoint} does not grant {len(refused)} of {asked} filters: "
        + "; ".join(reasons)
        + said(words),
        refused,
    )
