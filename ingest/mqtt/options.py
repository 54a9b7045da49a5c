"""Where to connect and what to hear: checked as a whole before the first attempt."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ingest.mqtt.codec import MAX_PACKET_ID, NEVER_EXPIRES, Version, Will
from ingest.mqtt.codec.wire import string
from ingest.mqtt.errors import BrokerMisconfigured

WEEK_S = 7 * 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Where to connect, and what to hear.

    Attributes:
        url: ``mqtt://[USER:PASSWORD@]HOST[:PORT]``, or ``mqtts``.
        client_id: Names the session at the broker: one at a time may use it.
        filters: Topic filters, each with its QoS, 0 or 1; ``$share/GROUP/FILTER`` where the broker
            has shared subscriptions. None at all for one who only publishes.
        retired_filters: Those of an earlier configuration, unsubscribed on the first connection:
            a session keeps its subscriptions until told otherwise.
        version: Of MQTT.
        username: User name; None for that of the URL.
        password: Its password; None for that of the URL.
        ca_file: For mqtts: whom to trust, PEM; None for whom the system trusts.
        cert_file: For mqtts: our certificate, PEM, if the broker wants one.
        key_file: Its private key, PEM; None if it lies in `cert_file`.
        clean: Forget the session, now and after every connection: for observers.
        keepalive_s: Longest silence on either side, 1 to 65,535.
        session_expiry_s: MQTT 5: how long the broker keeps the session while we are away.
        receive_maximum: MQTT 5: how many messages may be unacknowledged, 1 to 65,535.
        max_payload_bytes: Larger payloads are skipped as they stream past.
        will: What the broker publishes when we are lost.
        rest_s: How long the socket is left alone after a small read, 0 to 1: messages then come
            in fewer, larger reads, each that much later. It saves most where many come one by
            one: at 12,000 messages a second 20 ms cut the CPU for each from 10 µs to 2.
    """

    url: str = field(repr=False)
    client_id: str
    filters: tuple[tuple[str, int], ...] = ()
    retired_filters: tuple[str, ...] = ()
    version: Version = Version.V3_1_1
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    clean: bool = False
    keepalive_s: int = 30
    session_expiry_s: int = WEEK_S
    receive_maximum: int = 16_000
    max_payload_bytes: int = 256 * 1024
    will: Will | None = None
    rest_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a URL leads.

    Attributes:
        host: Name or address.
        port: TCP port.
        tls: How to encrypt, None for plain TCP.
        username: User name, if any.
        password: Its password, if any.
    """

    host: str
    port: int
    tls: ssl.SSLContext | None = field(repr=False)
    username: str | None = field(repr=False)
    password: str | None = field(repr=False)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def resolve(options: Options) -> Endpoint:
    """Check options as a whole, and read the files they name.

    Args:
        options: As configured.

    Returns:
        Where to connect, with what credentials.

    Raises:
        BrokerMisconfigured: With every fault there is; none shows a credential.
    """
    faults: list[str] = []
    try:
        parts = urlsplit(options.url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    rest = parts.path.strip("/") or parts.query or parts.fragment
    if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname or rest:
        # Not said what it is instead: there may be a password in it.
        faults.append("url is not mqtt://HOST[:PORT] or mqtts://HOST[:PORT]")
    username = options.username
    password = options.password
    if username is None and parts.username:
        username = unquote(parts.username)
        password = password if parts.password is None else unquote(parts.password)
    if password is not None and username is None and options.version is Version.V3_1_1:
        faults.append("password without username, which MQTT 3.1.1 does not have")
    faults += [
        f"{name} is longer than 65535 bytes, not UTF-8, or holds NUL"
        for name, text in (
            ("client_id", options.client_id),
            ("username", username),
            ("password", password),
        )
        if text is not None and not _is_string(text)
    ]
    if not options.client_id:
        faults.append("client_id is empty: the session needs a name")
    for name, value, low, high in (
        ("keepalive_s", options.keepalive_s, 1, 65_535),
        ("session_expiry_s", options.session_expiry_s, 0, NEVER_EXPIRES),
        ("receive_maximum", options.receive_maximum, 1, MAX_PACKET_ID),
        ("max_payload_bytes", options.max_payload_bytes, 1, 268_435_455),
    ):
        if not low <= value <= high:
            faults.append(f"{name} {value} is not between {low} and {high}")
    if not 0 <= options.rest_s <= 1:
        faults.append(f"rest_s {options.rest_s} is not between 0 and 1")
    faults += [
        f"filters: {pattern!r} {fault}"
        for pattern, qos in options.filters
        if (fault := _filter_fault(pattern, qos))
    ]
    patterns = [pattern for pattern, _ in options.filters]
    if len(set(patterns)) != len(patterns):
        faults.append("filters: one is there twice")
    faults += [
        f"retired_filters: {pattern!r} {fault}"
        for pattern in options.retired_filters
        if (fault := _filter_fault(pattern, 1) or ("is subscribed" if pattern in patterns else ""))
    ]
    tls = None
    if parts.scheme == "mqtts":
        tls = _tls_context(options, faults)
    elif options.ca_file or options.cert_file or options.key_file:
        faults.append("ca_file, cert_file and key_file belong to an mqtts:// url")
    if faults:
        raise BrokerMisconfigured("; ".join(faults))
    return Endpoint(str(parts.hostname), port or (8883 if tls else 1883), tls, username, password)


def _is_string(text: str) -> bool:
    try:
        string(text)
    except ValueError:
        return False
    return True


def _filter_fault(pattern: str, qos: int) -> str:
    """What is wrong with a filter (4.7), or nothing."""
    levels = pattern.split("/")
    if not pattern or not _is_string(pattern):
        return "is no string of MQTT"
    if qos not in (0, 1):
        return f"wants QoS {qos}, above 1"
    if levels[0] == "$share":
        if len(levels) < 3 or not levels[1] or not pattern.split("/", 2)[2]:
            return "is not $share/GROUP/FILTER"
        if "+" in levels[1] or "#" in levels[1]:
            return "has a wildcard in its group"
    if any(("+" in level or "#" in level) and len(level) > 1 for level in levels):
        return "has a wildcard that is only part of a level"
    if "#" in levels[:-1]:
        return "has a # that is not its last level"
    return ""


def _tls_context(options: Options, faults: list[str]) -> ssl.SSLContext | None:
    context = None
    try:
        context = ssl.create_default_context(cafile=options.ca_file)
    except (OSError, ssl.SSLError) as fault:
        faults.append(f"ca_file {options.ca_file}: {fault}")
    if options.cert_file is not None:
        try:
            # An empty password, lest it asks for one on the terminal.
            (context or ssl.create_default_context()).load_cert_chain(
                options.cert_file, options.key_file, password=""
            )
        except (OSError, ssl.SSLError) as fault:
            faults.append(f"cert_file {options.cert_file}, key_file {options.key_file}: {fault}")
    elif options.key_file is not None:
        faults.append("key_file without cert_file")
    return context
