"""Where strangers' frames are filed, and how they are found again."""

from __future__ import annotations

from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_profiles.errors import Reason, Rejected
from device_profiles.hj212.topics import (
    mn_of_topic,
    refusal_of,
    refused_topic,
    stranger_topic,
    unread_topic,
)
from device_profiles.topics import MAX_TOPIC_BYTES, parse_topic


@given(st.text())
def test_any_mn_makes_a_topic_of_one_level_that_is_no_device(mn: str) -> None:
    for topic in (stranger_topic(mn), refused_topic(mn), unread_topic(mn, 3, 4)):
        assert topic.isascii()
        assert not set(topic) & set(b"+#\0 ")
        assert len(topic) < MAX_TOPIC_BYTES
        with pytest.raises(Rejected):
            parse_topic(topic)
    assert stranger_topic(mn).count(b"/") == 1
    assert mn_of_topic(stranger_topic(mn)) is not None
    assert mn_of_topic(refused_topic(mn)) is None
    assert mn_of_topic(unread_topic(mn, 3, 4)) is None


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=21))
def test_the_mn_of_a_stranger_is_found_again(mn: str) -> None:
    assert unquote(mn_of_topic(stranger_topic(mn)) or "") == mn


def test_what_is_nobodys_says_why() -> None:
    wrong = refusal_of(refused_topic("MN7"))
    assert wrong is not None
    assert wrong.reason is Reason.UNKNOWN_DEVICE
    assert "'MN7' came with another PW" in wrong.detail
    unread = refusal_of(unread_topic("::1", 20, 3_400))
    assert unread is not None
    assert unread.reason is Reason.SYNTAX
    assert "20 faults and 3400 bytes outside" in unread.detail
    assert refusal_of(stranger_topic("MN7")) is None
    assert refusal_of(b"site/yard/dust/dust-1/telemetry") is None
    assert refusal_of(b"\xff/\xfe") is None
