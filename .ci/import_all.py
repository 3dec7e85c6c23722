"""Imports every module of servax, to prove that the base install is enough for all of them."""

from __future__ import annotations

import importlib
import pkgutil
import sys

import servax

names = [m.name for m in pkgutil.walk_packages(servax.__path__, "servax.")]
for name in names:
    if name != "servax.__main__":
        importlib.import_module(name)
extras = {"pytest", "sklearn", "librosa", "torchaudio", "foolbox", "torchattacks"} & set(
    sys.modules
)
if extras:
    sys.exit(f"imported although no base dependency: {', '.join(sorted(extras))}")
print(f"{len(names)} modules import with the base install")  # noqa: T201
