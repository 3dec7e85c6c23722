"""The purifier never sees an attack: not even a module of them is loaded with it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import servax

IMPORT_ALL = """
import importlib, pkgutil, sys
import servax.purifier
path = servax.purifier.__path__
names = [module.name for module in pkgutil.walk_packages(path, "servax.purifier.")]
for name in names:
    importlib.import_module(name)
assert "servax.purifier.training" in names
print(sorted(name for name in sys.modules if name.startswith("servax.") and name.count(".") == 1))
"""


def test_no_attack_is_loaded_with_the_purifier() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL],
        cwd=Path(servax.__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    loaded = done.stdout
    assert "servax.purifier" in loaded
    for later in ("attacks", "defences", "evaluation", "report", "experiments", "cli"):
        assert f"servax.{later}" not in loaded
