"""Networks on disk: a folder with ``weights.safetensors`` and ``settings.json``, never pickle.

The settings name the network and what rebuilds it, so a folder is all that loading needs. Anything
else that belongs to a network (labels, scale, front-end) is kept under ``extra``.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from servax.errors import CheckpointError, ServaxError, nearest, unwritable
from servax.files import json_text, whole_file
from servax.kinds import typed
from servax.models.encoder import EncoderHead
from servax.models.recognisers import CRNN, VGG16, ResNet
from servax.models.transformer import FrameTransformer, FrameTransformerSettings
from servax.models.unet import UNet, UNetSettings

WEIGHTS = "weights.safetensors"
SETTINGS = "settings.json"

# The only classes a settings file may name: a file cannot make servax import anything.
NETWORKS: Mapping[str, Callable[..., nn.Module]] = {
    "VGG16": VGG16,
    "ResNet": ResNet,
    "CRNN": CRNN,
    "EncoderHead": EncoderHead,
    "FrameTransformer": FrameTransformer,
    "UNet": UNet,
}
RestorerSettings = FrameTransformerSettings | UNetSettings
"""Of networks from spectrogram to spectrogram: purifiers, denoisers."""


def new_restorer(settings: RestorerSettings) -> nn.Module:
    """Return the untrained network that the settings describe."""
    kind = UNet if isinstance(settings, UNetSettings) else FrameTransformer
    return kind(**asdict(settings))


@dataclass(frozen=True)
class Stored:
    """A network read from a folder."""

    network: nn.Module
    """In evaluation mode, on the CPU."""
    extra: dict[str, Any]
    """What was saved beside it."""


@typed
def save_network(
    network: nn.Module, folder: str | Path, *, extra: Mapping[str, Any] | None = None
) -> None:
    """Write a network and its settings to `folder`; nothing half-written is left behind.

    Raises:
        CheckpointError: The network is not one that can be rebuilt, or the folder cannot be
            written.
    """
    folder = Path(folder)
    name = type(network).__name__
    settings = getattr(network, "settings", None)
    if name not in NETWORKS or not is_dataclass(settings) or isinstance(settings, type):
        raise CheckpointError(folder, f"a {name} cannot be saved, only {', '.join(NETWORKS)}")
    tensors = {
        key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()
    }
    if _shapes(tensors) != _shapes(_blank(name, asdict(settings)).state_dict()):
        raise CheckpointError(
            folder,
            f"this {name} is not what its settings describe (frozen copies are folded); save the "
            "network that was trained",
        )
    description = {"network": name, "settings": asdict(settings), "extra": dict(extra or {})}
    text = json_text(description, sort_keys=True) + "\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(folder / SETTINGS) as settings_part, whole_file(folder / WEIGHTS) as part:
            part.write_bytes(save(tensors))
            settings_part.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CheckpointError(folder, unwritable(error)) from None


@typed
def load_network(folder: str | Path) -> Stored:
    """Return the network saved in `folder`.

    Raises:
        CheckpointError: A file is missing or broken, or weights do not fit the settings.
    """
    folder = Path(folder)
    description = _read_settings(folder / SETTINGS)
    network = _rebuild(folder / SETTINGS, description)
    extra = description.get("extra") or {}
    if not isinstance(extra, dict):
        raise CheckpointError(folder / SETTINGS, "holds an `extra` that is not a JSON object")
    weights = _read_weights(folder / WEIGHTS, network.state_dict())
    # Memory is asked for only now that the file is known to fill it.
    network.to_empty(device="cpu")
    network.load_state_dict(weights)
    return Stored(network.eval(), extra)


def _blank(name: str, settings: Mapping[str, Any]) -> nn.Module:
    """Return a network whose tensors have shapes but take no memory."""
    with torch.device("meta"):
        return NETWORKS[name](**settings)


def _read_settings(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(
            path,
            "no such file; expected a folder written by servax (save_pretrained, servax train)",
        )
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        raise CheckpointError(path, "is not a JSON file") from None
    if not isinstance(description, dict):
        raise CheckpointError(path, "does not hold a JSON object")
    return description


def _rebuild(path: Path, description: Mapping[str, Any]) -> nn.Module:
    """Return the network that a settings file describes, its tensors still without memory."""
    name = description.get("network")
    if not isinstance(name, str) or name not in NETWORKS:
        raise CheckpointError(
            path,
            f"names the network {name!r}, expected one of {', '.join(NETWORKS)}."
            f"{nearest(str(name), NETWORKS)}",
        )
    settings = description.get("settings")
    if not isinstance(settings, dict):
        raise CheckpointError(path, f"holds no settings of a {name} (a JSON object)")
    allowed = list(inspect.signature(NETWORKS[name]).parameters)
    for key in sorted(settings.keys() - set(allowed)):
        raise CheckpointError(
            path,
            f"gives a {name} the unknown setting {key!r}, expected {', '.join(allowed)}."
            f"{nearest(key, allowed)}",
        )
    try:
        return _blank(name, settings)
    except ServaxError as error:
        raise CheckpointError(path, f"does not describe a {name}: {error}") from None


def _read_weights(path: Path, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a file after comparing them with the `expected` ones."""
    if not path.is_file():
        raise CheckpointError(path, "no such file; the weights of this network are missing")
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError):
        raise CheckpointError(path, "is not a safetensors file, or is cut short") from None
    given, wanted = _shapes(tensors), _shapes(expected)
    wrong = sorted(k for k in wanted.keys() | given.keys() if wanted.get(k) != given.get(k))
    if wrong:
        raise CheckpointError(
            path,
            f"does not fit its settings: {len(wrong)} tensors differ, the first is {wrong[0]} with "
            f"shape {given.get(wrong[0])}, expected {wanted.get(wrong[0])}",
        )
    for key, value in tensors.items():
        if value.dtype != expected[key].dtype:
            raise CheckpointError(
                path, f"holds {value.dtype} numbers in {key}, expected {expected[key].dtype}"
            )
        if value.is_floating_point() and not value.isfinite().all():
            raise CheckpointError(path, f"holds numbers that are not finite in {key}")
    return tensors


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in tensors.items()}
