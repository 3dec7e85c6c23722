from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


@pytest.fixture
def harness():
    import harness

    return harness


@pytest.fixture
def floor():
    import floor

    return floor


def times(harness, *seconds):
    return harness.Times(harness.Spread(seconds), harness.Spread(seconds))


def test_everyone_is_run_before_the_clock_and_the_order_turns(harness, capsys):
    called = []
    found = harness.race(
        {name: lambda name=name: called.append(name) or len(called) for name in "ab"}, rounds=3
    )
    assert "".join(called) == "ab" + "ab" + "ba" + "ab"
    assert found["a"].results == (3, 6, 7)
    assert len(found["b"].seconds.all) == len(found["b"].cpu_seconds.all) == 3
    assert "round 3/3" in capsys.readouterr().err


def test_a_ratio_is_of_medians_and_of_rounds(harness):
    found = harness.ratio(times(harness, 4.0, 9.0, 6.0), times(harness, 2.0, 3.0, 2.0))
    assert (found.of_medians, found.paired, found.lowest, found.highest) == (3.0, 3.0, 2.0, 3.0)
    assert str(found) == "3.00 × (2.00 to 3.00)"


def test_the_fastest_has_the_lowest_median(harness):
    assert harness.fastest({"a": times(harness, 1, 9, 9), "b": times(harness, 5, 5, 5)}) == "b"


def test_a_result_holds_rows_times_and_where_they_come_from(harness, floor, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["benchmarks/x.py", "--folder", "with space"])
    rates = floor.Rates(product_gflops=1.0, convolution_gflops=2.0, gigabytes=3.0)
    row = harness.Row(what="w", against="a", target="t", measured="m", met=None)
    path = harness.write(
        "x", [row], times={"a": times(harness, 3, 1, 2)}, rates=[rates], folder=tmp_path, clips=7
    )
    kept = json.loads(path.read_text(encoding="utf-8"))
    assert kept["command"] == "python benchmarks/x.py --folder 'with space'"
    assert kept["times"]["a"]["seconds"] == {"median": 2, "min": 1, "max": 3, "all": [3, 1, 2]}
    assert kept["rows"][0]["gpu"] == "not measured"
    assert kept["rates"][0]["convolution_gflops"] == 2.0
    assert kept["clips"] == 7
    assert {"commit", "machine", "versions", "threads"} <= set(kept)


def test_the_work_of_a_convolution_is_counted_each_way(floor):
    convolution = torch.nn.Conv2d(3, 8, 3, padding=1).requires_grad_(False)
    x = torch.rand(2, 3, 10, 12, requires_grad=True)
    found = floor.work_of(lambda: torch.autograd.grad(convolution(x).sum(), x))
    once = 2 * 9 * 3 * 8 * 2 * 10 * 12
    assert found.operations == 2 * once
    given, made, weights = 4 * x.numel(), 4 * 2 * 8 * 120, 4 * (8 * 27)
    # Forwards reads input, weights and bias; backwards reads what came back, input and weights.
    assert found.bytes == (given + weights + 4 * 8 + made) + (made + given + weights + given)


def test_a_floor_is_the_longer_of_computing_and_moving(floor):
    rates = floor.Rates(product_gflops=5.0, convolution_gflops=10.0, gigabytes=2.0)
    assert floor.Work(20e9, 1e9).floor(rates) == 2.0
    assert floor.Work(1e9, 8e9).floor(rates) == 4.0
    both = floor.Work(1.0, 2.0).plus(floor.Work(3.0, 4.0)).times(2.0)
    assert (both.operations, both.bytes) == (8.0, 12.0)
