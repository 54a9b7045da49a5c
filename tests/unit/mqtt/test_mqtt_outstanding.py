"""No message is acknowledged before it is settled, however often it is sent again."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ingest.mqtt.codec import DUP, QOS_1, Batch, Oversize
from ingest.mqtt.outstanding import Outstanding
from tests.unit.mqtt.mqtt_wire import assert_parallel


def batch(*messages: tuple[int, int, bytes]) -> Batch:
    made = Batch()
    for packet_id, flags, payload in messages:
        made.topics.append(b"t")
        made.payloads.append(payload)
        made.packet_ids.append(packet_id)
        made.flags.append(0x30 | flags)
    return made


def new(packet_id: int, payload: bytes = b"x") -> tuple[int, int, bytes]:
    return packet_id, QOS_1, payload


def again(packet_id: int, payload: bytes = b"x") -> tuple[int, int, bytes]:
    return packet_id, QOS_1 | DUP, payload


def test_each_is_acknowledged_once() -> None:
    outstanding = Outstanding()
    assert outstanding.admit(batch(new(1), new(2), new(3))) == 0
    assert outstanding.settle([1, 3]) == [1, 3]
    assert outstanding.settle([1, 2, 3]) == [2]
    assert outstanding.settle([7]) == []
    assert len(outstanding) == 0


def test_qos_0_is_nobodys_business() -> None:
    outstanding = Outstanding()
    mixed = batch((0, 0, b"a"), new(5), (0, 0, b"b"))
    assert outstanding.admit(mixed) == 0
    assert mixed.packet_ids == [0, 5, 0]
    assert outstanding.settle([0, 5, 0]) == [5]
    assert outstanding.admit(batch((0, 0, b"a"))) == 0
    assert len(outstanding) == 0


def test_a_copy_of_what_is_held_is_held_back() -> None:
    outstanding = Outstanding()
    outstanding.admit(batch(new(1), new(2)))
    copies = batch(again(1), new(3), again(2), (0, 0, b"zero"))
    copies.oversize[0] = Oversize(5, b"hash")
    copies.oversize[3] = Oversize(6, b"hash")
    assert outstanding.admit(copies) == 2
    assert_parallel(copies)
    assert copies.packet_ids == [3, 0]
    assert copies.payloads == [b"x", b"zero"]
    assert copies.oversize == {1: Oversize(6, b"hash")}
    assert outstanding.settle([1, 2, 3]) == [1, 2, 3]


def test_a_copy_of_a_copy_is_held_back() -> None:
    """After a reconnect everything comes marked as sent before."""
    outstanding = Outstanding()
    assert outstanding.admit(batch(again(1), again(2))) == 0
    assert outstanding.admit(batch(again(1), again(2))) == 2
    assert outstanding.settle([1]) == [1]
    assert outstanding.admit(batch(again(1))) == 0
    assert outstanding.settle([1, 2]) == [1, 2]


def test_a_copy_that_crossed_our_puback_acknowledges_nobody_else() -> None:
    outstanding = Outstanding()
    outstanding.admit(batch(new(5, b"first")))
    assert outstanding.settle([5]) == [5]
    # On the wire meanwhile: the copy, sent before the broker saw our PUBACK, and then another
    # message under the id that the PUBACK freed.
    assert outstanding.admit(batch(again(5, b"first"), new(5, b"second"))) == 0
    assert outstanding.settle([5]) == []
    assert outstanding.settle([5]) == [5]
    assert len(outstanding) == 0


def test_another_message_marked_as_sent_before_is_no_copy() -> None:
    outstanding = Outstanding()
    outstanding.admit(batch(new(5, b"first")))
    outstanding.settle([5])
    assert outstanding.admit(batch(again(5, b"first"))) == 0
    # The freed id goes to a message that some earlier connection was sent.
    assert outstanding.admit(batch(again(5, b"second"))) == 0
    assert outstanding.settle([5]) == []
    assert outstanding.settle([5]) == [5]


def test_an_oversize_copy_is_known_by_its_hash() -> None:
    outstanding = Outstanding()

    def large(sha256: bytes) -> Batch:
        made = batch(again(1, b"head"))
        made.oversize[0] = Oversize(9, sha256)
        return made

    assert outstanding.admit(large(b"one")) == 0
    assert outstanding.admit(large(b"one")) == 1
    assert outstanding.admit(large(b"two")) == 0


class Broker(RuleBasedStateMachine):
    """A broker that may send anything unacknowledged again at any time.

    Packets may cross on the wire. But what was on the wire when a message was handed on has
    arrived before that message is settled, for a commit takes longer; and a broker counts its
    packet ids upwards, so it gives none away while a PUBACK for it is on the wire. A message is
    lost if the broker takes a PUBACK for it before the consumer has settled it.
    """

    ids = st.integers(1, 3)

    def __init__(self) -> None:
        super().__init__()
        self.outstanding = Outstanding()
        self.serial = 0
        self.broker: dict[int, bytes] = {}  # unacknowledged, as the broker sees it
        self.to_client: list[tuple[int, int, bytes]] = []
        self.to_broker: list[int] = []
        self.held: list[tuple[int, bytes]] = []  # handed on, not yet settled
        self.settled = {b""}
        self.taken: set[bytes] = set()

    @rule(packet_id=ids, sent_before=st.booleans())
    def send_new(self, packet_id: int, sent_before: bool) -> None:
        """A message that this connection has not seen, though an earlier one may have."""
        if packet_id not in self.broker and packet_id not in self.to_broker:
            self.serial += 1
            self.broker[packet_id] = b"%d" % self.serial
            first = again if sent_before else new
            self.to_client.append(first(packet_id, self.broker[packet_id]))

    @rule(packet_id=ids)
    def send_again(self, packet_id: int) -> None:
        if packet_id in self.broker:
            self.to_client.append(again(packet_id, self.broker[packet_id]))

    @rule(count=st.integers(1, 3))
    def deliver(self, count: int) -> None:
        part, self.to_client = self.to_client[:count], self.to_client[count:]
        made = batch(*part)
        self.outstanding.admit(made)
        assert_parallel(made)
        self.held += zip(made.packet_ids, made.payloads, strict=True)

    @rule()
    def acknowledge(self) -> None:
        for packet_id in self.to_broker:
            self.taken.add(self.broker.pop(packet_id, b""))
        self.to_broker.clear()

    @rule(count=st.integers(1, 3))
    def settle(self, count: int) -> None:
        part, self.held = self.held[:count], self.held[count:]
        self.acknowledge()
        self.deliver(len(self.to_client))
        self.settled |= {payload for _, payload in part}
        self.to_broker += self.outstanding.settle([packet_id for packet_id, _ in part])

    @invariant()
    def nothing_is_lost(self) -> None:
        assert self.taken <= self.settled

    @invariant()
    def what_is_held_is_outstanding(self) -> None:
        assert len(self.outstanding) == len({packet_id for packet_id, _ in self.held})

    def teardown(self) -> None:
        """In the end everything can be acknowledged, and nothing is lost by that."""
        for _ in range(2):
            while self.held:
                self.settle(1)
            self.acknowledge()
            for packet_id in list(self.broker):
                self.send_again(packet_id)
            self.deliver(len(self.to_client))
        assert not self.broker
        assert self.taken <= self.settled


TestBroker = Broker.TestCase
TestBroker.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)
