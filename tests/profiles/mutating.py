"""Inputs with something done to them: bytes at random, and values that devices really send."""

import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from device_profiles.catalogue import Profile, load_profiles
from device_profiles.datasheets import Format
from device_profiles.decoding.events import event_decoder
from device_profiles.decoding.terms import Terms
from device_profiles.errors import Rejected
from device_profiles.jpeg import read_jpeg_header
from device_profiles.native import decode_event, decode_status, telemetry_decoder
from device_profiles.recording import Message, parse_message, read_recording
from device_profiles.vocabulary import QUANTITIES

GOLDEN = Path(__file__).parent / "golden"

_NASTY = (
    b"null", b"true", b"-0", b"1e999", b"-1e400", b"NaN", b"Infinity", b'"nan"', b'""', b'" 7 "',
    b'"5.877472E-39"', b'"1_0"', b"123456789012345678901234567890", b"9" * 400, b"[]", b"{}",
    b"[[[[[[1]]]]]]", b'{"a": {"b": [1, {"c": null}]}}', '"\u4e1c"'.encode(), b'"\\ud800"',
    b'"\\u0000"', b'"0x1F"', b'"2026-02-30 24:61:61"', b'"9999-12-31T23:59:59Z"', b"-1",
    b"1772326923", b"[1, 2, 3, 4]", b'"data:image/jpeg;base64,===="', b'"http://["', b"1.0", b"0",
)  # fmt: skip
_PIECES = (
    b"##", b"&&", b"##0151", b"CP=&&", b"=", b";", b",", b'"', b"{", b"}", b"[", b"]", b":", b"\\",
    b"\r\n", b"\0", b"\xff", "，".encode(), b"\xa3\xac", b"_", b"\xa5\xaa", b"\xcc\xc3\xc3\x3c",
    b"\xff\xd8", b"-", b"e", b".",
)  # fmt: skip


class Target(NamedTuple):
    """Something that reads bytes of strangers, and what it reads well.

    Attributes:
        name: For messages.
        read: Takes the bytes; may raise Rejected, nothing else.
        seeds: Payloads to begin from.
    """

    name: str
    read: Callable[[bytes], object]
    seeds: tuple[bytes, ...]


def targets() -> list[Target]:
    """Every decoder there is: of all profiles, of the native contract, of recordings."""
    found = [_target(profile) for profile in load_profiles().by_id.values()]
    reading = b'{"ts": 1772326923000, "seq": 1, "values": {"%s": 5, "alarms": ["a"], "x": "y"}}'
    for kind, quantities in QUANTITIES.items():
        seed = reading % quantities[0].name.encode()
        found.append(
            Target(f"native {kind}", telemetry_decoder(kind), (seed, b"[%s, %s]" % (seed, seed)))
        )
    found.append(Target("native status", decode_status, (b'{"online": true, "detail": "up"}',)))
    found.append(Target("native event", decode_event, (b'{"what": {"deep": [1, 2]}}',)))
    line = b'{"received_at":"2026-03-01T01:02:05Z","topic":"a/b","payload":"{}","qos":1}'
    found.append(Target("recording", parse_message, (line,)))
    return found


def _target(profile: Profile) -> Target:
    sheet = profile.sheet
    seeds = [message.payload for message in golden_messages(sheet.id)]
    read: Callable[[bytes], object]
    match sheet.format:
        case Format.JPEG:
            read = read_jpeg_header
        case Format.EVENT:
            read = event_decoder(sheet)
        case _ if sheet.each.is_gateway:
            read = profile.gateway(lambda _: Terms(limits={"trolley_m": (0, 50)}))
        case _:
            read = profile.decoder(Terms(limits={"trolley_m": (0, 50)}))
    return Target(sheet.id, read, tuple(seeds))


def golden_messages(profile: str) -> Iterator[Message]:
    """The messages of a profile's golden folders."""
    for file in sorted((GOLDEN / profile).glob("*/input.jsonl")):
        yield from read_recording(file)


def mutated(dice: random.Random, data: bytes) -> bytes:
    """The same bytes with something done to them."""
    mess = bytearray(data)
    for _ in range(dice.choice((1, 1, 1, 2, 5))):
        at = dice.randrange(len(mess) + 1)
        match dice.randrange(8):
            case 0:
                mess[at:at] = dice.randbytes(dice.randrange(4))
            case 1:
                del mess[at : at + dice.randrange(1, 30)]
            case 2:
                mess[at : at + 1] = bytes([dice.randrange(256)])
            case 3:
                mess[at:at] = dice.choice(_PIECES)
            case 4:
                start = dice.randrange(len(mess) + 1)
                mess[at:at] = mess[start : start + dice.randrange(40)]
            case _:
                _replace_value(dice, mess, at)
    return bytes(mess)


def _replace_value(dice: random.Random, mess: bytearray, at: int) -> None:
    """Put something else in the place of the next value of JSON, pairs or columns."""
    colon = max(mess.find(b":", at), mess.find(b"=", at))
    if colon < 0:
        return
    ends = [end for mark in b",}];&" if (end := mess.find(bytes([mark]), colon + 1)) >= 0]
    mess[colon + 1 : min(ends, default=len(mess))] = dice.choice(_NASTY)


def refuses_or_reads(target: Target, data: bytes) -> None:
    """Read it: what is wrong may be refused in the declared way, and in no other."""
    with suppress(Rejected):
        target.read(data)
