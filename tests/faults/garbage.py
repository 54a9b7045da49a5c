"""What no device should send: on topics that the service hears, and within what brokers take."""

from __future__ import annotations

import random

_BRACKETS = b"[" * 5_000
_HOSTILE = (
    b"",
    b" ",
    b"{}",
    b"[]",
    b"null",
    b"true",
    b"-0",
    b'"text"',
    b"NaN",
    b"[[[[[[[[]]]]]]]]",
    _BRACKETS,
    b'{"a":' * 2_000 + b"1" + b"}" * 2_000,
    b'{"ts":1e999,"values":{"pm10_ug_m3":1}}',
    b'{"ts":NaN,"values":{"pm10_ug_m3":NaN}}',
    b'{"ts":-1,"values":{"pm10_ug_m3":1}}',
    b'{"ts":99999999999999999999,"values":{"pm10_ug_m3":1}}',
    b'{"ts":"9999-12-31T23:59:59Z","values":{"pm10_ug_m3":1}}',
    b'{"ts":"2026-13-45T99:99:99Z","values":{}}',
    b'{"ts":{},"values":[]}',
    b'{"ts":null,"values":null}',
    b'{"values":{"pm10_ug_m3":1}}',
    b'{"ts":1795200000000}',
    b'{"ts":1795200000000,"values":{"pm10_ug_m3":"\\u0000"}}',
    b'{"ts":1795200000000,"values":{"\\ud800":1}}',
    b'{"ts":1795200000000,"ts":1,"values":{"pm10_ug_m3":1},"values":{}}',
    b'{"ts":1795200000000,"seq":1e400,"values":{"pm10_ug_m3":[1]}}',
    b'{"ts":1795200000000,"series":"; DROP TABLE dust_readings","values":{}}',
    b'{"ts":1795200000000,"values":{"pm10_ug_m3":' + b"9" * 10_000 + b"}}",
    b'{"ts":1795200000000,"values":{"pm10_ug_m3":-5,"noise_db":1e308}}',
    b'{"ts":1,"values":{' + b",".join(b'"q%d":%d' % (n, n) for n in range(2_000)) + b"}}",
    b"\xff\xfe{\x00}\x00",
    b"\xef\xbb\xbf{}",
    b"\x1f\x8b\x08\x00\x00",
    "粉尘".encode("gbk"),
    b"##0101QN=20160801085857223;ST=32;CN=1062;PW=100000;MN=010000A8900016F000169DC0;Flag=5;CP=&&&&",
)


class Garbage:
    """Messages of a seed.

    Attributes:
        spoilt: Topics of registered devices that say nothing else.
        good: Topics of devices that also speak well: on these nothing that could be read.
        largest: Longest payload, bytes.
    """

    def __init__(self, seed: int, spoilt: list[bytes], good: list[bytes], largest: int) -> None:
        self._dice = random.Random(f"{seed}/garbage")
        self._spoilt = spoilt
        self._good = good
        self._largest = largest
        self._made = 0

    def draw(self) -> tuple[bytes, bytes]:
        """The next one."""
        self._made += 1
        dice = self._dice
        if self._made % 500 == 0:
            size = dice.randrange(self._largest // 2, self._largest)
            return dice.choice(self._good), dice.randbytes(size)
        if dice.randrange(4) == 0:
            return dice.choice(self._good), b"\xff" + dice.randbytes(dice.randrange(300))
        return self._topic(), self._payload()

    def _topic(self) -> bytes:
        dice = self._dice
        device = dice.choice(self._spoilt)
        match dice.randrange(8):
            case 0 | 1 | 2:
                return device
            case 3:
                return device.replace(b"/telemetry", b"/status")
            case 4:
                return device.replace(b"/telemetry", b"/event")
            case 5:
                return device.replace(b"/dust/", b"/crane/")
            case 6:
                return b"site/%d/dust/%d/telemetry" % (dice.randrange(10**6), dice.randrange(10**6))
            case _:
                name = "".join(chr(dice.randrange(0x4E00, 0x9FA5)) for _ in range(5))
                return f"site/{name}/{{}}/'--/;".encode()

    def _payload(self) -> bytes:
        dice = self._dice
        match dice.randrange(3):
            case 0:
                return dice.randbytes(dice.randrange(300))
            case 1:
                return dice.choice(_HOSTILE)
            case _:  # nearly good, and now and then good
                payload = bytearray(b'{"ts":1795200000000,"values":{"pm10_ug_m3":12.5}}')
                for _ in range(dice.randrange(1, 4)):
                    payload[dice.randrange(len(payload))] = dice.randrange(256)
                return bytes(payload)
