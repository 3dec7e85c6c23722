"""Any model from one string."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from servax.audit.subjects.checkpoint import load_checkpoint_system
from servax.audit.subjects.hugging_face import load_hugging_face_system
from servax.audit.subjects.onnx import load_onnx_system
from servax.audit.subjects.own_class import Value, load_class_system
from servax.audit.subjects.statements import Statements
from servax.audit.subjects.torchscript import is_torchscript, load_torchscript_system
from servax.errors import PathError, SettingError, nearest
from servax.evaluation.systems import Inputs, System
from servax.models.storage import SETTINGS
from servax.pretrained import names, resolve
from servax.recognition import MODEL

HUB = "hf://"
TORCHSCRIPT = (".ts", ".torchscript", ".pt", ".pth")
PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle")
FORMS = (
    "a folder of servax train (runs/vgg/model), a folder or hub id of Hugging Face transformers "
    "(models/wav2vec2-emotion, hf://owner/name), an ONNX file (recogniser.onnx), a TorchScript "
    "file (recogniser.pt of torch.jit.save), or a class path (my_package.models:Recogniser)"
)


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
    said = Statements(labels=labels, sample_rate=sample_rate, inputs=inputs, seconds=seconds)
    path = resolve(model)
    files = (".onnx", *TORCHSCRIPT, *PICKLES)
    own = not model.startswith(HUB) and not path.is_dir() and path.suffix not in files
    if own and ":" in model:
        return load_class_system(model, said, init)
    if init:
        raise SettingError("init", dict(init), "nothing: only a class path takes arguments")
    if model.startswith(HUB):
        return load_hugging_face_system(model.removeprefix(HUB), said, local=False)
    if path.is_dir():
        return _folder_system(path, said)
    if path.suffix == ".onnx":
        return load_onnx_system(path, said)
    if is_torchscript(path):
        return load_torchscript_system(path, said)
    if path.suffix in PICKLES:
        raise PathError(
            model, f"is a pickle, which servax never opens since it can run code; expected {FORMS}"
        )
    known = names("recogniser")
    expected = f"a packaged recogniser ({', '.join(known)}), {FORMS}"
    raise SettingError("model", model, expected, hint=nearest(model, known))


def _folder_system(path: Path, said: Statements) -> System:
    for folder in (path, path / MODEL):
        if (folder / SETTINGS).is_file():
            return load_checkpoint_system(folder, said)
    if (path / "config.json").is_file():
        return load_hugging_face_system(str(path), said)
    raise PathError(path, f"holds neither settings.json nor config.json; expected {FORMS}")
