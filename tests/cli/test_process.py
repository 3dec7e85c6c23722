from __future__ import annotations

import json
import os
import platform
import subprocess
import sys

import pytest

from servax.runtime.processes import CHOICES, keep_freed_memory

PIECE = 100 * 2**20
ROUNDS = 4
ON_GLIBC = platform.libc_ver()[0] == "glibc"
CHILD = f"""
import json, resource, sys
import numpy as np
from servax.runtime.processes import keep_freed_memory
kept = keep_freed_memory() if sys.argv[1] == "keep" else False
found = []
for _ in range({ROUNDS}):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.empty({PIECE}, np.uint8).fill(1)
    found.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(json.dumps([kept, found]))
"""


def faults(mode, **environment):
    """Return whether memory is kept, and the page faults of writing to one piece after another."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, mode],
        env=clean | environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return json.loads(done.stdout)


@pytest.mark.skipif(not ON_GLIBC, reason="keeps memory with glibc only")
def test_freed_memory_is_written_to_again_without_faults():
    kept, found = faults("keep")
    assert kept
    # NumPy asks for huge pages of 2 MiB where the system has them.
    assert found[0] >= PIECE // 2**21
    assert all(each < PIECE // 2**21 for each in found[1:])
    _, given_back = faults("give back")
    assert min(given_back) >= PIECE // 2**21


@pytest.mark.skipif(not ON_GLIBC, reason="keeps memory with glibc only")
@pytest.mark.parametrize(
    "choice",
    [*({name: "131072"} for name in CHOICES), {"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=1"}],
)
def test_a_users_own_choice_is_left_alone(choice):
    assert faults("keep", **choice)[0] is False


def test_another_c_library_keeps_its_ways(monkeypatch):
    for name in (*CHOICES, "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    assert keep_freed_memory() is False


BEGUN = """
import sys
sys.argv = ["servax", "--help"]
from servax.cli import main
main()
assert "torch" not in sys.modules
import torch
"""


HELP = """
import sys
from servax.cli import main
for command in sys.argv[1:]:
    main([*command.split(), "--help"])
    assert "torch" not in sys.modules, command
"""


def test_help_is_told_without_torch():
    commands = ["audit", "certify", "calibrate", "run", "serve", "purify", "attack", "export"]
    given = [sys.executable, "-c", HELP, *commands, "report", "corpus list"]
    done = subprocess.run(given, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({}, "OMP_WAIT_POLICY = 'PASSIVE'"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "OMP_WAIT_POLICY = 'ACTIVE'"),
        ({"GOMP_SPINCOUNT": "77"}, "GOMP_SPINCOUNT = '77'"),
    ],
)
def test_threads_of_a_command_sleep_while_they_wait_unless_its_user_chose(chosen, expected):
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_W", "GOMP_"))}
    done = subprocess.run(
        [sys.executable, "-c", BEGUN],
        env=clean | chosen | {"OMP_DISPLAY_ENV": "VERBOSE"},  # libgomp tells what it goes by
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    if "OPENMP DISPLAY ENVIRONMENT" not in done.stderr:
        pytest.skip("this torch has another OpenMP")
    assert expected in done.stderr
