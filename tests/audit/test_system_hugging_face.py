"""Audio classifiers of transformers as subjects, on tiny random networks; nothing is fetched.

Oracles: the library's own feature extractors, and its networks called as its guide does.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from servax.errors import CheckpointError, PathError, ServaxError, SettingError
from servax.evaluation.loading import load_system
from servax.evaluation.systems import System

pytestmark = pytest.mark.usefixtures("offline")

NAMES = {0: "neu", 1: "hap", 2: "ang", 3: "sad"}
CONVOLUTIONS = {
    "conv_dim": (8, 8),
    "conv_kernel": (10, 8),
    "conv_stride": (8, 8),
    "num_feat_extract_layers": 2,
}
SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "id2label": NAMES,
    "label2id": {name: i for i, name in NAMES.items()},
}
SOUND: dict[str, Any] = {
    **CONVOLUTIONS,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 8,
}
RAW = {
    "wav2vec2": ("Wav2Vec2Config", "Wav2Vec2ForSequenceClassification", {}),
    "hubert": ("HubertConfig", "HubertForSequenceClassification", {"feat_extract_norm": "layer"}),
    "wavlm": ("WavLMConfig", "WavLMForSequenceClassification", {}),
}
AST: dict[str, Any] = {"num_mel_bins": 16, "max_length": 32}


@pytest.fixture(scope="module")
def folders(library: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Save one tiny random network of each kind with its feature extractor."""
    root = tmp_path_factory.mktemp("hugging-face")
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        for name, (config, network, more) in RAW.items():
            settings = getattr(library, config)(**SIZES, **SOUND, **more)
            getattr(library, network)(settings).save_pretrained(root / name)
            normalise = name != "wavlm"
            library.Wav2Vec2FeatureExtractor(do_normalize=normalise).save_pretrained(root / name)
        settings = library.ASTConfig(**SIZES, **AST, patch_size=8)
        library.ASTForAudioClassification(settings).save_pretrained(root / "ast")
        library.ASTFeatureExtractor(**AST).save_pretrained(root / "ast")
    return {folder.name: folder for folder in root.iterdir()}


@pytest.fixture
def speech() -> torch.Tensor:
    """Return three utterances of noise (3, 4000) of different loudness, one with an offset."""
    noise = torch.randn(3, 4000, generator=torch.Generator().manual_seed(1))
    return (
        noise * torch.tensor([[0.2], [0.05], [0.001]]) + torch.tensor([[0.0], [0.1], [0.0]])
    ).clamp(-1, 1)


def oracle(library: Any, folder: Path, speech: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return features and logits as the library computes them, one utterance after another."""
    extractor = library.AutoFeatureExtractor.from_pretrained(folder)
    network = library.AutoModelForAudioClassification.from_pretrained(folder).eval()
    rows = [
        extractor(row.numpy(), sampling_rate=16_000, return_tensors="pt")["input_values"]
        for row in speech
    ]
    with torch.no_grad():
        return torch.cat(rows), torch.cat([network(row).logits for row in rows])


def as_library(subject: System, logits: torch.Tensor, speech: torch.Tensor) -> None:
    assert (subject.inputs, subject.sample_rate, subject.bounds) == ("waveform", 16_000, (-1, 1))
    assert subject.labels == ("neu", "hap", "ang", "sad")
    assert not subject.model.training
    with torch.no_grad():
        torch.testing.assert_close(subject.model(speech), logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", RAW)
def test_models_of_raw_sound(
    library: Any, folders: dict[str, Path], speech: torch.Tensor, name: str
) -> None:
    subject = load_system(str(folders[name]))
    features, logits = oracle(library, folders[name], speech)
    model: Any = subject.model
    torch.testing.assert_close(model.features(speech), features, rtol=1e-5, atol=1e-5)
    as_library(subject, logits, speech)
    assert subject.gradients
    assert subject.name == name


def test_gradients_reach_the_waveform(folders: dict[str, Path], speech: torch.Tensor) -> None:
    subject = load_system(str(folders["wav2vec2"]))
    model = subject.model.double()
    x = speech[:1].double().requires_grad_()
    (gradient,) = torch.autograd.grad(model(x)[0, 0], x)
    direction = torch.randn(1, 4000, generator=torch.Generator().manual_seed(2)).double()
    step = 1e-6
    with torch.no_grad():
        rise = model(x + step * direction)[0, 0] - model(x - step * direction)[0, 0]
    torch.testing.assert_close(
        (gradient * direction).sum(), rise / (2 * step), rtol=1e-4, atol=1e-9
    )


def test_a_model_of_spectrograms_is_a_black_box(
    library: Any, folders: dict[str, Path], speech: torch.Tensor
) -> None:
    subject = load_system(str(folders["ast"]))
    _, logits = oracle(library, folders["ast"], speech)
    as_library(subject, logits, speech)
    assert subject.shut == "ASTFeatureExtractor computes its features in NumPy"
    assert not subject.gradients
    assert not subject.model(speech.requires_grad_()).requires_grad


def copied(folder: Path, to: Path) -> Path:
    to.mkdir()
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    return to


def test_the_fingerprint_is_of_weights_and_extractor(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    place = copied(folders["wav2vec2"], tmp_path / "copy")
    first = load_system(str(folders["wav2vec2"])).fingerprint
    assert load_system(str(place)).fingerprint == first
    settings = json.loads((place / "preprocessor_config.json").read_text(encoding="utf-8"))
    settings["do_normalize"] = False
    (place / "preprocessor_config.json").write_text(json.dumps(settings), encoding="utf-8")
    assert load_system(str(place)).fingerprint != first


def without_head(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in weights.items() if not name.startswith("classifier")}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})


def without_mask(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["wav2vec2.masked_spec_embed"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def own_code(folder: Path) -> None:
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    settings |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}}
    (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    (folder / "own.py").write_text("raise SystemExit('this code ran')", encoding="utf-8")


def without_extractor(folder: Path) -> None:
    (folder / "preprocessor_config.json").unlink()


def told(folder: Path, **settings: Any) -> str:
    """Write settings into the configuration of a model, and return where it lies."""
    found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(found | settings), encoding="utf-8")
    return str(folder)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"problem_type": "regression"}, "has a regression head .*expected a model with a head"),
        (
            {"id2label": {"0": "Arousal", "1": "dominance", "2": "valence", "3": "pleasure"}},
            "expected names of classes: the outputs of .* are dimensions .a regression head.",
        ),
    ],
)
def test_a_head_that_places_voices_in_a_space_is_refused(
    folders: dict[str, Path], tmp_path: Path, settings: dict[str, Any], sentence: str
) -> None:
    place = told(copied(folders["wav2vec2"], tmp_path / "space"), **settings)
    for labels in (None, ["neutral", "happy", "angry", "sad"]):
        with pytest.raises(ServaxError, match=sentence):
            load_system(place, labels=labels)


def test_a_multi_label_head_is_known(folders: dict[str, Path], tmp_path: Path) -> None:
    assert not load_system(str(folders["wav2vec2"])).multi_label
    for kind, several in (
        ("multi_label_classification", True),
        ("single_label_classification", False),
    ):
        place = told(copied(folders["wav2vec2"], tmp_path / kind), problem_type=kind)
        assert load_system(place).multi_label is several


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (
            without_head,
            "lacks 2 weights of a Wav2Vec2ForSequenceClassification, the first is class",
        ),
        (pickled, "transformers cannot read it .*and model.safetensors, and no code of its own"),
        (own_code, "transformers cannot read it .*trust_remote_code"),
        (without_extractor, "transformers cannot read it .*expected an audio-classification model"),
    ],
)
def test_refused_folders(
    folders: dict[str, Path], tmp_path: Path, spoil: Any, sentence: str
) -> None:
    place = copied(folders["wav2vec2"], tmp_path / "spoilt")
    spoil(place)
    with pytest.raises(CheckpointError, match=f"(?s)spoilt: {sentence}"):
        load_system(str(place))


def test_a_weight_of_training_only_may_be_missing(
    folders: dict[str, Path], tmp_path: Path, speech: torch.Tensor
) -> None:
    place = copied(folders["wav2vec2"], tmp_path / "old")
    without_mask(place)
    whole = load_system(str(folders["wav2vec2"])).model
    assert torch.equal(load_system(str(place)).model(speech), whole(speech))


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({"inputs": "logmel"}, "inputs is 'logmel', expected 'waveform', which"),
        ({"sample_rate": 8000}, "sample_rate is 8000, expected 16000, which"),
        ({"labels": ["a"]}, r"labels is \['a'\], expected 4 names, one for each logit"),
    ],
)
def test_what_contradicts_a_model(
    folders: dict[str, Path], said: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(SettingError, match=sentence):
        load_system(str(folders["wav2vec2"]), **said)


def test_a_hub_id_is_refused_without_a_network(
    library: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(*arguments: Any) -> None:
        raise AssertionError("the test reached for the network")

    monkeypatch.setattr("socket.socket.connect", connect)
    with pytest.raises(PathError, match=r"(?s)^servax-tests/absent: transformers cannot read it"):
        load_system("hf://servax-tests/absent")


def test_without_transformers(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ServaxError, match=r"needs transformers .*pip install '\.\[hf\]'"):
        load_system(str(folders["wav2vec2"]))
