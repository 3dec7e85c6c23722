"""Trained networks that come with servax by name, and which strings mean one of them.

Each is a folder ``<name>/{weights.safetensors,settings.json,README.md}`` beside this file, of the
same kind as `servax.models.save_network` writes. Its README.md is a Hugging Face model card: data,
settings, figures, limits, licence. **The licence is that of the speech a network was trained on**,
not that of servax: RAVDESS forbids commercial use of what is made from it.

Nothing here loads torch, so that the command line can name its defaults.
"""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Literal

from servax.errors import CheckpointError, nearest
from servax.files import expanded
from servax.kinds import Choice, typed

__all__ = ["PURIFIER", "RECOGNISER", "Role", "folder", "names", "no_such_folder", "resolve"]

PURIFIER = "ssad-plus-ravdess"
"""The purifier that is taken where none is named; CC BY-NC-SA 4.0."""
RECOGNISER = "crnn-ravdess"
"""The recogniser to try things on; CC BY-NC-SA 4.0."""
SETTINGS = "settings.json"

Role = Literal["purifier", "recogniser"]
"""What a packaged network is."""


def names(role: Role | None = None) -> tuple[str, ...]:
    """Return the names of the packaged networks, sorted.

    Args:
        role: Only networks that are this; default all.
    """
    places = (each / SETTINGS for each in _home().iterdir())
    found = {place.parent.name: place for place in places if place.is_file()}
    return tuple(sorted(name for name, place in found.items() if role in (None, _role(place))))


@typed
def folder(name: str) -> Path:
    """Return the folder of the packaged network `name`.

    Raises:
        SettingError: None is called so; the sentence lists those there are.
    """
    Choice(names()).check("the packaged network", name)
    return _home() / name


@typed
def resolve(where: str | Path) -> Path:
    """Return the folder that a user means by a path or a name.

    A folder that exists wins over a packaged network of that name. What is neither comes back as
    the path it is.
    """
    path = expanded(where)
    if path.is_dir() or str(where) not in names():
        return path
    return folder(str(where))


def no_such_folder(where: str | Path, expected: str, *, role: Role) -> CheckpointError:
    """Return the refusal of what is no folder and no packaged network.

    Args:
        where: What was given.
        expected: What else may be given.
        role: The packaged networks that would do.
    """
    known = names(role)
    return CheckpointError(
        where,
        f"no such folder; expected {expected}, or a packaged {role} ({', '.join(known)})."
        f"{nearest(str(where), known)}",
    )


def _home() -> Path:
    return Path(str(resources.files("servax.pretrained")))


def _role(settings: Path) -> object:
    extra = json.loads(settings.read_text(encoding="utf-8")).get("extra") or {}
    return extra.get("role")
