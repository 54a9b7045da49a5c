"""Parts of a split packet put together.

Data that does not fit one packet comes in several: bit 1 of Flag, PNUM the number of parts, PNO
the number of each. Every part has its own QN and is answered by itself. Parts belong together
where MN, CN and DataTime are equal: the standard does not say so, its examples do.
"""

from __future__ import annotations

from collections import OrderedDict

from device_profiles.hj212.frames import Frame
from device_profiles.hj212.segment import parse_groups

MAX_PARTS = 64
"""Most parts of one packet: forty times what a station with every factor sends."""

_Key = tuple[str, str, str, int]


class Joiner:
    """Holds parts until their packet is complete.

    Args:
        max_held: Most parts held; beyond it the oldest packet is given up.
    """

    def __init__(self, *, max_held: int = 256) -> None:
        self._max_held = max_held
        self._held = 0
        self._packets: OrderedDict[_Key, dict[int, Frame]] = OrderedDict()

    def __len__(self) -> int:
        return self._held

    def add(self, frame: Frame) -> list[tuple[Frame, ...]]:
        """Take a frame.

        Args:
            frame: Any; one that is no part of a split packet comes back at once.

        Returns:
            What is to be read now: all parts of a packet in order, and before it packets that
            were given up for want of room, incomplete as they are.
        """
        part = frame.part
        if part is None or part[1] > MAX_PARTS:
            return [(frame,)]
        number, count = part
        key = (frame.mn, frame.cn, _data_time(frame), count)
        parts = self._packets.setdefault(key, {})
        self._held += number not in parts
        parts[number] = frame  # sent again: the later one has the QN that is waited for
        if len(parts) == count:
            return [self._take(key)]
        ready = []
        while self._held > self._max_held:
            ready.append(self._take(next(iter(self._packets))))
        return ready

    def give_up(self) -> list[tuple[Frame, ...]]:
        """No more parts will come.

        Returns:
            The incomplete packets, oldest first, each with the parts it has in order.
        """
        return [self._take(key) for key in list(self._packets)]

    def _take(self, key: _Key) -> tuple[Frame, ...]:
        parts = self._packets.pop(key)
        self._held -= len(parts)
        return tuple(parts[number] for number in sorted(parts))


def _data_time(frame: Frame) -> str:
    for group in parse_groups(frame.segment.content):
        if "DataTime" in group:
            return group["DataTime"]
    return ""
