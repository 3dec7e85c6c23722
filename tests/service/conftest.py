"""One running service and its networks, shared by the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from service_running import PURIFIER, RECOGNISER, SETTINGS, Running

from servax.service.inference import Models


@pytest.fixture(scope="session")
def service() -> Iterator[Running]:
    with Running(replace(SETTINGS, page=True)) as running:
        running.wait(lambda: running.dispatcher.ready)
        yield running


@pytest.fixture(scope="session")
def models() -> Models:
    return Models.load(PURIFIER, RECOGNISER)
