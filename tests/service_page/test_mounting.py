"""What is said where the page cannot be mounted, or what is behind it fails."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI

from servax.errors import ServaxError
from servax.service import Refusal
from servax.service.page import PageLimits, mount_page
from servax.service.page.layout import BROKEN, _speaking, _trying


class Told(Exception):  # noqa: N818
    """Stands for the error that Gradio shows."""

    def __init__(self, message: str, *, title: str, print_exception: bool = True) -> None:
        super().__init__(message)
        self.print_exception = print_exception


@pytest.mark.parametrize(
    ("error", "message", "logged"),
    [
        (Refusal(422, "silent", "Silent <b>."), "Silent &lt;b&gt;.", False),
        (RuntimeError("/secret/path"), BROKEN, True),
    ],
)
def test_failures_are_sentences(error: Exception, message: str, logged: bool) -> None:
    async def failing(*_: Any) -> Any:
        raise error

    gradio = SimpleNamespace(Error=Told)
    for press in (
        _trying(gradio, failing, PageLimits())("a.wav", "pgd", 30.0, "oblivious"),
        _speaking(gradio, failing)(),
    ):
        with pytest.raises(Told) as told:
            asyncio.run(press)
        assert (str(told.value), told.value.print_exception) == (message, logged)


async def nobody(*_: Any) -> None:
    """Run nothing."""


def test_without_gradio_one_sentence_and_no_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("GRADIO_ANALYTICS_ENABLED", "GRADIO_TEMP_DIR", "HF_HUB_DISABLE_TELEMETRY"):
        monkeypatch.setenv(name, os.environ.get(name, ""))  # put back after the test
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ServaxError, match=r"The page needs gradio .*pip install 'servax\[demo\]'"):
        mount_page(FastAPI(), nobody)
    assert list(tmp_path.iterdir()) == []
