"""What mounting the page leaves behind where it fails."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from servax.errors import ServaxError
from servax.service.page.build import mount_page


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
