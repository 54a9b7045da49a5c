"""Every packet of the subset both ways: what paho and `mqtt5` write and read, and what we do.

What is compared byte by byte elsewhere (`test_mqtt_oracles`) is not compared here again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import mqtt5
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt import _packet as paho_reads
from paho.mqtt.enums import MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from ingest.mqtt import codec
from ingest.mqtt.codec import Property, Reader, Version
from ingest.mqtt.errors import ProtocolError
from tests.unit.mqtt.mqtt_wire import (
    VERSIONS,
    Paho,
    Read,
    bytewise,
    feed,
    packet,
    publish,
    reader,
)

V3, V5 = VERSIONS
PAHOS = {V3: MQTTProtocolVersion.MQTTv311, V5: MQTTProtocolVersion.MQTTv5}

T = TypeVar("T")

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)
packet_ids = st.integers(1, 65_535)
pairs = st.lists(st.tuples(texts, texts), max_size=3)
seconds = st.integers(0, 65_535)
patterns = st.lists(st.sampled_from(["#", "a/+/b", "site/#", "$share/g/塔/+"]), min_size=1)


def codes(kind: type[T]) -> list[T]:
    """All of a kind; `mqtt5` only claims that they are enumerations."""
    return [getattr(kind, name) for name in dir(kind) if name.isupper()]


def body_of(data: bytes) -> bytes:
    """What follows the fixed header."""
    at = 1
    while data[at] > 127:
        at += 1
    return data[at + 1 :]


def read_every_way(version: Version, data: bytes, greeted: bool = True) -> Read:
    """A packet alone, byte by byte, and before another: each time the same."""

    def fresh() -> Reader:
        return reader(version) if greeted else Reader(version, max_payload_bytes=1)

    def read(parts: Iterable[bytes]) -> Read:
        return feed(fresh(), parts)

    alone = read([data])
    assert read(bytewise(data)) == alone
    behind = read([data + publish(version)])
    assert (behind.acked, behind.events) == (alone.acked, alone.events)
    assert len(behind.messages) == len(alone.messages) + 1
    assert read(bytewise(data + b"\xd0\x00")).events == [*alone.events, codec.PingResp()]
    return alone


def words(properties: Properties) -> str:
    return str(getattr(properties, "ReasonString", ""))


# What a broker writes.


@given(st.sampled_from([(0, 0), (1, 0), (0, 1), (0, 2), (0, 3), (0, 4), (0, 5)]))
def test_connack_of_3_1_1_is_read_as_paho_reads_it(flags_and_code: tuple[int, int]) -> None:
    data = packet(0x20, bytes(flags_and_code))
    theirs = paho_reads.decode_connack(data[0], body_of(data), PAHOS[V3])
    (ours,) = read_every_way(V3, data, greeted=False).events
    assert ours == codec.ConnAck(int(theirs.rc), bool(theirs.flags), {})


@given(
    st.sampled_from([0x00, 0x80, 0x86, 0x87, 0x95, 0x9D]),
    st.booleans(),
    st.none() | texts,
    st.none() | seconds,
    st.none() | st.integers(0, 0xFFFF_FFFF),
    packet_ids,
    st.none() | st.integers(1, 268_435_455),
    st.booleans(),
    pairs,
)
def test_connack_of_5_is_read_as_paho_reads_it(
    code: int,
    present: bool,
    reason: str | None,
    keepalive_s: int | None,
    expiry_s: int | None,
    receive_maximum: int,
    largest: int | None,
    shared: bool,
    user: list[tuple[str, str]],
) -> None:
    names = {int(each): each for each in codes(mqtt5.ConnAckReasonCode)}
    data = mqtt5.ConnAckPacket(
        session_present=present and not code,
        reason_code=names[code],
        reason_str=reason,
        server_keep_alive=keepalive_s,
        session_expiry_interval=expiry_s,
        receive_max=receive_maximum,
        max_packet_size=largest,
        shared_subscription_available=shared,
        user_properties=user,
    ).write()
    theirs = paho_reads.decode_connack(data[0], body_of(data), PAHOS[V5])
    (ours,) = read_every_way(V5, data, greeted=False).events
    assert isinstance(ours, codec.ConnAck)
    assert (ours.code, ours.session_present) == (theirs.reason.value, bool(theirs.flags))
    for name, property_ in {
        "ReasonString": Property.REASON_STRING,
        "ServerKeepAlive": Property.SERVER_KEEP_ALIVE,
        "SessionExpiryInterval": Property.SESSION_EXPIRY,
        "ReceiveMaximum": Property.RECEIVE_MAXIMUM,
        "MaximumPacketSize": Property.MAXIMUM_PACKET_SIZE,
        "SharedSubscriptionAvailable": Property.SHARED_AVAILABLE,
    }.items():
        assert ours.properties.get(property_) == getattr(theirs.properties, name, None)


@given(packet_ids, st.lists(st.sampled_from([0, 1, 2, 0x80]), min_size=1, max_size=9))
def test_answers_of_3_1_1_are_read_as_paho_reads_them(packet_id: int, granted: list[int]) -> None:
    name = packet_id.to_bytes(2, "big")
    data = packet(0x90, name + bytes(granted))
    suback = paho_reads.decode_suback(data[0], body_of(data), PAHOS[V3])
    assert read_every_way(V3, data).events == [codec.SubAck(suback.mid, suback.granted_qos)]
    data = packet(0xB0, name)
    unsuback = paho_reads.decode_unsuback(data[0], body_of(data), PAHOS[V3])
    assert read_every_way(V3, data).events == [codec.UnsubAck(unsuback.mid, ())]
    data = packet(0x40, name)
    puback = paho_reads.decode_puback(data[0], body_of(data), PAHOS[V3])
    assert read_every_way(V3, data).acked == [puback.mid]


@given(packet_ids, st.data(), st.none() | texts, pairs)
def test_answers_of_5_are_read_as_paho_reads_them(
    packet_id: int, data: st.DataObject, reason: str | None, user: list[tuple[str, str]]
) -> None:
    told: dict[str, Any] = {"reason_str": reason, "user_properties": user}
    granted = data.draw(st.lists(st.sampled_from(codes(mqtt5.SubAckReasonCode)), min_size=1))
    raw = mqtt5.SubAckPacket(packet_id, granted, **told).write()
    suback = paho_reads.decode_suback(raw[0], body_of(raw), PAHOS[V5])
    values = tuple(each.value for each in suback.reason_codes)
    expected = codec.SubAck(suback.mid, values, words(suback.properties))
    assert read_every_way(V5, raw).events == [expected]

    released = data.draw(st.lists(st.sampled_from(codes(mqtt5.UnsubAckReasonCode)), min_size=1))
    raw = mqtt5.UnsubAckPacket(packet_id, released, **told).write()
    unsuback = paho_reads.decode_unsuback(raw[0], body_of(raw), PAHOS[V5])
    values = tuple(each.value for each in unsuback.reason_codes)
    gone = codec.UnsubAck(unsuback.mid, values, words(unsuback.properties))
    assert read_every_way(V5, raw).events == [gone]

    taken = data.draw(st.sampled_from(codes(mqtt5.PubAckReasonCode)))
    raw = mqtt5.PubAckPacket(packet_id, reason_code=taken, **told).write()
    puback = paho_reads.decode_puback(raw[0], body_of(raw), PAHOS[V5])
    ours = read_every_way(V5, raw)
    if puback.reason.value < 0x80:
        assert (ours.acked, ours.events) == ([puback.mid], [])
    else:
        refused = codec.PublishRefused(puback.mid, puback.reason.value, words(puback.properties))
        assert (ours.acked, ours.events) == ([], [refused])

    why = data.draw(st.sampled_from(codes(mqtt5.DisconnectReasonCode)))
    if why is not mqtt5.DisconnectReasonCode.DISCONNECT_WITH_WILL_MESSAGE:  # a client's
        raw = mqtt5.DisconnectPacket(reason_code=why, **told).write()
        left = paho_reads.decode_disconnect(raw[0], body_of(raw), PAHOS[V5])
        (ended,) = read_every_way(V5, raw).events
        code = 0 if left.reason is None else left.reason.value
        text = "" if left.properties is None else words(left.properties)
        assert ended == codec.Disconnect(code, text)


def test_the_shortest_packets_are_read_as_mqtt5_writes_them() -> None:
    assert read_every_way(V5, mqtt5.PingRespPacket().write()).events == [codec.PingResp()]
    assert read_every_way(V5, mqtt5.DisconnectPacket().write()).events == [codec.Disconnect(0, "")]


@given(st.integers(1, 65_535), st.text("abc", max_size=3), pairs)
def test_a_topic_alias_is_a_lie(alias: int, topic: str, user: list[tuple[str, str]]) -> None:
    """We announce a maximum of 0, with a topic beside it or without."""
    data = mqtt5.PublishPacket(topic, b"x", topic_alias=alias, user_properties=user).write()
    for parts in ([data], bytewise(data)):
        with pytest.raises(ProtocolError, match="topic alias"):
            feed(reader(V5), parts)


def test_properties_seen_before_are_still_read() -> None:
    """The second time they are known: the other way through the code."""
    told = [
        mqtt5.PublishPacket("t", b"%d" % number, user_properties=[("site", f"s{number % 3}")])
        for number in range(5_000)
    ]
    data = b"".join(each.write() for each in told)
    assert [message[1] for message in feed(reader(V5), [data]).messages] == [
        each.payload for each in told
    ]
    many = [
        mqtt5.PublishPacket("t", b"", user_properties=[("n", str(number))]).write()
        for number in range(3_000)
    ]
    taker = reader(V5)
    for _ in range(2):
        assert len(feed(taker, many).messages) == 3_000
    assert len(taker._known_properties) <= 1_024


# What a client writes.


@given(st.text(min_size=1, max_size=9), seconds, st.integers(0, 0xFFFF_FFFF), packet_ids)
def test_connect_of_5_is_what_paho_makes_of_it(
    client_id: str, keepalive_s: int, expiry_s: int, receive_maximum: int
) -> None:
    client_id = client_id.encode("utf-8", "replace").decode().replace("\0", "")
    paho = Paho(V5, client_id)
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.SessionExpiryInterval = expiry_s
    properties.ReceiveMaximum = receive_maximum
    paho.client._connect_properties = properties
    paho.client._clean_start = False
    theirs = paho.written(lambda client: client._send_connect(keepalive_s))
    ours = codec.connect(
        V5,
        client_id,
        clean=False,
        keepalive_s=keepalive_s,
        session_expiry_s=expiry_s,
        receive_maximum=receive_maximum,
    )
    assert mqtt5.read(memoryview(ours)) == mqtt5.read(memoryview(theirs))
    assert len(ours) == len(theirs)


@given(packet_ids, patterns, st.integers(0, 1), st.booleans())
def test_subscribe_and_unsubscribe_of_5_are_pahos(
    packet_id: int, wanted: list[str], qos: int, retained_again: bool
) -> None:
    paho = Paho(V5)
    paho.client._last_mid = packet_id - 1
    options = SubscribeOptions(
        qos,
        retainHandling=SubscribeOptions.RETAIN_SEND_ON_SUBSCRIBE
        if retained_again
        else SubscribeOptions.RETAIN_SEND_IF_NEW_SUB,
    )
    encoded = [(pattern.encode(), options) for pattern in wanted]
    theirs = paho.written(lambda client: client._send_subscribe(False, encoded))
    ours = codec.subscribe(
        V5, packet_id, [(pattern, qos) for pattern in wanted], retained_again=retained_again
    )
    assert ours == theirs
    paho.client._last_mid = packet_id - 1
    raw = [pattern.encode() for pattern in wanted]
    theirs = paho.written(lambda client: client._send_unsubscribe(False, raw))
    assert codec.unsubscribe(V5, packet_id, wanted) == theirs


@given(packet_ids, st.text("ab塔/", min_size=1, max_size=9), st.binary(max_size=300), st.booleans())
def test_publish_of_5_is_mqtt5s(packet_id: int, topic: str, payload: bytes, retain: bool) -> None:
    theirs = mqtt5.PublishPacket(
        topic, payload, qos=mqtt5.QoS.AT_LEAST_ONCE, packet_id=packet_id, retain=retain
    ).write()
    ours = codec.publish(V5, topic.encode(), payload, packet_id=packet_id, retain=retain)
    assert ours == theirs
    assert read_every_way(V5, ours).messages[0][:3] == (topic.encode(), payload, packet_id)


def test_leaving_is_read_by_both() -> None:
    ours = codec.disconnect(V5)
    left = paho_reads.decode_disconnect(ours[0], body_of(ours), PAHOS[V5])
    assert left.reason is not None
    assert left.reason.value == 0
    assert mqtt5.read(memoryview(ours))[1] == len(ours)
