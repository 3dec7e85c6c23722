"""The table of the load test is what its kept records say."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def loading() -> ModuleType:
    spec = importlib.util.spec_from_file_location("load_test", BENCHMARKS / "service_load.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["load_test"] = module
    spec.loader.exec_module(module)
    return module


def test_the_page_tells_what_the_records_hold(loading: ModuleType) -> None:
    page = (BENCHMARKS / "service.md").read_text()
    records = sorted((BENCHMARKS / "results").glob("service_*.json"))
    assert len(records) >= 2
    for each in records:
        found = json.loads(each.read_text())
        assert loading.report(found) in page
        assert found["command"].removeprefix("python benchmarks/service_load.py ")
        assert found["wrong_answers"] == 0
        assert set(found["ended_with"]) == {"200"}


@pytest.mark.parametrize(("name", "kills"), [("load", 0), ("killed", 14)])
def test_5000_requests_of_64_clients(name: str, kills: int) -> None:
    found = json.loads((BENCHMARKS / "results" / f"service_{name}.json").read_text())
    assert (found["requests"], found["clients"], found["cpus"]) == (5000, 64, 2)
    assert found["ended_with"] == {"200": 5000}
    assert found["kills"] == found["service"]["worker_restarts"] == kills
    series = found["memory_series"]
    warm = [row["server"] for row in series if row["answered"] >= 1000]
    assert max(warm) - min(warm) < 10, "MiB of the server"
    assert max(max(row["workers"]) for row in series if row["workers"]) < 700


def test_percentiles_are_those_of_the_times(loading: ModuleType) -> None:
    found = loading.spread([i / 1000 for i in range(1, 102)])
    assert found == {"p50": 51.0, "p95": 96.0, "p99": 100.0, "max": 101.0}
