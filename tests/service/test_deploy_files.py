"""The files of deploy/: what they ask of the service is there, and what they give it suffices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from servax.service import Metrics, ServiceSettings
from servax.service.app import ROUTES

DEPLOY = Path(__file__).parents[2] / "deploy"
UNITS = {"m": 2**20, "g": 2**30, "Mi": 2**20, "Gi": 2**30}


def fits(args: list[str], memory: str, cpus: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """One worker for each CPU fits the memory of a container."""
    number = memory.rstrip("miIgG")
    size = int(number) * UNITS[memory[len(number) :]]
    monkeypatch.setattr("servax.service.settings.memory_bytes", lambda: size)
    monkeypatch.setattr("servax.service.settings.cpus", lambda: int(cpus))
    assert args[:1] == ["--purify-only"]
    queue = int(args[args.index("--queue") + 1])
    assert ServiceSettings(purify_only=True, queue=queue).worker_count == cpus


def test_compose(monkeypatch: pytest.MonkeyPatch) -> None:
    service: Any = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["servax"]
    fits(service["command"], service["mem_limit"], service["cpus"], monkeypatch)
    assert service["read_only"] is True
    assert service["user"] != "0"
    assert any(f"8000{route}'" in service["healthcheck"]["test"][-1] for route in ROUTES)


def test_kubernetes(monkeypatch: pytest.MonkeyPatch) -> None:
    found = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))
    kinds = {each["kind"]: each["spec"] for each in found}
    pod = kinds["Deployment"]["template"]["spec"]
    (container,) = pod["containers"]
    limits = container["resources"]["limits"]
    fits(container["args"], limits["memory"], float(limits["cpu"]), monkeypatch)
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["path"] in ROUTES
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert pod["securityContext"]["runAsNonRoot"] is True
    (metric,) = kinds["HorizontalPodAutoscaler"]["metrics"]
    assert metric["pods"]["metric"]["name"] in Metrics().page()[0].decode()
