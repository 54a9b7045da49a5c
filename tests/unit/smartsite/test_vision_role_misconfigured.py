"""The role `vision` with a model that cannot be used: it says so, and is not simply restarted."""

import asyncio
import logging
import re
from pathlib import Path
from typing import Any

import pytest

from detectors.vision.errors import Misconfigured as VisionMisconfigured
from smartsite.errors import Misconfigured
from smartsite.roles import vision
from smartsite.services import Whereabouts
from smartsite.settings import Settings


async def test_a_model_that_fails_late_is_a_fault_of_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def look(self: Any) -> bool:
        raise VisionMisconfigured("cannot be run on 1 × 3 × 160 × 416: Reshape")

    monkeypatch.setattr(vision._Watch, "look", look)
    settings = Settings(data_dir=tmp_path)
    with (
        caplog.at_level(logging.INFO),
        pytest.raises(Misconfigured, match=r"vision\.model: the model cannot be run on 1 × 3"),
    ):
        await vision.run(settings, Whereabouts(0, 0.0, "", "postgresql://"), asyncio.Event())
    assert re.search(r"looking with model \w{12}… on C(PU|UDA) \(", caplog.text)
