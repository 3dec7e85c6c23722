"""Every block of code of the README and of the documentation runs, or is checked.

The blocks of a page are taken in their order, in one folder and one Python namespace, as by a
reader who types them in. `shell` says which commands are run and which only parsed. A new page or
block is found by itself.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import sys
import tomllib
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml
from pages import PAGES, ROOT, Block, blocks, commands
from shell import try_command

HUB = "writes to the Hugging Face hub; tests/purifier/test_purifier_hub.py does, on loopback"
NOT_RUN = {
    (
        "docs/hugging_face.md",
        'purifier.push_to_hub("me/ssad-mine", private=True, '
        'model_card_kwargs={"license": "apache-2.0"})',
    ): HUB,
    ("docs/hugging_face.md", 'recogniser.push_to_hub("me/vgg16-mine")'): HUB,
}
"""Blocks that cannot run, by page and first line, and why; nearly empty, and to be kept so."""
READERS = {"json": json.loads, "toml": tomllib.loads, "yaml": yaml.safe_load}
SHOWN = {"text", "csv", "md", "html", "latex", "ini", "dockerfile"}
"""Languages of blocks that are only to be read."""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as a reader has it: the demo's run, some sounds, a manifest of them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("MPLBACKEND", "Agg")
    for name in ("recipes", "examples"):
        shutil.copytree(ROOT / name, name)
    draws = np.random.default_rng(0)
    rows = ["path,label,speaker"]
    for folder in ("sounds", "calls", "anna", "ben", "cem", "dora"):
        Path(folder).mkdir()
        for label in ("angry", "happy", "neutral", "sad"):
            noise = draws.normal(0, 0.05, 32_000) * np.hanning(32_000)
            soundfile.write(f"{folder}/{label}.wav", noise, 16_000)
            if folder not in ("sounds", "calls"):
                rows.append(f"{folder}/{label}.wav,{label},{folder}")
    for name in ("in.wav", "call.wav"):
        shutil.copy("sounds/angry.wav", name)
    Path("mine.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    Path("calls.csv").write_text(
        "path,label,speaker\ncalls/angry.wav,angry,anna\ncalls/sad.wav,sad,ben\n",
        encoding="utf-8",
    )
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_blocks_of_a_page(
    page: Path,
    place: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = blocks(page)
    if any("runs/demo" in block.text for block in found):
        copy_demo(place)
    if any("models/wav2vec2-emotion" in block.text for block in found):
        request.getfixturevalue("tiny_wav2vec2")(place / "models" / "wav2vec2-emotion")
    module = types.ModuleType("page")  # dataclasses look for the module of their class
    monkeypatch.setitem(sys.modules, "page", module)
    vars(module).update(what_a_reader_has())
    for block in found:
        if (block.page, block.text.partition("\n")[0]) in NOT_RUN:
            continue
        try:
            try_block(block, vars(module), capsys)
        except AssertionError as wrong:
            pytest.fail(f"{block.place}: {wrong}", pytrace=False)
        except Exception as raised:
            raise RuntimeError(f"{block.place} fails") from raised


def what_a_reader_has() -> dict[str, Any]:
    """Return the names that pages use without saying where they come from: sound and log-Mel."""
    draws = np.random.default_rng(1)
    waveform = draws.normal(0, 0.05, 32_000).astype(np.float32)
    logmel = draws.uniform(0, 1, (1, 1, 64, 125)).astype(np.float32)
    return {"waveform": waveform, "chunk": waveform[:8_000], "logmel": logmel}


def copy_demo(place: Path) -> None:
    finished = os.environ.get("SERVAX_DEMO")
    if not finished:
        pytest.skip("SERVAX_DEMO names no finished demo; `make test` makes one")
    for part in ("models", "records", "report"):
        shutil.copytree(Path(finished) / part, place / "runs" / "demo" / part)


def try_block(block: Block, names: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    """Run or check one block."""
    if block.snippets:
        for file in block.snippets:
            assert (ROOT / file).is_file(), f"{file} is not in the repository"
            assert file.startswith("examples/"), f"{file} is no example, and nothing tests it"
    elif block.file:
        Path(block.file).parent.mkdir(parents=True, exist_ok=True)
        Path(block.file).write_text(block.text, encoding="utf-8")
        if block.language == "python":
            ast.parse(block.text)
    elif block.language == "python":
        exec(compile(block.text, block.place, "exec"), names)
        capsys.readouterr()
    elif block.language == "sh":
        for words in commands(block.text):
            try_command(words, capsys)
    elif block.language in READERS:
        READERS[block.language](block.text)
    else:
        assert block.language in SHOWN, f"a block of {block.language!r}, which nobody checks"


def test_no_line_installs_what_an_index_holds_under_the_name() -> None:
    """Nothing is published there: it would be somebody else's package."""
    for file in (*PAGES, *(ROOT / "servax").rglob("*.py"), *(ROOT / "examples").glob("*.py")):
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"pip install (-\S+ )*'?servax\b", text), file


def test_every_block_that_is_not_run_is_there() -> None:
    there = {
        (block.page, block.text.partition("\n")[0]) for page in PAGES for block in blocks(page)
    }
    assert set(NOT_RUN) <= there
    assert len(NOT_RUN) < 5
