"""The packaged synthetic pair, and a clip that a synthetic voice speaks."""

from __future__ import annotations

import pytest

from servax.service.inference import Models
from servax.service.page.demonstration import Samples, speak_example


@pytest.fixture(scope="session")
def models() -> Models:
    return Models.load("ssad-plus-synthetic", "crnn-synthetic")


@pytest.fixture(scope="session")
def clip(models: Models) -> Samples:
    rate, sound = speak_example(models)
    assert rate == 16_000
    return sound
