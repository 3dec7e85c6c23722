from __future__ import annotations

import json
import platform
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

import servax
from servax.experiments import provenance


def test_says_code_machine_and_versions() -> None:
    told = provenance.provenance("servax run x.yaml")
    assert json.loads(json.dumps(told)) == told
    assert set(told) == {"servax", "command", "commit", "machine", "versions"}
    assert told["command"] == "servax run x.yaml"
    assert told["servax"] == servax.__version__
    assert told["versions"]["python"] == platform.python_version()
    assert told["versions"]["torch"] == torch.__version__
    assert set(told["versions"]) == {"python", "torch", "numpy", "scipy", "soundfile", "soxr"}
    assert "cores" in told["machine"]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of its own, from which the code seems to run."""
    module = tmp_path / "servax" / "experiments" / "provenance.py"
    module.parent.mkdir(parents=True)
    module.write_text("", encoding="utf-8")
    monkeypatch.setattr(provenance, "__file__", str(module))
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", "-C", str(folder), *who, *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


@needs_git
def test_the_commit_and_whether_anything_was_changed(checkout: Path) -> None:
    git(checkout, "init", "--quiet")
    assert provenance.commit() == "unknown"  # nothing committed yet
    git(checkout, "add", ".")
    git(checkout, "commit", "--quiet", "-m", "first")
    head = git(checkout, "rev-parse", "HEAD")
    assert provenance.commit() == head[:12]
    (checkout / "notes.txt").write_text("elsewhere", encoding="utf-8")
    assert provenance.commit() == head[:12]
    (checkout / "servax" / "new.py").write_text("", encoding="utf-8")
    assert provenance.commit() == f"{head[:12]}+changes"


def test_no_checkout(checkout: Path) -> None:
    assert provenance.commit() == "not a git checkout"


def test_no_git(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (checkout / ".git").mkdir()
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert provenance.commit() == "not a git checkout"


@needs_git
def test_a_broken_checkout(checkout: Path) -> None:
    (checkout / ".git").mkdir()
    assert provenance.commit() == "unknown"


def test_the_processor_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    name, cores, threads = provenance.machine().rsplit(", ", 2)
    assert name.endswith(f" ({torch.backends.cpu.get_cpu_capability()})")
    assert cores.endswith(" cores")
    assert threads == f"{torch.get_num_threads()} threads"
