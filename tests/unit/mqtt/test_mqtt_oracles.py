"""Our codec against `mqtt5` and `paho-mqtt`: what one writes the others read, and the same."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import mqtt5
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paho.mqtt.client import Client
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from ingest.mqtt import codec
from ingest.mqtt.codec import Property, Reader, Version
from ingest.mqtt.errors import ProtocolError
from tests.unit.mqtt.mqtt_wire import VERSIONS, Paho, bytewise, feed, reader

V3, V5 = VERSIONS

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)
topics = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0+#"), min_size=1, max_size=40
)
payloads = st.one_of(st.binary(max_size=300), st.integers(0, 20_000).map(bytes))
packet_ids = st.integers(1, 65_535)
pairs = st.lists(st.tuples(texts, texts), max_size=3)
sessions = st.sampled_from([0, 1, 3_600, 0xFFFF_FFFF])
seconds = st.integers(0, 65_535)

messages = st.tuples(topics, payloads, st.one_of(st.just(0), packet_ids), st.booleans())


T = TypeVar("T")


def codes(kind: type[T]) -> st.SearchStrategy[T]:
    """Any code of a kind; `mqtt5` only claims that they are enumerations."""
    return st.sampled_from([getattr(kind, name) for name in dir(kind) if name.isupper()])


def mqtt5_read(data: bytes) -> mqtt5.Packet:
    read, length = mqtt5.read(memoryview(data))
    assert length == len(data)
    return read


@st.composite
def mqtt5_publishes(draw: st.DrawFn) -> mqtt5.PublishPacket:
    topic, payload, packet_id, retain = draw(messages)
    return mqtt5.PublishPacket(
        topic,
        payload,
        qos=mqtt5.QoS.AT_LEAST_ONCE if packet_id else mqtt5.QoS.AT_MOST_ONCE,
        retain=retain,
        packet_id=packet_id or None,
        duplicate=bool(packet_id) and draw(st.booleans()),
        payload_format_indicator=draw(st.integers(0, 1)),
        message_expiry_interval=draw(st.none() | sessions),
        content_type=draw(st.none() | texts),
        response_topic=draw(st.none() | topics),
        correlation_data=draw(st.none() | st.binary(max_size=20)),
        subscription_ids=draw(st.lists(st.integers(1, 268_435_455), max_size=2)),
        user_properties=draw(pairs),
    )


@given(st.lists(mqtt5_publishes(), min_size=1, max_size=6), st.integers(1, 400))
def test_we_read_what_mqtt5_publishes(packets: list[mqtt5.PublishPacket], step: int) -> None:
    data = b"".join(each.write() for each in packets)
    expected = [
        (
            each.topic.encode(),
            each.payload,
            each.packet_id or 0,
            each.duplicate * codec.DUP | int(each.qos) << 1 | each.retain * codec.RETAIN,
            None,
        )
        for each in packets
    ]
    cut = [data[at : at + step] for at in range(0, len(data), step)]
    assert feed(reader(V5, 1 << 20), [data]).messages == expected
    assert feed(reader(V5, 1 << 20), cut).messages == expected
    taker = reader(V5, 1 << 20)
    assert feed(taker, [data, data]).messages == expected * 2


@given(st.lists(messages, min_size=1, max_size=6), st.booleans(), pairs)
@pytest.mark.parametrize("version", VERSIONS)
def test_we_read_what_paho_publishes(
    version: Version,
    several: list[tuple[str, bytes, int, bool]],
    dup: bool,
    user: list[tuple[str, str]],
) -> None:
    paho = Paho(version)
    properties = None
    if version is V5:
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        if user:
            properties.UserProperty = user
    data = b""
    expected = []
    for topic, payload, packet_id, retain in several:
        again = dup and packet_id > 0
        data += paho.publish(
            topic.encode(), payload, packet_id, retain=retain, dup=again, properties=properties
        )
        flags = again * codec.DUP | (packet_id > 0) * codec.QOS_1 | retain * codec.RETAIN
        expected.append((topic.encode(), payload, packet_id, flags, None))
    assert feed(reader(version, 1 << 20), [data]).messages == expected


@given(messages, st.booleans())
def test_what_we_publish_is_what_paho_publishes(
    message: tuple[str, bytes, int, bool], dup: bool
) -> None:
    topic, payload, packet_id, retain = message
    dup = dup and packet_id > 0
    for version in VERSIONS:
        ours = codec.publish(
            version, topic.encode(), payload, packet_id=packet_id, retain=retain, dup=dup
        )
        theirs = Paho(version).publish(topic.encode(), payload, packet_id, retain=retain, dup=dup)
        assert ours == theirs


@given(st.lists(st.tuples(topics, payloads, packet_ids), max_size=8), st.booleans())
@pytest.mark.parametrize("version", VERSIONS)
def test_paho_and_we_read_what_we_publish(
    version: Version, several: list[tuple[str, bytes, int]], acknowledged: bool
) -> None:
    data = codec.publish_many(
        version,
        [topic.encode() for topic, _, _ in several],
        [payload for _, payload, _ in several],
        [packet_id for _, _, packet_id in several] if acknowledged else None,
    )
    qos = int(acknowledged)
    expected = [(topic, payload, packet_id * qos, qos) for topic, payload, packet_id in several]
    theirs = [
        (message.topic, message.payload, message.mid, message.qos)
        for message in Paho(version).read_publishes(data)
    ]
    assert theirs == expected
    ours = [
        (topic.decode(), payload, packet_id, flags >> 1)
        for topic, payload, packet_id, flags, _ in feed(reader(version, 1 << 20), [data]).messages
    ]
    assert ours == expected


wills = st.none() | st.builds(
    codec.Will, topics, st.binary(max_size=50), st.integers(0, 1), st.booleans()
)


@given(texts, st.booleans(), seconds, st.none() | texts, st.none() | texts, wills)
def test_connect_of_3_1_1_is_pahos(
    client_id: str,
    clean: bool,
    keepalive_s: int,
    username: str | None,
    password: str | None,
    will: codec.Will | None,
) -> None:
    if not client_id and not clean:
        clean = True  # paho, and MQTT, want a name for a session to keep
    if username is None:
        password = None
    paho = Paho(V3, client_id, clean)
    if username is not None:
        paho.client.username_pw_set(username, password)
    if will is not None:
        paho.client.will_set(will.topic, will.payload, will.qos, will.retain)
    theirs = paho.written(lambda client: client._send_connect(keepalive_s))
    ours = codec.connect(
        V3,
        client_id,
        clean=clean,
        keepalive_s=keepalive_s,
        username=username,
        password=password,
        will=will,
    )
    assert ours == theirs


@given(
    texts,
    st.booleans(),
    seconds,
    st.none() | texts,
    st.none() | texts,
    wills,
    sessions,
    packet_ids,
)
def test_mqtt5_reads_our_connect(
    client_id: str,
    clean: bool,
    keepalive_s: int,
    username: str | None,
    password: str | None,
    will: codec.Will | None,
    session_expiry_s: int,
    receive_maximum: int,
) -> None:
    read = mqtt5_read(
        codec.connect(
            V5,
            client_id,
            clean=clean,
            keepalive_s=keepalive_s,
            username=username,
            password=password,
            will=will,
            session_expiry_s=session_expiry_s,
            receive_maximum=receive_maximum,
        )
    )
    assert isinstance(read, mqtt5.ConnectPacket)
    assert (read.client_id, read.clean_start, read.keep_alive) == (client_id, clean, keepalive_s)
    assert read.username == username
    assert read.password == (None if password is None else password.encode())
    assert (read.session_expiry_interval, read.receive_max) == (session_expiry_s, receive_maximum)
    assert (read.topic_alias_max, read.max_packet_size) == (0, None)
    if will is None:
        assert read.will is None
    else:
        assert read.will is not None
        assert (read.will.topic, read.will.payload or b"") == (will.topic, will.payload)
        assert (read.will.qos, read.will.retain) == (will.qos, will.retain)


filters = st.lists(
    st.tuples(st.sampled_from(["#", "a/+/b", "site/#", "塔/+"]), st.integers(0, 1)), min_size=1
)


@given(packet_ids, filters)
def test_subscribe_and_unsubscribe_of_3_1_1_are_pahos(
    packet_id: int, wanted: list[tuple[str, int]]
) -> None:
    paho = Paho(V3)
    paho.client._last_mid = packet_id - 1
    encoded = [(pattern.encode(), qos) for pattern, qos in wanted]
    theirs = paho.written(lambda client: client._send_subscribe(False, encoded))
    assert codec.subscribe(V3, packet_id, wanted) == theirs
    paho.client._last_mid = packet_id - 1
    patterns = [pattern for pattern, _ in encoded]
    theirs = paho.written(lambda client: client._send_unsubscribe(False, patterns))
    assert codec.unsubscribe(V3, packet_id, [pattern for pattern, _ in wanted]) == theirs


@given(packet_ids, filters, st.booleans())
def test_mqtt5_reads_our_subscribe(
    packet_id: int, wanted: list[tuple[str, int]], retained_again: bool
) -> None:
    read = mqtt5_read(codec.subscribe(V5, packet_id, wanted, retained_again=retained_again))
    assert isinstance(read, mqtt5.SubscribePacket)
    assert read.packet_id == packet_id
    assert [(each.pattern, int(each.max_qos)) for each in read.topic_filters] == wanted
    handling = mqtt5.RetainHandling
    expected = handling.SEND_ALWAYS if retained_again else handling.SEND_IF_SUBSCRIPTION_NOT_EXISTS
    assert all(each.retain_handling == expected for each in read.topic_filters)
    read = mqtt5_read(codec.unsubscribe(V5, packet_id, [pattern for pattern, _ in wanted]))
    assert isinstance(read, mqtt5.UnsubscribePacket)
    assert (read.packet_id, read.patterns) == (packet_id, [pattern for pattern, _ in wanted])


@given(st.lists(packet_ids, max_size=50))
def test_others_read_our_pubacks(ids: list[int]) -> None:
    data = codec.pubacks(ids)
    assert len(data) == 4 * len(ids)
    for at, packet_id in enumerate(ids):
        read = mqtt5_read(data[4 * at : 4 * at + 4])
        assert isinstance(read, mqtt5.PubAckPacket)
        assert (read.packet_id, read.reason_code) == (packet_id, mqtt5.PubAckReasonCode.SUCCESS)
    paho = Paho(V3)
    theirs = bytearray()
    for packet_id in ids:
        theirs += paho.written(partial(Client._send_puback, mid=packet_id))
    assert data == theirs


def test_others_read_our_short_packets() -> None:
    assert isinstance(mqtt5_read(codec.PINGREQ), mqtt5.PingReqPacket)
    assert isinstance(mqtt5_read(codec.disconnect(V5)), mqtt5.DisconnectPacket)
    write: list[tuple[bytes, Callable[[Client], object]]] = [
        (codec.PINGREQ, lambda client: client._send_pingreq()),
        (codec.disconnect(V3), lambda client: client._send_disconnect()),
    ]
    for ours, theirs in write:
        assert Paho(V3).written(theirs) == ours


@given(
    codes(mqtt5.ConnAckReasonCode),
    st.booleans(),
    st.none() | texts,
    st.none() | seconds,
    packet_ids,
    st.none() | texts,
    pairs,
)
def test_we_read_the_connack_of_mqtt5(
    code: mqtt5.ConnAckReasonCode,
    present: bool,
    reason: str | None,
    keepalive_s: int | None,
    receive_maximum: int,
    assigned: str | None,
    user: list[tuple[str, str]],
) -> None:
    packet = mqtt5.ConnAckPacket(
        session_present=present and not int(code),
        reason_code=code,
        reason_str=reason,
        server_keep_alive=keepalive_s,
        receive_max=receive_maximum,
        assigned_client_id=assigned,
        user_properties=user,
    )
    for parts in ([packet.write()], bytewise(packet.write())):
        (event,) = feed(Reader(V5, max_payload_bytes=1), parts).events
        assert isinstance(event, codec.ConnAck)
        assert (event.code, event.session_present) == (int(code), present and not int(code))
        assert event.properties.get(Property.REASON_STRING) == reason
        assert event.properties.get(Property.SERVER_KEEP_ALIVE) == keepalive_s
        assert event.properties.get(Property.RECEIVE_MAXIMUM, 65_535) == receive_maximum
        assert event.properties.get(Property.ASSIGNED_CLIENT_ID) == assigned


@given(
    packet_ids,
    st.lists(codes(mqtt5.SubAckReasonCode), min_size=1),
    codes(mqtt5.PubAckReasonCode),
    codes(mqtt5.DisconnectReasonCode),
    st.none() | texts,
    pairs,
)
def test_we_read_other_answers_of_mqtt5(
    packet_id: int,
    granted: list[mqtt5.SubAckReasonCode],
    taken: mqtt5.PubAckReasonCode,
    gone: mqtt5.DisconnectReasonCode,
    reason: str | None,
    user: list[tuple[str, str]],
) -> None:
    def of(packet: mqtt5.Packet) -> codec.Event | int:
        read = feed(reader(V5), [packet.write()])
        return (read.events or read.acked)[0]

    assert of(
        mqtt5.SubAckPacket(packet_id, granted, reason_str=reason, user_properties=user)
    ) == codec.SubAck(packet_id, tuple(map(int, granted)), reason or "")
    unsuback = mqtt5.UnsubAckPacket(packet_id, [mqtt5.UnsubAckReasonCode.SUCCESS])
    assert of(unsuback) == codec.UnsubAck(packet_id, (0,))
    puback = mqtt5.PubAckPacket(
        packet_id, reason_code=taken, reason_str=reason, user_properties=user
    )
    refused = codec.PublishRefused(packet_id, int(taken), reason or "")
    assert of(puback) == (refused if int(taken) >= 0x80 else packet_id)
    assert of(
        mqtt5.DisconnectPacket(reason_code=gone, reason_str=reason, user_properties=user)
    ) == codec.Disconnect(int(gone), reason or "")
    assert of(mqtt5.PingRespPacket()) == codec.PingResp()


@settings(max_examples=300)
@given(mqtt5_publishes(), st.data())
def test_of_a_damaged_publish_paho_and_we_read_the_same_if_both_do(
    packet: mqtt5.PublishPacket, data: st.DataObject
) -> None:
    damaged = bytearray(packet.write())
    place = data.draw(st.integers(0, len(damaged) - 1))
    damaged[place] = data.draw(st.integers(0, 255))
    try:
        ours = feed(reader(V5, 1 << 20), [bytes(damaged)]).messages
        theirs = Paho(V5).read_publishes(bytes(damaged))
    except (ProtocolError, ValueError):
        return
    if ours and theirs:
        (topic, payload, packet_id, flags, _), message = ours[0], theirs[0]
        assert (topic.decode(), payload) == (message.topic, message.payload)
        assert (packet_id, flags >> 1 & 3) == (message.mid, message.qos)
        assert (bool(flags & codec.DUP), bool(flags & codec.RETAIN)) == (
            message.dup,
            message.retain,
        )
