from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def loaded(name):
    """Return a module of `benchmarks/`, which is no package."""
    spec = importlib.util.spec_from_file_location(
        f"benchmarks_{name}", ROOT / "benchmarks" / f"{name}.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def table():
    return loaded("table")


@pytest.fixture
def folder(tmp_path):
    row = {
        "what": "PGD-10",
        "against": "foolbox",
        "target": "≥ 2 ×",
        "measured": "2.50 × (2.40 to 2.60)",
        "met": True,
        "floor": "1 s of 2 s, 50 %",
        "gpu": "not measured",
    }
    for name, command in (("pgd-16", "python a.py"), ("bulk", "python b.py")):
        kept = {"benchmark": name, "command": command, "machine": "a CPU", "rows": [row]}
        if name == "pgd-16":
            kept["rates"] = [
                {"dtype": "float32", "convolution_gflops": 531.6},
                {"dtype": "bfloat16", "convolution_gflops": 1092.0},
            ]
        (tmp_path / f"{name}.json").write_text(json.dumps(kept))
    (tmp_path / "attack_strength.json").write_text(json.dumps({"fixed_radius": []}))
    return tmp_path


def test_the_pages_say_what_the_results_say(table):
    for page in table.PAGES:
        text = page.read_text(encoding="utf-8")
        assert text == table.filled(text, ROOT / "benchmarks" / "results"), page


def test_each_row_stands_with_the_command_that_made_it(table, folder):
    first, second = table.rows(folder)
    assert first == [
        "PGD-10",
        "foolbox",
        "≥ 2 ×",
        "2.50 × (2.40 to 2.60)",
        "yes",
        "1 s of 2 s, 50 %",
        "a CPU, 532 GFLOP/s",
        "not measured",
        "`python a.py`",
    ]
    assert second[-3:] == ["a CPU", "not measured", "`python b.py`"]


def test_what_stands_around_the_table_is_left_alone(table, folder):
    page = f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n"
    new = table.filled(page, folder)
    assert new.startswith(f"before\n{table.BEGIN}\n| what |")
    assert new.endswith(f"{table.END}\nafter\n")
    assert "old" not in new
    assert table.filled(new, folder) == new


def test_a_stale_page_fails_the_check_and_is_left_alone(table, folder, tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text(f"{table.BEGIN}\nold\n{table.END}\n")
    given = ["table.py", "--check", "--pages", str(page), "--results", str(folder)]
    monkeypatch.setattr(sys, "argv", given)
    assert table.main() == 1
    assert "old" in page.read_text()
    monkeypatch.setattr(sys, "argv", [given[0], *given[2:]])
    assert table.main() == 0
    monkeypatch.setattr(sys, "argv", given)
    assert table.main() == 0
