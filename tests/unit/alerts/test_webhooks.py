import base64
import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from alerts.errors import SecretUnusable, SignatureRejected
from alerts.webhooks import (
    SIGNATURE_HEADER,
    TOLERANCE_S,
    Secret,
    new_secret,
    parse_secrets,
    sign,
    verify,
)

NOW = datetime(2026, 11, 21, 2, 0, tzinfo=UTC)
OLD = Secret(bytes(range(24)))
NEW = Secret(bytes(range(100, 132)))

# Computed with `openssl dgst -sha256 -hmac`, not with this code.
VECTORS = [
    (
        bytes(range(24)),
        "8a5d1a56-9a3b-4f6e-8a0c-0d6a7a1b2c3d",
        1_795_226_400,
        b'{"type":"violation.opened"}',
        "EdxP3zBpgTVUuYu4b/wk3MFtjtzhMQuJdQdZW7fW01E=",
    ),
    (
        bytes(range(100, 132)),
        "msg_1",
        1_614_265_330,
        "均值超标".encode(),
        "ii7yP1hqPM9K0R1K1bLgDUS6H6QSluYDP0UXGUAH1pE=",
    ),
]


@pytest.mark.parametrize(("key", "webhook_id", "seconds", "body", "signature"), VECTORS)
def test_known_signatures(
    key: bytes, webhook_id: str, seconds: int, body: bytes, signature: str
) -> None:
    headers = sign([Secret(key)], webhook_id, datetime.fromtimestamp(seconds, UTC), body)
    assert headers == {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(seconds),
        "webhook-signature": f"v1,{signature}",
    }


@given(key=st.binary(min_size=16, max_size=64), body=st.text(max_size=200))
def test_what_we_sign_the_reference_verifies_and_the_reverse(key: bytes, body: str) -> None:
    now = datetime.now(UTC)  # the reference reads the clock itself
    reference = Webhook(new_secret(key))
    headers = sign([Secret(key)], "msg_1", now, body.encode())
    reference.verify(body, headers, json_parse=False)
    naive = now.replace(tzinfo=None)  # the reference takes a naive time for UTC
    theirs = {**headers, SIGNATURE_HEADER: reference.sign("msg_1", naive, body)}
    assert verify([Secret(key)], theirs, body.encode(), now).webhook_id == "msg_1"


def test_the_reference_refuses_what_was_changed() -> None:
    headers = sign([OLD], "msg_1", datetime.now(UTC), b"{}")
    with pytest.raises(WebhookVerificationError):
        Webhook(OLD.key).verify("[]", headers)


def test_while_secrets_rotate_either_one_verifies() -> None:
    headers = sign([NEW, OLD], "msg_1", NOW, b"{}")
    assert len(headers[SIGNATURE_HEADER].split(" ")) == 2
    for known in ([OLD], [NEW], [OLD, NEW]):
        assert verify(known, headers, b"{}", NOW).sent_at == NOW
    theirs = Webhook(NEW.key).sign("msg_1", NOW.replace(tzinfo=None), "{}")
    assert headers[SIGNATURE_HEADER].split(" ")[0] == theirs  # the newest stands first


def test_header_names_in_any_case() -> None:
    headers = {name.title(): value for name, value in sign([OLD], "m", NOW, b"{}").items()}
    assert verify([OLD], headers, b"{}", NOW).webhook_id == "m"


@pytest.mark.parametrize("apart", [-TOLERANCE_S, 0, TOLERANCE_S])
def test_within_the_tolerance(apart: int) -> None:
    headers = sign([OLD], "m", NOW, b"{}")
    assert verify([OLD], headers, b"{}", NOW + timedelta(seconds=apart)).sent_at == NOW


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"webhook-id": None}, "header webhook-id is missing"),
        ({"webhook-signature": None}, "header webhook-signature is missing"),
        ({"webhook-id": "other"}, "no signature holds"),
        ({"webhook-id": ""}, "webhook-id is malformed"),
        ({"webhook-id": "m\n"}, "webhook-id is malformed"),
        ({"webhook-timestamp": "soon"}, "not a count of seconds"),
        ({"webhook-timestamp": "١٧٩٥٢٢٦٤٠٠"}, "not a count of seconds"),
        ({"webhook-timestamp": "-1"}, "not a count of seconds"),
        ({"webhook-timestamp": "9" * 40}, "not a count of seconds"),
        ({"webhook-timestamp": str(int(NOW.timestamp()) - 301)}, "signed 301 s ago"),
        ({"webhook-timestamp": str(int(NOW.timestamp()) + 301)}, "signed 301 s ahead"),
        ({"webhook-signature": ""}, "no signature holds"),
        ({"webhook-signature": "v1,é"}, "no signature holds"),
        ({"webhook-signature": "v1"}, "no signature holds"),
        ({"webhook-signature": "v2,AAAA v1a,AAAA"}, "no signature holds"),
    ],
)
def test_what_does_not_hold_is_refused(changed: dict[str, str | None], message: str) -> None:
    headers: dict[str, str] = {
        name: value
        for name, value in {**sign([OLD], "m", NOW, b"{}"), **changed}.items()
        if value is not None
    }
    with pytest.raises(SignatureRejected, match=message):
        verify([OLD], headers, b"{}", NOW)


def test_a_signature_of_another_version_is_not_ours() -> None:
    headers = sign([OLD], "m", NOW, b"{}")
    headers[SIGNATURE_HEADER] = headers[SIGNATURE_HEADER].replace("v1,", "v2,")
    with pytest.raises(SignatureRejected):
        verify([OLD], headers, b"{}", NOW)


@given(st.dictionaries(st.sampled_from(list(sign([OLD], "m", NOW, b""))), st.text(max_size=40)))
def test_whatever_the_headers_say_it_verifies_or_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(SignatureRejected):
        verify([OLD], headers, b"{}", NOW)


def test_secrets_are_read_with_and_without_padding() -> None:
    key = bytes(range(25))
    padded = new_secret(key)
    assert padded.endswith("=")
    assert parse_secrets(f" {padded}\n{padded.rstrip('=')} ") == (Secret(key), Secret(key))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds 0 secrets"),
        ("whsec_" + base64.b64encode(bytes(24)).decode() + " plain", "secret 2 does not begin"),
        ("whsec_***", "not base64"),
        ("whsec_" + base64.b64encode(bytes(8)).decode(), "has 8 bytes"),
        (" ".join([new_secret(bytes(24))] * 9), "holds 9 secrets"),
    ],
)
def test_malformed_secrets_are_refused_without_being_shown(text: str, message: str) -> None:
    with pytest.raises(SecretUnusable, match=message) as fault:
        parse_secrets(text)
    assert not any(word in str(fault.value) for word in text.split())


def test_a_secret_does_not_show() -> None:
    assert "AAEC" not in repr(OLD)
    assert str(OLD.key) not in repr(OLD)


def test_the_body_is_signed_as_it_is() -> None:
    body = json.dumps({"a": "é"}, ensure_ascii=False).encode()
    headers = sign([OLD], "m", NOW, body)
    with pytest.raises(SignatureRejected):
        verify([OLD], headers, json.dumps({"a": "é"}).encode(), NOW)
