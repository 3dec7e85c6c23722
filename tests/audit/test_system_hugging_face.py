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

from servax.audio import read
from servax.errors import CheckpointError, PathError, ServaxError, SettingError
from servax.evaluation.loading import load_system
from servax.evaluation.systems import System
from servax.features.kaldi import KaldiFilterBank, KaldiSettings

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
OF_SPECTROGRAMS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "AST": ("ASTForAudioClassification", {"patch_size": 8}, {"num_mel_bins": 16, "max_length": 32}),
    "Wav2Vec2Bert": (
        "Wav2Vec2BertForSequenceClassification",
        {"feature_projection_input_dim": 48, "conv_depthwise_kernel_size": 3},
        {"feature_size": 24, "num_mel_bins": 24},
    ),
    "Whisper": (
        "WhisperForAudioClassification",
        {"d_model": 16, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 16}
        | {"decoder_layers": 1, "max_source_positions": 100, "num_mel_bins": 80},
        {"chunk_length": 2},
    ),
}
EXTRACTORS = {"Wav2Vec2Bert": "SeamlessM4T"}


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
        for name, (network, more, heard) in OF_SPECTROGRAMS.items():
            own = {key: heard[key] for key in ("num_mel_bins", "max_length") if key in heard}
            settings = getattr(library, f"{name}Config")(
                **(SIZES | {"classifier_proj_size": 8} | own | more)
            )
            getattr(library, network)(settings).save_pretrained(root / name)
            extractor = getattr(library, f"{EXTRACTORS.get(name, name)}FeatureExtractor")(**heard)
            extractor.save_pretrained(root / name)
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
    rows = [extractor(row.numpy(), sampling_rate=16_000, return_tensors="pt") for row in speech]
    with torch.no_grad():
        logits = torch.cat([network(**row).logits for row in rows])
    return torch.cat([row[extractor.model_input_names[0]] for row in rows]), logits


def as_library(subject: System, logits: torch.Tensor, speech: torch.Tensor) -> None:
    assert (subject.inputs, subject.sample_rate, subject.bounds) == ("waveform", 16_000, (-1, 1))
    assert subject.labels == ("neu", "hap", "ang", "sad")
    assert not subject.model.training
    with torch.no_grad():
        torch.testing.assert_close(subject.model(speech), logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [*RAW, *OF_SPECTROGRAMS])
@pytest.mark.parametrize("length", [4000, 3840, 20_000])
def test_each_kind_of_model(
    library: Any, folders: dict[str, Path], speech: torch.Tensor, name: str, length: int
) -> None:
    """Of 23, 22 and 123 frames of 25 ms: an odd number has one that wav2vec2-BERT masks."""
    speech = torch.cat([speech] * 5, dim=1)[:, :length]
    subject = load_system(str(folders[name]))
    features, logits = oracle(library, folders[name], speech)
    model: Any = subject.model
    found = model.front(speech)
    torch.testing.assert_close(found, features[:, : found.shape[1]], rtol=1e-5, atol=1e-4)
    as_library(subject, logits, speech)
    assert subject.gradients
    assert subject.name == name


@pytest.mark.real_corpus
@pytest.mark.filterwarnings("ignore:At least one mel filter has all zero values")
def test_filter_banks_of_real_speech(
    library: Any, real_data: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The extractor of AST computes in float32 where torchaudio is there, else in float64."""
    kind = library.ASTFeatureExtractor
    monkeypatch.setattr(f"{kind.__module__}.is_speech_available", lambda: False)
    paths = sorted(real_data("ravdess").glob("Actor_0[1-4]/*.wav"))[::47]
    assert len(paths) >= 5
    for extractor in (kind(), kind(do_normalize=False), library.SeamlessM4TFeatureExtractor()):
        front = KaldiFilterBank(KaldiSettings.of(extractor))
        for path in paths:
            whole = read(path, sample_rate=16_000)
            for sound in (whole, whole[9_000:25_017], whole[20_000:20_900]):
                told = extractor(sound, sampling_rate=16_000, return_tensors="pt")
                wanted = told[extractor.model_input_names[0]]
                if "attention_mask" in told:
                    wanted = wanted[told["attention_mask"].bool()][None]
                found = front(torch.from_numpy(sound.copy())[None])
                torch.testing.assert_close(found, wanted.float(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["wav2vec2", *OF_SPECTROGRAMS])
def test_gradients_reach_the_waveform(
    folders: dict[str, Path], speech: torch.Tensor, name: str
) -> None:
    subject = load_system(str(folders[name]))
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
    ("settings", "labels"),
    [
        ({"problem_type": "regression"}, ("neu", "hap", "ang", "sad")),
        (
            {"id2label": {"0": "Arousal", "1": "dominance", "2": "valence", "3": "pleasure"}},
            ("Arousal", "dominance", "valence", "pleasure"),
        ),
    ],
)
def test_a_head_that_places_voices_in_a_space_is_known(
    folders: dict[str, Path], tmp_path: Path, settings: dict[str, Any], labels: tuple[str, ...]
) -> None:
    place = told(copied(folders["wav2vec2"], tmp_path / "space"), **settings)
    system = load_system(place)
    assert system.regression
    assert system.labels == labels
    assert not load_system(str(folders["wav2vec2"])).regression


def test_a_model_of_audeering(library: Any, tmp_path: Path, speech: torch.Tensor) -> None:
    """Against the code of the card of audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim."""
    home = library.models.wav2vec2.modeling_wav2vec2

    class RegressionHead(torch.nn.Module):
        def __init__(self, config: Any) -> None:
            super().__init__()
            self.dense = torch.nn.Linear(config.hidden_size, config.hidden_size)
            self.dropout = torch.nn.Dropout(config.final_dropout)
            self.out_proj = torch.nn.Linear(config.hidden_size, config.num_labels)

        def forward(self, features: torch.Tensor) -> Any:
            x = self.dropout(features)
            x = torch.tanh(self.dense(x))
            return self.out_proj(self.dropout(x))

    class Wav2Vec2ForSpeechClassification(home.Wav2Vec2PreTrainedModel):
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.wav2vec2 = home.Wav2Vec2Model(config)
            self.classifier = RegressionHead(config)
            self.post_init()

        def forward(self, input_values: torch.Tensor) -> Any:
            hidden_states = self.wav2vec2(input_values)[0]
            return self.classifier(torch.mean(hidden_states, dim=1))

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(4)
        names = {0: "arousal", 1: "dominance", 2: "valence"}
        labels = {"id2label": names, "label2id": {name: i for i, name in names.items()}}
        settings = library.Wav2Vec2Config(
            **(SIZES | SOUND | labels), problem_type="regression", pooling_mode="mean"
        )
        network = Wav2Vec2ForSpeechClassification(settings).eval()
        network.save_pretrained(tmp_path / "dim")
        extractor = library.Wav2Vec2FeatureExtractor(do_normalize=True)
        extractor.save_pretrained(tmp_path / "dim")
    system = load_system(str(tmp_path / "dim"))
    assert system.regression
    assert system.labels == ("arousal", "dominance", "valence")
    rows = [extractor(s.numpy(), sampling_rate=16_000, return_tensors="pt") for s in speech]
    with torch.no_grad():
        wanted = torch.cat([network(row["input_values"]) for row in rows])
        torch.testing.assert_close(system.model(speech), wanted, rtol=1e-5, atol=1e-5)
    assert system.gradients


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
