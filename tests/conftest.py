"""What every test shares: one torch thread, a cache folder of its own, oracles, real recordings."""

from __future__ import annotations

import importlib
import os
import sys
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pandas as pd
import pytest
import torch

from servax.corpora import COLUMNS, Corpus
from servax.features import Dataset, Features, Scale, ScaleSettings

torch.set_num_threads(1)
hypothesis.settings.register_profile(
    "servax", deadline=None, derandomize=True, database=None, max_examples=50
)
hypothesis.settings.load_profile("servax")


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what tests make out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SERVAX_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def real_data() -> Callable[[str], Path]:
    """Return the folder of a real corpus below SERVAX_DATA, or skip the test and say so."""

    def find(name: str) -> Path:
        data = os.environ.get("SERVAX_DATA")
        folder = Path(data) / name if data else None
        if folder is None or not folder.is_dir():
            pytest.skip(f"REAL CORPUS MISSING: set SERVAX_DATA to a folder that holds {name}")
        return folder

    return find


@pytest.fixture(scope="session")
def torchaudio() -> types.ModuleType:
    """Return torchaudio, an oracle.

    Its wheel is a CUDA build whose compiled half does not load beside a CPU torch; the Python half
    (MelSpectrogram, melscale_fbanks) does once that half is replaced by an empty module.
    """
    extension = types.ModuleType("torchaudio._extension")
    extension._IS_TORCHAUDIO_EXT_AVAILABLE = False  # type: ignore[attr-defined]
    extension._IS_ALIGN_AVAILABLE = False  # type: ignore[attr-defined]
    extension.fail_if_no_align = lambda function: function  # type: ignore[attr-defined]
    sys.modules.setdefault("torchaudio._extension", extension)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("torchaudio")


@pytest.fixture(scope="session")
def library(torchaudio: types.ModuleType) -> Any:
    """Return transformers; it loads torchaudio, which is made loadable first."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers

        return transformers


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody ask the hub, whatever the environment says."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture(scope="session")
def tiny_wav2vec2(torchaudio: types.ModuleType) -> Callable[[Path], None]:
    """Return what writes a tiny random wav2vec 2.0 of four emotions to a folder."""

    def write(folder: Path) -> None:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import transformers

            torch.manual_seed(0)
            settings = transformers.Wav2Vec2Config(
                hidden_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=16,
                classifier_proj_size=8,
                conv_dim=(8, 8),
                conv_stride=(10, 16),
                conv_kernel=(20, 32),
                num_feat_extract_layers=2,
                num_conv_pos_embeddings=4,
                num_conv_pos_embedding_groups=2,
                id2label=dict(enumerate(LABELS)),
                label2id={label: number for number, label in enumerate(LABELS)},
            )
            network = transformers.Wav2Vec2ForSequenceClassification(settings)
            # Weights as large as trained ones, or every sound would be answered alike.
            torch.nn.init.normal_(network.projector.weight)
            torch.nn.init.normal_(network.classifier.weight, std=5.0)
            network.save_pretrained(folder)
            transformers.Wav2Vec2FeatureExtractor().save_pretrained(folder)

    return write


LABELS = ("angry", "happy", "neutral", "sad")
MELS, FRAMES = 32, 40

Build = Callable[..., Dataset]


def make_dataset(
    labels: Sequence[int], *, seed: int = 0, classes: Sequence[str] = LABELS
) -> Dataset:
    """Return utterances of noise in which a band of Mel bins, one per class, is louder."""
    draws = np.random.default_rng(seed)
    decibels = draws.normal(-50.0, 5.0, (len(labels), MELS, FRAMES)).astype(np.float32)
    height = MELS // len(classes)
    for row, label in enumerate(labels):
        decibels[row, label * height : (label + 1) * height] += 35.0
    names = [f"u{i:03d}" for i in range(len(labels))]
    table = pd.DataFrame(dict.fromkeys(COLUMNS, ""), index=range(len(labels)))
    table["utterance"] = names
    table["label"] = table["emotion"] = [classes[label] for label in labels]
    table["speaker"] = [f"s{i % 2}" for i in range(len(labels))]
    table["start"], table["end"] = 0.0, float("nan")
    corpus = Corpus("made", Path(), "native", tuple(classes), table)
    scale = Scale(ScaleSettings(top_db=0.0))
    return Dataset(corpus, Features(decibels, tuple(names)), scale)


@pytest.fixture(name="make_dataset", scope="session")
def _make_dataset() -> Build:
    return make_dataset
