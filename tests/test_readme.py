"""The README's commands, snippets and figures are true, or this fails.

Commands that take minutes (`make`, `servax demo`, `servax run` …) are only parsed here; `make test`
runs the demo before the tests, and its models serve the rest.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from sklearn.metrics import balanced_accuracy_score

from servax.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LONG = ("demo", "run", "train", "calibrate", "report")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[list[str]]:
    lines = [
        line.partition("#")[0].strip() for block in blocks("sh") for line in block.splitlines()
    ]
    return [shlex.split(line) for line in lines if line]


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as it is after `make demo`, with a few sounds of one's own in it."""
    finished = os.environ.get("SERVAX_DEMO")
    if not finished:
        pytest.skip("SERVAX_DEMO names no finished demo; `make test` makes one")
    shutil.copytree(Path(finished) / "models", tmp_path / "runs" / "demo" / "models")
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name in ("one", "two"):
        (tmp_path / "sounds").mkdir(exist_ok=True)
        noise = rng.normal(0, 0.05, 32_000) * np.hanning(32_000)
        soundfile.write(tmp_path / "sounds" / f"{name}.wav", noise, 16_000)
    shutil.copy(tmp_path / "sounds" / "one.wav", tmp_path / "in.wav")
    return tmp_path


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for command in commands():
        if command[0] == "make":
            assert re.search(rf"^{command[1]}:", makefile, flags=re.MULTILINE), command


def test_long_commands_parse(capsys: pytest.CaptureFixture[str]) -> None:
    long = [c for c in commands() if c[0] == "servax" and c[1] in LONG]
    assert long
    for command in long:
        assert main([*command[1:], "--print_config"]) == 0, command
        if command[1] == "run":
            assert (ROOT / command[2]).is_file()
    capsys.readouterr()


def test_short_commands_run(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = [c for c in commands() if c[0] == "servax" and c[1] not in LONG]
    assert short
    for command in short:
        assert main(command[1:]) == 0, (command, capsys.readouterr().err)
    assert sorted(p.name for p in (demo / "cleaned").iterdir()) == ["one.wav", "two.wav"]


def test_snippets_run(demo: Path) -> None:
    names: dict[str, object] = {}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), names)
    cleaned = names["cleaned"]
    assert isinstance(cleaned, np.ndarray)
    assert cleaned.shape == (32_000,)


def test_pictures_and_links_exist() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target


def test_table_is_what_the_records_say() -> None:
    """Recomputed with scikit-learn from the committed predictions."""
    paths = sorted((ROOT / "results" / "ravdess_quick" / "records").glob("*.parquet"))
    frame = pd.concat([pd.read_parquet(path) for path in paths])
    conditions = {
        "clean": [("none", 0.0, "none")],
        "FGSM mean": [("fgsm", e, "oblivious") for e in (0.003, 0.006, 0.009, 0.012, 0.015)],
        "PGD mean": [("pgd", float(k), "oblivious") for k in (3, 6, 9, 12, 15)],
        "adaptive PGD-30": [("pgd", 30.0, "adaptive"), ("pgd", 30.0, "bpda")],
    }
    rows = re.findall(r"^\| `([\w-]+)` \|(.+)\|$", README, flags=re.MULTILINE)
    assert {name for name, _ in rows} == set(frame["defence"])
    for defence, cells in rows:
        shown = [float(cell.strip(" *†")) for cell in cells.split("|")]
        assert len(shown) == len(conditions)
        for value, wanted in zip(shown, conditions.values(), strict=True):
            scores = []
            for attack, strength, knowledge in wanted:
                part = frame[
                    (frame["defence"] == defence)
                    & (frame["attack"] == attack)
                    & np.isclose(frame["strength"], strength)
                    & (frame["knowledge"] == knowledge)
                ]
                if len(part):
                    scores.append(balanced_accuracy_score(part["label"], part["prediction"]))
            assert value == pytest.approx(100 * np.mean(scores), abs=0.051), defence


def test_the_comparison_with_the_baseline_is_what_the_records_say() -> None:
    """The best baseline of each column, on the same inputs and attacked itself."""
    folder = ROOT / "results" / "ravdess_paper_cpu" / "records"
    frame = pd.concat([pd.read_parquet(path) for path in sorted(folder.glob("*.parquet"))])
    grid = {"fgsm": (0.003, 0.006, 0.009, 0.012, 0.015), "pgd": (3, 6, 9, 12, 15)}

    def mean(defence: str, attack: str, knowledge: str) -> float:
        rows = frame[(frame["defence"] == defence) & (frame["knowledge"] == knowledge)]
        parts = [
            rows[(rows["attack"] == attack) & np.isclose(rows["strength"], strength)]
            for strength in grid[attack]
        ]
        return 100 * float(
            np.mean([balanced_accuracy_score(part["label"], part["prediction"]) for part in parts])
        )

    baselines = [name for name in frame["defence"].unique() if name.startswith("adversarial-")]
    assert len(baselines) == 10
    expected = {
        "SSAD, the attacker does not know it": (["ssad"], "oblivious"),
        "best baseline, on the same inputs": (baselines, "oblivious"),
        "best baseline, attacked itself": (baselines, "adaptive"),
        "SSAD, attacked itself": (["ssad"], "adaptive"),
    }
    for title, (names, knowledge) in expected.items():
        (cells,) = re.findall(rf"^\| {title} \| ([\d.]+) \| ([\d.]+) \|$", README, re.MULTILINE)
        for attack, shown in zip(grid, cells, strict=True):
            best = max(mean(name, attack, knowledge) for name in names)
            assert float(shown) == pytest.approx(best, abs=0.051), (title, attack)
