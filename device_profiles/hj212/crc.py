"""The checksum of HJ 212, which is not Modbus's, and the others that devices send in its place.

HJ 212-2017 annex A: ``r = 0xFFFF``; for each byte ``r = (r >> 8) ^ byte``, then eight times
``r = (r >> 1) ^ 0xA001 if r & 1 else r >> 1``; written high byte first, over the data segment.

What comes out of the eight steps depends on ``(r >> 8) ^ byte`` alone: the low byte of the
register is forgotten with every byte, so the register has 256 states, not 65,536. The map from
one such state to the next is linear over GF(2), and applied eight times it is the identity.
So bytes eight apart weigh the same, and the sum over any segment is that of eight bytes: the
exclusive or of its 8-byte words, counted from the end. That makes it cheap (an integer of a
thousand bytes is folded in half seven times), and weak: the same change made twice at a
distance of eight bytes passes, and about 1 in 36 changes of two digits do. Never trust it alone.
"""

from __future__ import annotations

from enum import StrEnum


def _table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        register = value
        for _ in range(8):
            register = (register >> 1) ^ 0xA001 if register & 1 else register >> 1
        table.append(register)
    return tuple(table)


_TABLE = _table()
_NEXT = bytes(register >> 8 for register in _TABLE)
_WORD_BITS = 64


class Checksum(StrEnum):
    """Which checksum a frame carries."""

    HJ212 = "hj212"
    SWAPPED = "swapped"
    MODBUS = "modbus"
    MODBUS_SWAPPED = "modbus_swapped"


def crc(data: bytes) -> int:
    """Compute HJ 212's checksum.

    Args:
        data: A data segment, from ``QN=`` to the closing ``&&``.

    Returns:
        16 bits; ``0x2F80`` for ``b"123456789"``.
    """
    size = len(data)
    if not size:
        return 0xFFFF
    # The register's first state is exclusive-ored into the first byte.
    folded = int.from_bytes(data, "big") ^ (0xFF << 8 * (size - 1))
    bits = _WORD_BITS
    while bits < 4 * size:
        bits *= 2
    while bits >= _WORD_BITS:
        folded = (folded >> bits) ^ (folded & ((1 << bits) - 1))
        bits >>= 1
    state = 0
    for byte in folded.to_bytes(8, "big"):
        state = _NEXT[state] ^ byte
    return _TABLE[state]


def crc_modbus(data: bytes) -> int:
    """Compute the Modbus CRC-16, which some devices take for HJ 212's.

    Args:
        data: A data segment.

    Returns:
        16 bits; ``0x4B37`` for ``b"123456789"``.
    """
    register = 0xFFFF
    for byte in data:
        register = (register >> 8) ^ _TABLE[(register ^ byte) & 0xFF]
    return register


def checksum(data: bytes, kind: Checksum) -> int:
    """Compute a checksum of the given kind.

    Args:
        data: A data segment.
        kind: Which.

    Returns:
        The 16 bits as they stand in a frame, high digit first.
    """
    value = crc(data) if kind in (Checksum.HJ212, Checksum.SWAPPED) else crc_modbus(data)
    if kind in (Checksum.SWAPPED, Checksum.MODBUS_SWAPPED):
        return (value & 0xFF) << 8 | value >> 8
    return value


def identify(data: bytes, given: int) -> Checksum | None:
    """Find out which checksum a frame carries.

    Args:
        data: Its data segment.
        given: The 16 bits it carries.

    Returns:
        The kind that fits, the standard's own first; None if none does.
    """
    return next((kind for kind in Checksum if checksum(data, kind) == given), None)
