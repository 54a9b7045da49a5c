"""What one connection has delivered and not yet acknowledged: pure bookkeeping of packet ids.

It decides two things that a packet id alone does not tell:

- **A copy of what the consumer still holds is not handed on.** nats-server sends every message
  again on a live connection, marked DUP and under the same packet id, as often as `ack_wait`
  passes without a PUBACK. With the database away for ten minutes and an `ack_wait` of 10 s that
  would be sixty copies of everything in memory. The copy needs no place: the first one is
  acknowledged after its commit, or comes again after a reconnect.
- **A packet id is acknowledged when all that came under it is settled.** A copy may cross our
  PUBACK on the wire, and the broker may then give the freed id to another message. One PUBACK for
  the copy would acknowledge the other message before its commit. So where the same id was handed
  on more than once, the PUBACK goes out for the last of them.

  That suffices if the wire is faster than a commit, and if the broker does not give an id away
  while a second PUBACK for it is on the wire: brokers count their ids upwards (nats-server since
  2.15 and Mosquitto do), so a freed id does not come again for 65,535 messages.

A message first seen with DUP set on this connection may be such a copy of one already
acknowledged, whose id is free at the broker. Its content is remembered (as a hash), and only an
equal one counts as a copy of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, compress

from ingest.mqtt.codec import DUP, QOS_1, Batch

_PLAIN = QOS_1 | 0x30  # first byte of a PUBLISH of QoS 1 with no other flag


class Outstanding:
    """The packet ids of one connection that wait for their PUBACK."""

    def __init__(self) -> None:
        self._waiting: set[int] = set()
        self._more: dict[int, int] = {}  # deliveries of a waiting id beyond the first
        self._contents: dict[int, int] = {}  # of waiting ids that came with DUP set

    def __len__(self) -> int:
        return len(self._waiting)

    def admit(self, batch: Batch) -> int:
        """Note what came, and take out of it the copies of what is still held.

        Args:
            batch: What one read brought; changed in place.

        Returns:
            How many messages were taken out.
        """
        if batch.flags.count(_PLAIN) == len(batch):
            fresh = set(batch.packet_ids)
            if len(fresh) == len(batch) and fresh.isdisjoint(self._waiting):
                self._waiting |= fresh
                return 0
        return self._admit_one_by_one(batch)

    def settle(self, packet_ids: Sequence[int]) -> Sequence[int]:
        """Note what the consumer is done with.

        Args:
            packet_ids: As they were handed on; 0, the id of QoS 0, may be among them.

        Returns:
            Those to acknowledge now.
        """
        if not self._more and not self._contents:
            done = set(packet_ids)
            if len(done) == len(packet_ids) and done <= self._waiting:
                self._waiting -= done
                return packet_ids
        return [packet_id for packet_id in packet_ids if self._settle_one(packet_id)]

    def _admit_one_by_one(self, batch: Batch) -> int:
        contents = (
            (topic, batch.oversize[index].sha256 if index in batch.oversize else payload)
            for index, (topic, payload) in enumerate(zip(batch.topics, batch.payloads, strict=True))
        )
        kept = list(map(self._admit_one, batch.packet_ids, batch.flags, contents))
        if all(kept):
            return 0
        places = list(accumulate(kept, initial=0))
        batch.topics = list(compress(batch.topics, kept))
        batch.payloads = list(compress(batch.payloads, kept))
        batch.packet_ids = list(compress(batch.packet_ids, kept))
        batch.flags = bytearray(compress(batch.flags, kept))
        batch.oversize = {
            places[index]: large for index, large in batch.oversize.items() if kept[index]
        }
        return kept.count(False)

    def _admit_one(self, packet_id: int, flags: int, content: tuple[bytes, bytes]) -> bool:
        if not flags & QOS_1:
            return True
        if packet_id not in self._waiting:
            self._waiting.add(packet_id)
            if flags & DUP:
                self._contents[packet_id] = hash(content)
            return True
        if flags & DUP:
            known = self._contents.get(packet_id)
            if known is None or known == hash(content):
                return False
        self._more[packet_id] = self._more.get(packet_id, 0) + 1
        return True

    def _settle_one(self, packet_id: int) -> bool:
        if packet_id not in self._waiting:
            return False
        more = self._more.pop(packet_id, 0)
        if more:
            if more > 1:
                self._more[packet_id] = more - 1
            return False
        self._waiting.discard(packet_id)
        self._contents.pop(packet_id, None)
        return True
