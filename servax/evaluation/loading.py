"""Any model from one string: a folder, a file, a class path, a name of Hugging Face."""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from servax.defences import StraightThrough
from servax.errors import CheckpointError, PathError, SettingError, nearest
from servax.evaluation.other_libraries import load_hugging_face, load_onnx
from servax.evaluation.own_code import code, make
from servax.evaluation.systems import Said, System, hash_of_files, hash_of_model, system_of
from servax.evaluation.trial import Inputs
from servax.models import WaveformClassifier, frozen
from servax.models.storage import SETTINGS, WEIGHTS
from servax.pretrained import names, resolve
from servax.recognition import MODEL, EncoderRecogniser, Recogniser

HUB = "hf://"
PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle")
FILES = (".onnx", ".ts", ".torchscript", *PICKLES)
FORMS = (
    "a folder of servax train (runs/vgg/model), a folder or hub id of Hugging Face transformers "
    "(models/wav2vec2-emotion, hf://owner/name), an ONNX file (recogniser.onnx), a TorchScript "
    "file (recogniser.pt of torch.jit.save), or a class path (my_package.models:Recogniser)"
)
Value = str | int | float | bool
"""An argument of a class path."""


def load_system(
    model: str,
    *,
    labels: Sequence[str] | None = None,
    sample_rate: int | None = None,
    inputs: Inputs | None = None,
    seconds: float | None = None,
    init: Mapping[str, Value] | None = None,
) -> System:
    """Return the model that a string names, ready to be audited.

    A folder with ``settings.json`` is a servax checkpoint, one with ``config.json`` a Hugging Face
    model; a name of `servax.pretrained.names` is a packaged recogniser; ``*.onnx`` is an ONNX file,
    ``*.pt`` of ``torch.jit.save`` a TorchScript file, **whose code is run** by torch;
    ``package.module:Name`` a class or function of your own, **whose code is run**;
    ``hf://owner/name`` a model on the hub.

    torch reads TorchScript without Python's pickle: tensors, plain values, and code that its own
    interpreter runs. That code can call what torch offers, files included.

    Args:
        model: What to audit.
        labels: Names of the classes in the order of the logits, where the model does not say them
            or calls them otherwise than the corpus.
        sample_rate: In Hz, where the model does not say it.
        inputs: ``logmel`` or ``waveform``, where the model does not say it.
        seconds: Length of the waveforms that it hears; default what it says, else 3.
        init: Keyword arguments of a class path.

    Raises:
        SettingError: The string is none of these, or a setting is missing or contradicts the model.
        PathError: What it names cannot be used.
        ServaxError: An optional library is missing.
    """
    said = Said(labels=labels, sample_rate=sample_rate, inputs=inputs, seconds=seconds)
    path = resolve(model)
    own = not model.startswith(HUB) and not path.is_dir() and path.suffix not in FILES
    if own and ":" in model:
        return _of_class(model, said, init or {})
    if init:
        raise SettingError("init", dict(init), "nothing: only a class path takes arguments")
    if model.startswith(HUB):
        return load_hugging_face(model.removeprefix(HUB), said, local=False)
    if path.is_dir():
        for folder in (path, path / MODEL):
            if (folder / SETTINGS).is_file():
                return _of_checkpoint(folder, said)
        if (path / "config.json").is_file():
            return load_hugging_face(str(path), said)
        raise PathError(path, f"holds neither settings.json nor config.json; expected {FORMS}")
    if path.suffix == ".onnx":
        return load_onnx(path, said)
    if _is_torchscript(path):
        return _of_torchscript(path, said)
    if path.suffix in PICKLES:
        raise PathError(
            model, f"is a pickle, which servax never opens since it can run code; expected {FORMS}"
        )
    known = names("recogniser")
    expected = f"a packaged recogniser ({', '.join(known)}), {FORMS}"
    raise SettingError("model", model, expected, hint=nearest(model, known))


def folder_of(where: str) -> Path:
    """Return the folder that holds the weights; a training leaves them in one called model."""
    folder = resolve(where)
    return folder / MODEL if (folder / MODEL / SETTINGS).is_file() else folder


def called(folder: Path) -> str:
    """Return what a folder of weights is called; that of a training is one called model."""
    return folder.parent.name if folder.name == MODEL else folder.name


def _of_checkpoint(folder: Path, said: Said) -> System:
    """Return a recogniser that servax trained.

    It takes log-Mels; where `said` asks for waveforms, its front-end and scale are part of it. One
    with a speech encoder takes waveforms.
    """
    recogniser = Recogniser.from_pretrained(folder)
    place = folder.resolve()
    own = Said(labels=recogniser.labels, sample_rate=recogniser.sample_rate, inputs="waveform")
    network: nn.Module = recogniser.network
    if not isinstance(recogniser, EncoderRecogniser):
        # With batch norms folded: the same answers up to rounding, and cheaper gradients.
        network = frozen(recogniser.network)
        if said.inputs == "waveform":
            network = WaveformClassifier(recogniser.logmel, network)
        own = replace(
            own,
            inputs=said.inputs or "logmel",
            front_end=recogniser.front_end,
            scale=recogniser.scale,
        )
    return system_of(
        network,
        said,
        own,
        name=called(place),
        place=f"the checkpoint {folder}",
        source=f"servax checkpoint {folder}",
        fingerprint=hash_of_files([folder / WEIGHTS, folder / SETTINGS]),
        shut_by="",
    )


def _is_torchscript(path: Path) -> bool:
    """Return whether a file is an archive with TorchScript code, which a pickle is not."""
    if not path.is_file() or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        names = [name.partition("/")[2] for name in archive.namelist()]
    return "constants.pkl" in names and any(name.startswith("code/") for name in names)


def _of_torchscript(path: Path, said: Said) -> System:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch would rather export
            script: nn.Module = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    except Exception as error:  # torch lets through what its readers raise.
        raise CheckpointError(
            path,
            f"torch cannot read it as TorchScript ({type(error).__name__}); expected a file of "
            "torch.jit.save",
        ) from error
    return system_of(
        script,
        said,
        replace(Said.by(script), bpda=None),
        name=path.stem,
        place=str(path),
        source=f"TorchScript {path}",
        fingerprint=hash_of_files([path]),
    )


def _of_class(path: str, said: Said, init: Mapping[str, Value]) -> System:
    """Return the model that ``package.module:Name`` makes, which says more in its attributes."""
    module, model = make(path, init)
    if not isinstance(model, nn.Module):
        raise PathError(path, f"makes a {type(model).__name__}, expected a torch.nn.Module")
    own = Said.by(model)
    if own.bpda is not None:
        _pass_straight(model, own.bpda, path)
    arguments = json.dumps(dict(init), sort_keys=True).encode()
    return system_of(
        model,
        said,
        own,
        name=path.partition(":")[2],
        place=path,
        source=f"class {path}({', '.join(f'{k}={v!r}' for k, v in init.items())})",
        fingerprint=hash_of_model(model, path.encode(), arguments, *code(module, model)),
    )


def _pass_straight(model: nn.Module, name: str, path: str) -> None:
    """Let the identity stand for the gradient of one submodule."""
    parent, _, last = name.rpartition(".")
    try:
        step = model.get_submodule(name)
    except AttributeError:
        known = [each for each, _ in model.named_modules() if each]
        raise PathError(
            path,
            f"says bpda = {name!r}, expected the name of one of its submodules, whose output has "
            f"the shape of its input.{nearest(name, known)}",
        ) from None
    if step is not model and not isinstance(step, StraightThrough):
        setattr(model.get_submodule(parent), last, StraightThrough(step, what=name).eval())
