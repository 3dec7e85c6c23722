"""Which networks answer: what they are, what they were trained on, and under which licence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from servax.pretrained import SETTINGS, resolve
from servax.service.responses import Network, Networks
from servax.service.settings import ServiceSettings


def networks(settings: ServiceSettings) -> Networks:
    """Return what is told of the networks of a service."""
    return Networks(
        recogniser=None if settings.purify_only else describe(settings.model),
        purifier=describe(settings.purifier),
        max_bytes=settings.max_bytes,
        attack_seconds=settings.attack_seconds if settings.page else None,
    )


def describe(where: str) -> Network:
    """Return what a folder or a packaged network says of itself; of a hub id its name alone.

    The path of a folder stays here: its last part is the name that is told.
    """
    folder = resolve(where)
    stored, card = _settings(folder), _card(folder / "README.md")
    speakers = (stored.get("extra") or {}).get("speakers")
    return Network(
        name=folder.name if folder.exists() else where,
        architecture=stored.get("network"),
        datasets=card.get("datasets"),
        speakers=len(speakers) if speakers else None,
        licence=card.get("license"),
    )


def _settings(folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / SETTINGS).read_text("utf-8")))
    except (OSError, ValueError, TypeError):  # the workers say what is wrong with it
        return {}


def _card(path: Path) -> dict[str, Any]:
    """Return what stands between the first two lines of dashes of a model card."""
    try:
        return dict(yaml.safe_load(path.read_text("utf-8").split("---\n")[1]))
    except (OSError, ValueError, TypeError, IndexError, yaml.YAMLError):
        return {}
