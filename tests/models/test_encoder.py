"""Speech encoders with a head: as transformers computes them, whatever stands beside a sound.

Oracles: the feature extractor of Whisper, and the encoders of transformers called as a whole. Tiny
random networks are made here; the real Whisper is used where its folder is.
"""

from __future__ import annotations

import copy
import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from servax.audio import read
from servax.errors import CheckpointError, ServaxError, SettingError, ShapeError
from servax.features import set_level
from servax.features.whisper import WhisperLogMel
from servax.models import (
    EncoderClassifier,
    EncoderHead,
    Noise,
    SmoothedClassifier,
    SpeechEncoder,
    open_encoder,
)

pytestmark = pytest.mark.usefixtures("offline")

SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "conv_dim": (8, 8),
    "conv_kernel": (20, 32),
    "conv_stride": (10, 16),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}
RAW = {
    "wav2vec2": ("Wav2Vec2", {}),
    "stable": ("Wav2Vec2", {"do_stable_layer_norm": True, "feat_extract_norm": "layer"}),
    "hubert": ("Hubert", {}),
    "wavlm": ("WavLM", {}),
}
KINDS = ("whisper", *RAW)


@pytest.fixture(scope="module")
def folders(library: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Save one tiny random network of each kind, of three layers, with its feature extractor."""
    root = tmp_path_factory.mktemp("encoders")
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        settings = library.WhisperConfig(
            d_model=16,
            encoder_layers=3,
            encoder_attention_heads=2,
            encoder_ffn_dim=16,
            decoder_layers=1,
            decoder_attention_heads=2,
            decoder_ffn_dim=16,
            vocab_size=8,
            pad_token_id=0,
            bos_token_id=0,
            eos_token_id=0,
            decoder_start_token_id=1,
        )
        library.WhisperForConditionalGeneration(settings).half().save_pretrained(root / "whisper")
        library.WhisperFeatureExtractor().save_pretrained(root / "whisper")
        for name, (family, more) in RAW.items():
            settings = getattr(library, f"{family}Config")(**SIZES, **more)
            network = getattr(library, f"{family}ForSequenceClassification")(settings)
            network.save_pretrained(root / name)
            extractor = library.Wav2Vec2FeatureExtractor(do_normalize=name != "wavlm")
            extractor.save_pretrained(root / name)
    return {folder.name: folder for folder in root.iterdir()}


@pytest.fixture(scope="module")
def real_whisper() -> str:
    """Return the folder of Whisper tiny.en beside SERVAX_DATA, or skip the test and say so."""
    folder = Path(os.environ.get("SERVAX_DATA", "/nowhere")).parent / "models" / "whisper-tiny-en"
    if not folder.is_dir():
        pytest.skip(f"REAL ENCODER MISSING: no {folder}")
    return str(folder)


def noise(rows: int, samples: int, seed: int = 1) -> torch.Tensor:
    return 0.1 * torch.randn(rows, samples, generator=torch.Generator().manual_seed(seed))


def classifier(encoder: SpeechEncoder, seed: int = 0) -> EncoderClassifier:
    """Return an encoder with a head of random weights for three classes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = EncoderHead(3, encoder.width, encoder.depth)
        torch.nn.init.normal_(head.weights)
    head.standardise(encoder(noise(8, 9_000, seed=3)))
    return EncoderClassifier(encoder, head).eval()


@pytest.mark.real_corpus
def test_log_mel_is_that_of_the_feature_extractor(library: Any, real_data: Any) -> None:
    extractor = library.WhisperFeatureExtractor()
    paths = sorted(real_data("ravdess").glob("Actor_0[1-4]/*.wav"))[::47]
    assert len(paths) >= 5
    for path in paths:
        whole = read(path, sample_rate=16_000)
        for sound in (whole, whole[9_000:25_017], whole[20_000:20_900]):
            given = torch.from_numpy(sound.copy())[None]
            found = WhisperLogMel()(given)[0]
            frames = -(-len(sound) // 160)
            assert found.shape == (80, frames)
            filled = np.pad(sound.astype(np.float64), (0, 480_000 - len(sound)))
            exact = extractor._np_extract_fbank_features(filled[None], "cpu")[0, :, :frames]
            torch.testing.assert_close(found, torch.from_numpy(exact), rtol=0, atol=1e-5)
            double = WhisperLogMel().double()(given.double())[0]
            torch.testing.assert_close(double.float(), torch.from_numpy(exact), rtol=0, atol=1e-5)
            # In float32, where torch is there, it is as far from its own NumPy as from us.
            rough = extractor(sound, sampling_rate=16_000, return_tensors="pt").input_features
            torch.testing.assert_close(found, rough[0, :, :frames], rtol=0, atol=2e-4)


def test_log_mel_of_the_largest_models_has_more_bins(library: Any) -> None:
    sound = noise(1, 16_123)
    extractor = library.WhisperFeatureExtractor(feature_size=128)
    expected = extractor(sound[0].numpy(), sampling_rate=16_000, return_tensors="pt")
    found = WhisperLogMel(128)(sound)
    torch.testing.assert_close(found, expected.input_features[..., :101], rtol=0, atol=1e-5)


def states_of_library(library: Any, folder: Path, sound: torch.Tensor) -> list[torch.Tensor]:
    """Return all hidden states of the whole encoder, as its own forward computes them."""
    extractor = library.AutoFeatureExtractor.from_pretrained(folder)
    rows = list(set_level(sound, -26.0).numpy())
    given = extractor(rows, sampling_rate=16_000, return_tensors="pt")
    network = library.AutoModel.from_pretrained(folder).float().eval()
    with torch.no_grad():
        if "input_features" not in given:
            found = network(given["input_values"], output_hidden_states=True).hidden_states
            return list(found)
        # Cut positions and a short clip are what the model itself would hear if it were as short.
        frames = -(-sound.shape[1] // 320)
        encoder = network.get_encoder()
        encoder.embed_positions.weight.data = encoder.embed_positions.weight.data[:frames]
        encoder.embed_positions.num_embeddings = frames
        encoder.config.max_source_positions = frames
        heard = encoder(given["input_features"][..., : 2 * frames], output_hidden_states=True)
        return list(heard.hidden_states)


@pytest.mark.parametrize("name", KINDS)
def test_statistics_are_those_of_the_states_of_transformers(
    library: Any, folders: dict[str, Path], name: str
) -> None:
    sound = noise(2, 9_600)
    expected = states_of_library(library, folders[name], sound)
    encoder = open_encoder(str(folders[name]), layers=2)
    assert (encoder.width, encoder.depth) == (16, 2)
    found = encoder(sound)
    assert found.shape == (2, 2, 32)
    for layer in range(2):
        state = expected[1 + layer].double()
        torch.testing.assert_close(found[:, layer, :16].double(), state.mean(1), rtol=0, atol=1e-4)
        deviation = state.std(1, correction=0)
        torch.testing.assert_close(found[:, layer, 16:].double(), deviation, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", KINDS)
def test_neither_filling_nor_neighbours_change_an_answer(
    folders: dict[str, Path], name: str
) -> None:
    model = classifier(open_encoder(str(folders[name]), layers=2))
    lengths = torch.tensor([4_000, 9_600, 4_000, 7_001])
    sounds = noise(4, 9_600)
    with torch.no_grad():
        alone = torch.cat([model(s[None, :n]) for s, n in zip(sounds, lengths, strict=True)])
        torch.testing.assert_close(model(sounds, lengths), alone, rtol=1e-4, atol=1e-5)
        for filling in (0.0, 1.0):
            filled = sounds.clone()
            for row, length in enumerate(lengths):
                filled[row, length:] = filling
            torch.testing.assert_close(model(filled, lengths), alone, rtol=1e-4, atol=1e-5)
        assert float(alone.std(0).min()) > 1e-3  # sounds are told apart


@pytest.mark.parametrize("name", KINDS)
def test_gradients_reach_the_sound(folders: dict[str, Path], name: str) -> None:
    model = classifier(open_encoder(str(folders[name]), layers=2)).double()
    sound = noise(1, 4_800).double().requires_grad_()
    (gradient,) = torch.autograd.grad(model(sound)[0, 0], sound)
    direction = noise(1, 4_800, seed=5).double()
    step = 1e-6
    with torch.no_grad():
        rise = model(sound + step * direction)[0, 0] - model(sound - step * direction)[0, 0]
    torch.testing.assert_close(
        (gradient * direction).sum(), rise / (2 * step), rtol=1e-4, atol=1e-9
    )


def test_noise_is_added_and_answers_are_averaged(folders: dict[str, Path]) -> None:
    plain = classifier(open_encoder(str(folders["whisper"])))
    settings = Noise(snr_db=10.0, draws=3)
    draws = torch.Generator()
    model = SmoothedClassifier(plain.encoder, plain.head, settings, draws)
    sound = noise(2, 9_600)
    draws.manual_seed(5)
    found = model(sound)
    rms = sound.square().mean(1, keepdim=True).sqrt()
    draws.manual_seed(5)
    copies = [sound + rms * 10**-0.5 * torch.randn(2, 9_600, generator=draws) for _ in range(3)]
    expected = np.mean([plain(copy).softmax(1).detach().numpy() for copy in copies], axis=0)
    np.testing.assert_allclose(found.exp().detach().numpy(), expected, rtol=1e-4)
    draws.manual_seed(5)
    torch.testing.assert_close(model(20.0 * sound), found)  # a louder sound gets louder noise
    assert not torch.equal(model(sound), found)
    fresh = [SmoothedClassifier(plain.encoder, plain.head, settings) for _ in range(2)]
    assert not torch.equal(*(each(sound) for each in fresh))  # nobody can foresee the noise


def test_noise_is_that_of_the_sound_and_not_of_what_fills_it(folders: dict[str, Path]) -> None:
    plain = classifier(open_encoder(str(folders["whisper"])))
    draws, answers = torch.Generator(), []
    model = SmoothedClassifier(plain.encoder, plain.head, Noise(snr_db=10.0), draws)
    for filled in (torch.zeros(1, 800), torch.ones(1, 6_000)):
        draws.manual_seed(5)
        sound = torch.cat([noise(1, 9_600), filled], dim=1)
        answers.append(model(sound, torch.tensor([9_600])))
    assert torch.equal(*answers)


def test_only_the_head_is_trained(folders: dict[str, Path]) -> None:
    model = classifier(open_encoder(str(folders["wav2vec2"])))
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert trained == ["head.weights", "head.linear.weight", "head.linear.bias"]
    model.train()
    assert model.head.training
    assert not any(module.training for module in model.encoder.modules())
    sound = noise(1, 9_600)
    assert torch.equal(model(sound), model(sound))


def test_the_head_weighs_standardised_layers() -> None:
    statistics = noise(5, 3 * 8).reshape(5, 3, 8).double()
    head = EncoderHead(2, 4, 3).double()
    head.standardise(statistics)
    head.weights.data = torch.tensor([0.0, 1.0, 2.0]).double()
    shares = np.exp([0.0, 1.0, 2.0])
    rows = statistics.numpy()
    standard = (rows - rows.mean(0)) / rows.std(0)
    weighted = np.einsum("l,bld->bd", shares / shares.sum(), standard)
    linear = head.linear
    expected = weighted @ linear.weight.detach().numpy().T + linear.bias.detach().numpy()
    np.testing.assert_allclose(head(statistics).detach().numpy(), expected, rtol=1e-9)


def test_the_hash_is_of_the_weights_alone(folders: dict[str, Path], tmp_path: Path) -> None:
    for name in KINDS:
        encoder = open_encoder(str(folders[name]), layers=2)
        encoder.save(tmp_path / name)
        again = open_encoder(str(tmp_path / name))
        assert (again.sha256, again.depth) == (encoder.sha256, 2)
        assert torch.equal(again(noise(1, 9_600)), encoder(noise(1, 9_600)))
        other = copy.deepcopy(encoder)
        list(other.network.parameters())[-1].data.view(-1)[0] += 1
        assert other.sha256 != encoder.sha256


@pytest.mark.parametrize(("samples", "shape"), [(799, r"\(1, 799\)"), (480_001, r"\(1, 480001\)")])
def test_lengths_that_are_refused(folders: dict[str, Path], samples: int, shape: str) -> None:
    encoder = open_encoder(str(folders["whisper"]), layers=1)
    with pytest.raises(ShapeError, match=f"waveform has shape {shape}, expected .*05 to 30 s"):
        encoder(torch.zeros(1, samples))


def lacking(folder: Path) -> None:
    (folder / "config.json").unlink()


def spectrograms(folder: Path) -> None:
    place = folder / "preprocessor_config.json"
    told = {"feature_extractor_type": "ASTFeatureExtractor", "sampling_rate": 16_000}
    place.write_text(json.dumps(told), encoding="utf-8")


def larger(folder: Path) -> None:
    place = folder / "config.json"
    told = json.loads(place.read_text(encoding="utf-8")) | {"num_hidden_layers": 5}
    place.write_text(json.dumps(told), encoding="utf-8")


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lacking, "transformers cannot read it .*expected a folder or hub id of a speech encoder"),
        (spectrograms, "is a wav2vec2 that hears ASTFeatureExtractor at 16000 Hz, expected Whis"),
        (larger, "lacks 16 weights of its encoder, the first is encoder.layers.3"),
    ],
)
def test_folders_that_are_refused(
    folders: dict[str, Path], tmp_path: Path, spoil: Any, sentence: str
) -> None:
    place = tmp_path / "spoilt"
    place.mkdir()
    for file in folders["wav2vec2"].iterdir():
        (place / file.name).write_bytes(file.read_bytes())
    spoil(place)
    with pytest.raises(CheckpointError, match=f"(?s)spoilt: {sentence}"):
        open_encoder(str(place))


def test_more_layers_than_there_are(folders: dict[str, Path]) -> None:
    with pytest.raises(SettingError, match="layers is 4, expected from 1 to 3, the layers of"):
        open_encoder(str(folders["hubert"]), layers=4)
    encoder = open_encoder(str(folders["hubert"]), layers=1)
    with pytest.raises(SettingError, match=r"width, layers of the head is \(16, 3\), expected"):
        EncoderClassifier(encoder, EncoderHead(2, 16, 3))


def test_without_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ServaxError, match=r"a speech encoder needs transformers .*'\.\[hf\]'"):
        open_encoder("anywhere")


def test_the_real_whisper(library: Any, real_whisper: str) -> None:
    encoder = open_encoder(real_whisper, layers=2)
    assert (encoder.width, encoder.depth) == (384, 2)
    sound = noise(1, 16_000)
    expected = states_of_library(library, Path(real_whisper), sound)[2]
    found = encoder(sound)[0, 1]
    torch.testing.assert_close(found[:384], expected[0].mean(0), rtol=1e-4, atol=1e-4)
