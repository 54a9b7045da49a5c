"""A dataset folder for the tests of training."""

from pathlib import Path

import pytest

from tests.unit.training.drawn_dataset import write_dataset


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Ten drawn pictures with labels and manifests."""
    return write_dataset(tmp_path / "dataset")
