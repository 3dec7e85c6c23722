"""Models that other libraries run, as systems: transformers (extra ``hf``), ONNX (``onnx``).

The feature extractors that are published with models (of raw sound for wav2vec 2.0, HuBERT, WavLM,
data2vec, UniSpeech and SEW; spectrograms for Whisper, AST and wav2vec2-BERT) are computed in torch,
so exact gradients reach the waveform. No code from a model's folder runs, and weights are read from
safetensors only.

An ONNX file is a black box too (onnxruntime, on the CPU). It may say what it is in its metadata
(``metadata_props``): ``labels``, a JSON list of the classes in the order of the logits, and
``sample_rate`` in Hz.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from servax.errors import CheckpointError, ShapeError
from servax.evaluation.systems import Said, System, hash_of_files, hash_of_model, system_of
from servax.evaluation.trial import Inputs
from servax.features.kaldi import KaldiFilterBank, KaldiSettings
from servax.features.whisper import HOP, SAMPLE_RATE, WINDOW, WhisperLogMel
from servax.models.encoder import made_up, standardised
from servax.runtime.host import load_extra, quiet
from servax.runtime.purifier import open_session

OF_PLACE = ("transformers_version", "_name_or_path")
"""Settings of a configuration that say where it lies and who wrote it."""
OF_DIMENSIONS = "Wav2Vec2ForSpeechClassification"
"""What models of audeering call their architecture."""
TYPES = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16}
RANKS: dict[int, Inputs] = {2: "waveform", 4: "logmel"}


class WaveformModel(nn.Module):
    """Maps (B, T) waveforms to logits (B, C) of a model of transformers, differentiably.

    All utterances of a batch have the same length T.

    Args:
        front: From waveforms to what the network gets.
        network: The model.
    """

    def __init__(self, front: nn.Module, network: nn.Module) -> None:
        super().__init__()
        self.front, self.network = front, network

    def forward(self, waveform: Tensor) -> Tensor:
        """Return logits (B, C) of waveforms (B, T)."""
        logits: Tensor = self.network(self.front(waveform)).logits
        return logits


class Standardised(nn.Module):
    """Brings waveforms (B, T) to zero mean and unit variance, as `Wav2Vec2FeatureExtractor`."""

    def forward(self, waveform: Tensor) -> Tensor:
        """Return waveforms (B, T)."""
        return standardised(waveform)


class Filled(nn.Module):
    """Cuts waveforms (B, T) to a length, or fills them with silence up to it.

    Args:
        samples: The length.
    """

    def __init__(self, samples: int) -> None:
        super().__init__()
        self.samples = samples

    def forward(self, waveform: Tensor) -> Tensor:
        """Return waveforms (B, samples)."""
        heard = waveform[:, : self.samples]
        return nn.functional.pad(heard, (0, self.samples - heard.shape[1]))


def _front(extractor: Any, place: str) -> nn.Module:
    """Return what a feature extractor of transformers computes, in torch.

    Differs in the last frame that Whisper hears of a sound of 30 s and more: it mirrors the end of
    what it hears, and silence stands there here.
    """
    kind = type(extractor).__name__
    if kind == "Wav2Vec2FeatureExtractor":
        return Standardised() if extractor.do_normalize else nn.Identity()
    if kind in ("ASTFeatureExtractor", "SeamlessM4TFeatureExtractor"):
        return KaldiFilterBank(KaldiSettings.of(extractor))
    sizes = [getattr(extractor, name, 0) for name in ("sampling_rate", "n_fft", "hop_length")]
    if kind != "WhisperFeatureExtractor" or sizes != [SAMPLE_RATE, WINDOW, HOP]:
        raise CheckpointError(
            place,
            f"hears through {kind} {sizes}, expected the extractor of Whisper "
            f"{[SAMPLE_RATE, WINDOW, HOP]}, wav2vec 2.0 and its kin, AST or wav2vec2-BERT",
        )
    return nn.Sequential(Filled(extractor.n_samples), WhisperLogMel(extractor.feature_size))


def load_hugging_face(place: str, said: Said, *, local: bool = True) -> System:
    """Return the audio-classification model in a folder, or of a hub id.

    Args:
        place: Folder written by ``save_pretrained``, or ``owner/name``.
        said: What the caller says about the model.
        local: Look at this machine only; otherwise the hub may be asked.

    Raises:
        ServaxError: transformers is not installed.
        CheckpointError: There is no such model, it is broken, incomplete, or needs code of its own.
        SettingError: What is said contradicts the model.
    """
    transformers = load_extra("transformers", extra="hf", what="a Hugging Face model")
    network, extractor = _read(transformers, place, local=local)
    names = network.config.id2label
    settings = [
        {name: value for name, value in each.to_dict().items() if name not in OF_PLACE}
        for each in (network.config, extractor)
    ]
    told = [json.dumps(each, sort_keys=True, default=str).encode() for each in settings]
    return system_of(
        WaveformModel(_front(extractor, place), network),
        said,
        Said(
            inputs="waveform",
            sample_rate=getattr(extractor, "sampling_rate", None),
            labels=[str(names[i]) for i in sorted(names)],
        ),
        name=Path(place).resolve().name,
        place=place,
        source=f"Hugging Face {place} ({type(network).__name__})",
        fingerprint=hash_of_model(network, *told),
        shut_by="",
    )


def _read(transformers: Any, place: str, *, local: bool) -> tuple[Any, Any]:
    """Return the network and the feature extractor of a model."""
    options = {"trust_remote_code": False, "local_files_only": local}
    try:
        with torch.random.fork_rng(devices=[]), quiet():
            extractor = transformers.AutoFeatureExtractor.from_pretrained(place, **options)
            config = transformers.AutoConfig.from_pretrained(place, **options)
            own = (config.architectures or [""])[0] == OF_DIMENSIONS
            kind = transformers.AutoModelForAudioClassification
            kind = _of_dimensions(transformers) if own else kind
            network, found = kind.from_pretrained(
                place, use_safetensors=True, output_loading_info=True, **options
            )
    except Exception as error:  # transformers lets through what its many readers raise.
        raise CheckpointError(
            place,
            f"transformers cannot read it ({type(error).__name__}: {error}); expected an "
            "audio-classification model with config.json, preprocessor_config.json and "
            "model.safetensors, and no code of its own",
        ) from error
    missing = made_up(found)
    if missing:
        raise CheckpointError(
            place,
            f"lacks {len(missing)} weights of a {type(network).__name__}, the first is "
            f"{missing[0]}; expected a model trained to classify audio",
        )
    return network.float(), extractor


def _of_dimensions(transformers: Any) -> Any:
    """Return the class of audeering's published models of arousal, dominance and valence.

    The mean over frames of wav2vec 2.0, two linear layers and tanh between (Wagner et al. 2023,
    "Dawn of the transformer era in speech emotion recognition"); transformers has no such head.
    """
    home = transformers.models.wav2vec2.modeling_wav2vec2

    class Dimensional(home.Wav2Vec2PreTrainedModel):  # type: ignore[misc, name-defined]
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.wav2vec2, width = home.Wav2Vec2Model(config), config.hidden_size
            layers = {"dense": nn.Linear(width, width)}
            layers["out_proj"] = nn.Linear(width, config.num_labels)
            self.classifier = nn.ModuleDict(layers)
            self.post_init()

        def forward(self, waveform: Tensor) -> Any:
            state = self.wav2vec2(waveform).last_hidden_state.mean(dim=1)
            hidden = torch.tanh(self.classifier["dense"](state))
            return SimpleNamespace(logits=self.classifier["out_proj"](hidden))

    return Dimensional


class OnnxClassifier(nn.Module):
    """Maps inputs to logits (B, C) of an ONNX session; gradients do not pass.

    A file exported for a fixed batch is fed that many utterances at a time. One exported for a
    fixed length of sound keeps the middle of longer waveforms and fills shorter ones with zeros.

    Args:
        session: Its onnxruntime session.
        sizes: Each dimension of its input; None where any size will do.
        output: Name of the logits.
    """

    def __init__(self, session: Any, sizes: Sequence[int | None], output: str) -> None:
        super().__init__()
        self.session = session
        self.sizes = tuple(sizes)
        self.output = output
        self.input = session.get_inputs()[0]

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Return float32 logits (B, C) of inputs (B, T) or (B, 1, M, F).

        Raises:
            ShapeError: The inputs are empty, or not of the shape that the file is made for.
        """
        if not x.numel():
            raise ShapeError("x", x.shape, "at least one input of at least one sample")
        rows = self._fitted(x.detach()).cpu().numpy().astype(TYPES[self.input.type])
        batch, found = self.sizes[0] or len(rows), []
        for first in range(0, len(rows), batch):
            part = rows[first : first + batch]
            # A fixed batch is filled up with its last row.
            full = np.concatenate([part, np.repeat(part[-1:], batch - len(part), axis=0)])
            logits = self.session.run([self.output], {self.input.name: full})[0][: len(part)]
            found.append(torch.from_numpy(logits.astype(np.float32)))
        return torch.cat(found).to(x.device)

    def _fitted(self, x: Tensor) -> Tensor:
        """Return inputs of the length that the file is made for, where it is for one."""
        length = self.sizes[1]
        if len(self.sizes) == 2 and x.ndim == 2 and length is not None:
            extra = x.shape[1] - length
            x = x[:, extra // 2 :][:, :length] if extra > 0 else nn.functional.pad(x, (0, -extra))
        fits = x.ndim == len(self.sizes) and all(
            size in (None, given) for size, given in zip(self.sizes[1:], x.shape[1:], strict=True)
        )
        if not fits:
            wanted = ["B", *("any" if size is None else str(size) for size in self.sizes[1:])]
            raise ShapeError("x", x.shape, f"({', '.join(wanted)}), as the ONNX file")
        return x


def load_onnx(path: Path, said: Said) -> System:
    """Return the model in an ONNX file.

    Raises:
        ServaxError: onnxruntime is not installed.
        CheckpointError: The file is broken, or not from one input of 2 or 4 dimensions to logits.
        SettingError: Rate or labels are unknown, or what is said contradicts the file.
    """
    if not path.is_file():
        raise CheckpointError(path, "no such file; expected an ONNX file")
    session = open_session(path, threads=torch.get_num_threads())
    inputs, names = session.get_inputs(), [output.name for output in session.get_outputs()]
    if len(inputs) != 1 or len(inputs[0].shape) not in RANKS or inputs[0].type not in TYPES:
        given = ", ".join(f"{one.name} {one.type} {one.shape}" for one in inputs)
        raise CheckpointError(
            path, f"takes {given}; expected one input of numbers, (B, T) or (B, 1, M, F)"
        )
    if len(names) > 1 and "logits" not in names:
        raise CheckpointError(path, f"gives {', '.join(names)}; expected one output, or `logits`")
    sizes = [size if isinstance(size, int) else None for size in inputs[0].shape]
    labels, rate = _metadata(path, session)
    own = Said(labels=labels, sample_rate=rate, inputs=RANKS[len(sizes)])
    if own.inputs == "logmel":
        own = replace(own, size=(sizes[2], sizes[3]))
    elif sizes[1] and (rate or said.sample_rate):
        own = replace(own, seconds=sizes[1] / (rate or said.sample_rate or 0))
    return system_of(
        OnnxClassifier(session, sizes, "logits" if "logits" in names else names[0]),
        said,
        own,
        name=path.stem,
        place=str(path),
        source=f"ONNX file {path}",
        fingerprint=hash_of_files([path]),
        shut_by="an ONNX file runs outside torch, which gives no gradients",
        any_length=False,
    )


def _metadata(path: Path, session: Any) -> tuple[list[str] | None, int | None]:
    """Return the labels and the sample rate that a file states."""
    said = session.get_modelmeta().custom_metadata_map
    try:
        labels = json.loads(said.get("labels", "null"))
        rate = int(said["sample_rate"]) if "sample_rate" in said else None
        if labels is not None and not isinstance(labels, list):
            raise ValueError("labels")
    except ValueError:
        raise CheckpointError(
            path,
            "has metadata that cannot be read; expected `labels` as a JSON list of names and "
            "`sample_rate` as a whole number of Hz",
        ) from None
    return labels, rate
