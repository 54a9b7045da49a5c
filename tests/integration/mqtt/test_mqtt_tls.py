"""TLS: who is trusted and who is not, on a scripted broker and on Mosquitto."""

from __future__ import annotations

import ssl
from collections.abc import Callable

import pytest

from ingest.mqtt.codec import Version
from ingest.mqtt.connection import Options
from ingest.mqtt.errors import BrokerUnavailable, TlsRefused
from ingest.mqtt.publisher import Publisher
from tests.integration.mqtt.certificates import Certificates
from tests.integration.mqtt.real_brokers import Mosquitto
from tests.integration.mqtt.scripted_broker import (
    CONNACK,
    V3,
    V5,
    Client,
    Peer,
    ScriptedBroker,
    honest,
    message,
    stay,
)


@pytest.fixture
def server_tls(certificates: Certificates) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=certificates / "ca.pem")
    context.load_cert_chain(certificates / "server.pem", certificates / "server.key")
    context.verify_mode = ssl.CERT_REQUIRED
    return context


async def test_tls_with_a_client_certificate(
    certificates: Certificates, server_tls: ssl.SSLContext
) -> None:
    async def sends(peer: Peer) -> None:
        await peer.welcome()
        for number in range(1, 201):
            await peer.say(message(number, b"x" * 5_000))
        for number in range(1, 201):
            assert await peer.expect(0x40) == number.to_bytes(2, "big")
        await stay(peer)

    async with (
        ScriptedBroker(sends, tls=server_tls) as broker,
        Client(broker.url, **certificates.options()) as client,
    ):
        await client.until(lambda: len(client.payloads) >= 100)
        client.connection.pause_reading()
        client.connection.resume_reading()
        await client.until(lambda: len(client.payloads) == 200)
        assert client.acknowledge() == 200


@pytest.mark.parametrize("version", [V3, V5])
async def test_mosquitto_with_a_client_certificate(
    certificates: Certificates, start_mosquitto: Callable[..., Mosquitto], version: Version
) -> None:
    broker = start_mosquitto(*certificates.listener(), scheme="mqtts")
    payloads = [b"%d" % number + bytes(3_000) for number in range(300)]
    options = {"version": version} | certificates.options()
    async with Client(broker.url, **options) as client:
        await client.ready()
        sender = Options(url=broker.url, client_id="publisher", **options)  # type: ignore[arg-type]
        async with Publisher(sender) as publisher:
            await publisher.publish([b"site/a"] * 300, payloads)
        await client.until(lambda: len(client.payloads) == 300)
        assert client.payloads == payloads
        assert client.acknowledge() == 300
        assert client.errors == []


REFUSALS = [
    ("stranger", "client", "server", "certificate of .* is not trusted: self.signed"),
    ("ca", "client", "elsewhere", "is not trusted: IP address mismatch"),
    ("ca", None, "server", "wants a client certificate it trusts: .*certificate required"),
    ("ca", "alien", "server", "wants a client certificate it trusts: .*unknown ca"),
]


@pytest.mark.parametrize(("ca", "own", "server", "words"), REFUSALS)
async def test_without_trust_it_refuses_to_start(
    certificates: Certificates,
    start_mosquitto: Callable[..., Mosquitto],
    ca: str,
    own: str | None,
    server: str,
    words: str,
) -> None:
    """A wrong authority, a broker of another name, no certificate, one that nobody knows."""
    broker = start_mosquitto(*certificates.listener(server), scheme="mqtts")
    async with Client(broker.url, **certificates.options(ca, own)) as client:
        with pytest.raises(TlsRefused, match=words):
            await client.ended()


@pytest.mark.parametrize("tls", ["tlsv1.2", "tlsv1.3"])
async def test_with_either_tls_the_missing_certificate_is_named(
    certificates: Certificates, start_mosquitto: Callable[..., Mosquitto], tls: str
) -> None:
    """The older one finds it during the handshake, the newer one after it."""
    broker = start_mosquitto(*certificates.listener(), f"tls_version {tls}", scheme="mqtts")
    async with Client(broker.url, **certificates.options(own=None)) as client:
        with pytest.raises(TlsRefused):
            await client.ended()


async def test_a_certificate_out_of_date_is_waited_for(
    certificates: Certificates, start_mosquitto: Callable[..., Mosquitto]
) -> None:
    """The broker's is renewed, or our clock is set: nothing here has to be changed."""
    broker = start_mosquitto(*certificates.listener("expired"), scheme="mqtts")
    async with Client(broker.url, **certificates.options()) as client:
        await client.until(lambda: len(client.errors) >= 2)
        with pytest.raises(BrokerUnavailable, match="is not trusted: certificate has expired"):
            raise client.errors[0]


async def test_a_broker_that_answers_without_tls_is_named(certificates: Certificates) -> None:
    async def plain(peer: Peer) -> None:
        await peer.say(CONNACK[V3] * 4)
        await peer.gone()

    async with ScriptedBroker(plain) as broker:
        url = broker.url.replace("mqtt://", "mqtts://")
        async with Client(url, **certificates.options()) as client:
            with pytest.raises(TlsRefused, match="does not speak TLS"):
                await client.ended()


async def test_on_the_plain_port_of_mosquitto_tls_does_not_come_about(
    certificates: Certificates, start_mosquitto: Callable[..., Mosquitto]
) -> None:
    """It hangs up without a word, as a broker does that is ending: so it is tried again."""
    url = start_mosquitto().url.replace("mqtt://", "mqtts://")
    async with Client(url, **certificates.options()) as client:
        await client.until(lambda: len(client.errors) >= 2)
        assert {type(error) for error in client.errors} == {BrokerUnavailable}


async def test_trust_that_is_lost_later_is_tried_again(
    certificates: Certificates, server_tls: ssl.SSLContext
) -> None:
    """The broker's certificate is replaced by one we do not trust, and put right again."""

    async def once(peer: Peer) -> None:
        await peer.welcome()
        server_tls.load_cert_chain(certificates / "elsewhere.pem", certificates / "elsewhere.key")

    async with (
        ScriptedBroker(once, honest, tls=server_tls) as broker,
        Client(broker.url, **certificates.options()) as client,
    ):
        await client.until(lambda: any(isinstance(each, TlsRefused) for each in client.errors))
        server_tls.load_cert_chain(certificates / "server.pem", certificates / "server.key")
        await client.ready(2)
