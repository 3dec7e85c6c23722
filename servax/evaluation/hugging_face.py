"""An audio-classification model of Hugging Face transformers, as a system (extra ``hf``).

Models of raw sound (wav2vec 2.0, HuBERT, WavLM, data2vec, UniSpeech, SEW) get their feature
extractor as torch code, so exact gradients reach the waveform. The extractors of others (AST,
Whisper) compute spectrograms in NumPy: those models are black boxes here, which an audit reports as
an error.

No code from a model's folder runs, and weights are read from safetensors only.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from servax.errors import CheckpointError
from servax.evaluation.systems import Said, System, hash_of_model, system_of
from servax.runtime.host import load_extra, quiet

RAW = "Wav2Vec2FeatureExtractor"
ONLY_IN_TRAINING = "masked_spec_embed"
"""A weight that hides frames during training; it is missing from many published models."""


class WaveformModel(nn.Module):
    """Maps (B, T) waveforms to logits (B, C) of a model of raw sound, differentiably.

    All utterances of a batch have the same length T. With `normalise` each gets zero mean and unit
    variance first: ``(x - mean) / sqrt(var + 1e-7)``, `Wav2Vec2FeatureExtractor` in torch.
    """

    def __init__(self, network: nn.Module, *, normalise: bool) -> None:
        super().__init__()
        self.network = network
        self.normalise = normalise

    def features(self, waveform: Tensor) -> Tensor:
        """Return what the network gets (B, T) of (B, T) waveforms."""
        if not self.normalise:
            return waveform
        mean = waveform.mean(dim=1, keepdim=True)
        variance = waveform.var(dim=1, keepdim=True, correction=0)
        return (waveform - mean) / torch.sqrt(variance + 1e-7)

    def forward(self, waveform: Tensor) -> Tensor:
        """Return logits (B, C) of waveforms (B, T)."""
        logits: Tensor = self.network(self.features(waveform)).logits
        return logits


class ExtractedModel(nn.Module):
    """Maps (B, T) waveforms to logits (B, C) by way of a feature extractor; no gradients."""

    def __init__(self, network: nn.Module, extractor: Any) -> None:
        super().__init__()
        self.network = network
        self.extractor = extractor

    @torch.no_grad()
    def forward(self, waveform: Tensor) -> Tensor:
        """Return logits (B, C) of waveforms (B, T)."""
        rows = list(waveform.detach().cpu().numpy())
        features = self.extractor(
            rows, sampling_rate=self.extractor.sampling_rate, return_tensors="pt"
        )
        logits: Tensor = self.network(**features.to(waveform.device)).logits
        return logits


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
    kind = type(extractor).__name__
    raw = kind == RAW
    names = network.config.id2label
    return system_of(
        WaveformModel(network, normalise=bool(extractor.do_normalize))
        if raw
        else ExtractedModel(network, extractor),
        said,
        Said(
            inputs="waveform",
            sample_rate=getattr(extractor, "sampling_rate", None),
            labels=[str(names[i]) for i in sorted(names)],
        ),
        name=Path(place).resolve().name,
        place=place,
        source=f"Hugging Face {place} ({type(network).__name__})",
        fingerprint=hash_of_model(network, _settings(network.config), _settings(extractor)),
        shut_by="" if raw else f"{kind} computes its features in NumPy",
    )


def _read(transformers: Any, place: str, *, local: bool) -> tuple[Any, Any]:
    """Return the network and the feature extractor of a model."""
    options = {"trust_remote_code": False, "local_files_only": local}
    try:
        with torch.random.fork_rng(devices=[]), quiet():
            extractor = transformers.AutoFeatureExtractor.from_pretrained(place, **options)
            network, found = transformers.AutoModelForAudioClassification.from_pretrained(
                place, use_safetensors=True, output_loading_info=True, **options
            )
    except Exception as error:  # transformers lets through what its many readers raise.
        raise CheckpointError(
            place,
            f"transformers cannot read it ({type(error).__name__}: {error}); expected an "
            "audio-classification model with config.json, preprocessor_config.json and "
            "model.safetensors, and no code of its own",
        ) from error
    # transformers makes up weights that a file lacks, and such a model says nothing.
    missing = sorted(
        name
        for name in [*found["missing_keys"], *(str(key) for key in found["mismatched_keys"])]
        if not name.endswith(ONLY_IN_TRAINING)
    )
    if missing:
        raise CheckpointError(
            place,
            f"lacks {len(missing)} weights of a {type(network).__name__}, the first is "
            f"{missing[0]}; expected a model trained to classify audio",
        )
    return network.float(), extractor


def _settings(described: Any) -> bytes:
    """Return the settings of a configuration or extractor, whatever its place and version."""
    settings = described.to_dict()
    kept = {k: v for k, v in settings.items() if k not in ("transformers_version", "_name_or_path")}
    return json.dumps(kept, sort_keys=True, default=str).encode()
