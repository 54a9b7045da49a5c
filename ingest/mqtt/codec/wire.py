"""The primitives of MQTT 3.1.1 and 5: integers, strings, properties, names of codes.

Section numbers are those of the OASIS standards "MQTT Version 3.1.1" (2014) and "MQTT Version
5.0" (2019).
"""

from __future__ import annotations

import enum

from ingest.mqtt.errors import ProtocolError

MAX_STRING_BYTES = 65_535
"""Longest string or binary field (5: 1.5.4): its length has two bytes."""

MAX_REMAINING_LENGTH = 268_435_455
"""Largest packet after its fixed header (3.1.1: 2.2.3): four bytes of seven bits."""


class Version(enum.StrEnum):
    """A version of the protocol."""

    V3_1_1 = "3.1.1"
    V5 = "5"

    @property
    def level(self) -> int:
        """What CONNECT calls it (3.1.2.2)."""
        return 5 if self is Version.V5 else 4


def variable_integer(value: int) -> bytes:
    """Encode a variable byte integer (5: 1.5.5), such as a remaining length.

    Raises:
        ValueError: The value is negative or above 268,435,455.
    """
    if not 0 <= value <= MAX_REMAINING_LENGTH:
        raise ValueError(f"{value} does not fit a variable byte integer")
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def read_variable_integer(data: bytes, start: int, end: int, what: str) -> tuple[int, int] | None:
    """Decode a variable byte integer that starts at `start` and has to end before `end`.

    Returns:
        The value and where it ends, or None if it is not complete before `end`.

    Raises:
        ProtocolError: It has more than four bytes, or more than it needs (5: 1.5.5-1).
    """
    value = 0
    for place in range(4):
        if start + place >= end:
            return None
        byte = data[start + place]
        value |= (byte & 127) << 7 * place
        if byte < 128:
            if not byte and place:
                raise ProtocolError(f"{what} is padded to {place + 1} bytes")
            return value, start + place + 1
    raise ProtocolError(f"{what} has more than four bytes")


def binary(value: bytes) -> bytes:
    """Encode binary data (5: 1.5.6): two bytes of length, then the data.

    Raises:
        ValueError: It is longer than 65,535 bytes.
    """
    if len(value) > MAX_STRING_BYTES:
        raise ValueError(f"{len(value)} bytes do not fit a field of {MAX_STRING_BYTES}")
    return len(value).to_bytes(2, "big") + value


def string(value: str) -> bytes:
    """Encode a UTF-8 string (5: 1.5.4).

    Raises:
        ValueError: It holds a surrogate or NUL, or is longer than 65,535 bytes.
    """
    if "\0" in value:
        raise ValueError("an MQTT string holds no NUL")
    return binary(value.encode())


class _Form(enum.Enum):
    FLAG = enum.auto()
    TWO = enum.auto()
    FOUR = enum.auto()
    STRING = enum.auto()
    BINARY = enum.auto()
    PAIR = enum.auto()


class Property(enum.IntEnum):
    """The properties (5: 2.2.2.2) that a packet other than PUBLISH may bring us."""

    SESSION_EXPIRY = 0x11
    ASSIGNED_CLIENT_ID = 0x12
    SERVER_KEEP_ALIVE = 0x13
    AUTHENTICATION_METHOD = 0x15
    AUTHENTICATION_DATA = 0x16
    RESPONSE_INFORMATION = 0x1A
    SERVER_REFERENCE = 0x1C
    REASON_STRING = 0x1F
    RECEIVE_MAXIMUM = 0x21
    TOPIC_ALIAS_MAXIMUM = 0x22
    MAXIMUM_QOS = 0x24
    RETAIN_AVAILABLE = 0x25
    USER_PROPERTY = 0x26
    MAXIMUM_PACKET_SIZE = 0x27
    WILDCARDS_AVAILABLE = 0x28
    SUBSCRIPTION_IDS_AVAILABLE = 0x29
    SHARED_AVAILABLE = 0x2A


_FORMS = {
    Property.SESSION_EXPIRY: _Form.FOUR,
    Property.ASSIGNED_CLIENT_ID: _Form.STRING,
    Property.SERVER_KEEP_ALIVE: _Form.TWO,
    Property.AUTHENTICATION_METHOD: _Form.STRING,
    Property.AUTHENTICATION_DATA: _Form.BINARY,
    Property.RESPONSE_INFORMATION: _Form.STRING,
    Property.SERVER_REFERENCE: _Form.STRING,
    Property.REASON_STRING: _Form.STRING,
    Property.RECEIVE_MAXIMUM: _Form.TWO,
    Property.TOPIC_ALIAS_MAXIMUM: _Form.TWO,
    Property.MAXIMUM_QOS: _Form.FLAG,
    Property.RETAIN_AVAILABLE: _Form.FLAG,
    Property.USER_PROPERTY: _Form.PAIR,
    Property.MAXIMUM_PACKET_SIZE: _Form.FOUR,
    Property.WILDCARDS_AVAILABLE: _Form.FLAG,
    Property.SUBSCRIPTION_IDS_AVAILABLE: _Form.FLAG,
    Property.SHARED_AVAILABLE: _Form.FLAG,
}

_PUBLISH_FIELDS: dict[int, tuple[int, int]] = {
    0x01: (1, 0),  # payload format indicator
    0x02: (4, 0),  # message expiry interval
    0x03: (0, 1),  # content type
    0x08: (0, 1),  # response topic
    0x09: (0, 1),  # correlation data
    0x26: (0, 2),  # user property
}
"""What PUBLISH may bring (5: 3.3.2.3): bytes of a fixed length, then fields that tell theirs."""

_SUBSCRIPTION_ID = 0x0B
_TOPIC_ALIAS = 0x23

_NEVER_ZERO = frozenset({Property.RECEIVE_MAXIMUM, Property.MAXIMUM_PACKET_SIZE})

ANY_ANSWER = frozenset({Property.REASON_STRING, Property.USER_PROPERTY})
"""What PUBACK, SUBACK and UNSUBACK may bring (5: 3.4.2.2, 3.9.2.1, 3.11.2.1)."""

CONNACK = frozenset(_FORMS)
"""What CONNACK may bring (5: 3.2.2.3): all that there is."""

DISCONNECT = ANY_ANSWER | {Property.SERVER_REFERENCE}
"""What DISCONNECT may bring (5: 3.14.2.2); a session expiry only a client may send."""

Properties = dict[Property, int | str | bytes]


def check_publish_properties(block: bytes) -> None:
    """Walk the properties of a PUBLISH (5: 3.3.2.3), which is all they are good for here.

    Only how they are cut is looked at, not what they say: much of it is a device's, passed on by
    the broker, and no device must be able to end our connection.

    Args:
        block: Without its length.

    Raises:
        ProtocolError: One is unknown or cut short, or is a topic alias, whose maximum we left at
            0 (5: 3.1.2-26).
    """
    at, end = 0, len(block)
    while at < end:
        code = block[at]
        at += 1
        if code == _SUBSCRIPTION_ID:
            sized = read_variable_integer(block, at, end, "a subscription id of PUBLISH")
            at = end + 1 if sized is None else sized[1]
        elif code in _PUBLISH_FIELDS:
            fixed, strings = _PUBLISH_FIELDS[code]
            at += fixed
            for _ in range(strings):
                at += 2 + int.from_bytes(block[at : at + 2], "big")
        elif code == _TOPIC_ALIAS:
            raise ProtocolError("PUBLISH with a topic alias, and we take none")
        else:
            raise ProtocolError(f"PUBLISH has a property 0x{code:02X}")
        if at > end:
            raise ProtocolError("PUBLISH ends its properties within one")


class Body:
    """The rest of one complete packet, read field by field.

    Args:
        data: All after the fixed header.
        packet: The packet's name, for messages.
    """

    def __init__(self, data: bytes, packet: str) -> None:
        self._data = data
        self._at = 0
        self.packet = packet

    @property
    def left(self) -> int:
        """How many bytes are not yet read."""
        return len(self._data) - self._at

    def take(self, count: int) -> bytes:
        """Read so many bytes.

        Raises:
            ProtocolError: There are fewer.
        """
        if count > self.left:
            raise ProtocolError(f"{self.packet} ends {count - self.left} bytes too early")
        self._at += count
        return self._data[self._at - count : self._at]

    def integer(self, count: int) -> int:
        """Read a number of so many bytes."""
        return int.from_bytes(self.take(count), "big")

    def binary(self) -> bytes:
        """Read a field with two bytes of length."""
        return self.take(self.integer(2))

    def string(self) -> str:
        """Read a UTF-8 string.

        Raises:
            ProtocolError: It is not UTF-8, or holds NUL (5: 1.5.4-1, 1.5.4-2).
        """
        try:
            text = self.binary().decode()
        except UnicodeDecodeError as fault:
            raise ProtocolError(f"a string of {self.packet} is not UTF-8: {fault.reason}") from None
        if "\0" in text:
            raise ProtocolError(f"a string of {self.packet} holds NUL")
        return text

    def properties(self, allowed: frozenset[Property]) -> Properties:
        """Read properties (5: 2.2.2); those of a user are checked and left out.

        Raises:
            ProtocolError: One is unknown, not allowed here, there twice, or cut short.
        """
        sized = read_variable_integer(
            self._data, self._at, len(self._data), f"the property length of {self.packet}"
        )
        if sized is None:
            raise ProtocolError(f"{self.packet} ends before its properties")
        length, self._at = sized
        part = Body(self.take(length), f"the properties of {self.packet}")
        found: Properties = {}
        while part.left:
            code = part.integer(1)
            try:
                name = Property(code)
            except ValueError:
                raise ProtocolError(f"{self.packet} has a property 0x{code:02X}") from None
            if name not in allowed or name in found:
                raise ProtocolError(f"{self.packet} has a property {name.name} too many")
            value = part.value(_FORMS[name])
            if _FORMS[name] is _Form.PAIR:
                continue
            if (_FORMS[name] is _Form.FLAG and value not in (0, 1)) or (
                name in _NEVER_ZERO and not value
            ):
                raise ProtocolError(f"{name.name} of {self.packet} is {value!r}")
            found[name] = value
        return found

    def value(self, form: _Form) -> int | str | bytes:
        """Read one field of the form a property has."""
        match form:
            case _Form.FLAG:
                return self.integer(1)
            case _Form.TWO:
                return self.integer(2)
            case _Form.FOUR:
                return self.integer(4)
            case _Form.BINARY:
                return self.binary()
            case _Form.STRING:
                return self.string()
            case _Form.PAIR:
                return self.string() + self.string()

    def end(self) -> None:
        """Require that all is read.

        Raises:
            ProtocolError: Something follows.
        """
        if self.left:
            raise ProtocolError(f"{self.packet} has {self.left} bytes too many")
