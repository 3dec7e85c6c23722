"""Tuning an encoder: what moves and what stays, under which noise, and on which sounds."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from servax import audio
from servax.corpora import Corpus, load
from servax.defences import EncoderTuner, EncoderTuning, Sounds
from servax.errors import SettingError
from servax.models import (
    EncoderClassifier,
    EncoderHead,
    Noise,
    SmoothedClassifier,
    SpeechEncoder,
    open_encoder,
)
from servax.training import fit

RATE = 16_000
LENGTHS = (4000, 4800, 8000, 8400, 9000, 12_000, 12_100, 16_000)


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    draws = np.random.default_rng(0)
    lines = ["path,label,speaker"]
    for number, length in enumerate(LENGTHS):
        label = ("happy", "sad")[number % 2]
        tone = np.sin(np.arange(length) * (0.05 if label == "sad" else 0.5))
        sound = 0.2 * tone + draws.normal(0, 0.02, length)
        audio.write(tmp_path / f"{number}.wav", sound, RATE)
        lines.append(f"{number}.wav,{label},{number // 4}")
    (tmp_path / "mine.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return load(str(tmp_path / "mine.csv"), None, scheme="native")


@pytest.fixture
def encoder(tiny_wav2vec2: Callable[[Path], None], tmp_path: Path) -> SpeechEncoder:
    folder = tmp_path / "encoder"
    folder.mkdir()
    tiny_wav2vec2(folder)
    return open_encoder(str(folder))


def head_of(encoder: SpeechEncoder) -> EncoderHead:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return EncoderHead(2, encoder.width, encoder.depth)


def test_a_batch_is_what_soundfile_reads_cut_to_its_shortest(corpus: Corpus) -> None:
    sounds = Sounds(corpus)
    batch = sounds.batch(np.array([5, 2]))
    assert batch.x.shape == (2, 8000)
    whole = audio.read(corpus.root / "5.wav", sample_rate=RATE)
    assert np.array_equal(batch.x[0].numpy(), whole[2000:10_000])
    assert batch.y.tolist() == [corpus.label_index[5], corpus.label_index[2]]


def test_batches_hold_everybody_once_and_nearly_one_length(corpus: Corpus) -> None:
    sounds = Sounds(corpus)
    draws = torch.Generator().manual_seed(3)
    for order in (sounds.order(3), sounds.order(3, draws), sounds.order(3, draws)):
        assert sorted(np.concatenate(order).tolist()) == list(range(len(LENGTHS)))
        for rows in order:
            lengths = [LENGTHS[row] for row in rows]
            assert max(lengths) - min(lengths) <= 4000 + RATE // 4


@pytest.mark.parametrize("attack_db", [None, 30.0])
@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
def test_only_what_is_asked_for_and_the_head_move(
    corpus: Corpus,
    encoder: SpeechEncoder,
    tmp_path: Path,
    attack_db: float | None,
    noisy: bool,
    layers: int,
) -> None:
    encoder.blocks.append(copy.deepcopy(encoder.blocks[0]))
    encoder.depth = 2
    head = head_of(encoder)
    network = EncoderClassifier(encoder, head)
    if noisy:
        network = SmoothedClassifier(encoder, head, Noise(15.0, 4))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    settings = EncoderTuning(
        layers=layers, epochs=2, batch_size=4, learning_rate=1e-3, attack_db=attack_db
    )
    sounds = Sounds(corpus)
    tuner = EncoderTuner(network, sounds, sounds, settings, seed=0)
    fitted = fit(tuner, settings.schedule(), tmp_path / "out", seed=0, settings="")
    assert fitted.epochs == 2
    # The statistics are measured, not learned, and what hides frames in training has no part.
    fixed = ("head.centre", "head.spread", "encoder.network.masked_spec_embed")
    moving = ("encoder.network." if layers == 2 else "encoder.network.encoder.layers.1.", "head.")
    for name, value in network.state_dict().items():
        moved = not torch.equal(value, before[name])
        assert moved == (name.startswith(moving) and name not in fixed), name


def test_the_rate_rises_and_falls_as_torchs_own_cycle() -> None:
    settings, steps = EncoderTuning(epochs=10, learning_rate=0.1), 40
    weight = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([weight], lr=0.1)
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, 0.1, total_steps=steps + 2, final_div_factor=1e9
    )
    for step in range(steps):
        ours = settings.rate(step * settings.epochs / steps)
        assert ours == pytest.approx(optimiser.param_groups[0]["lr"], abs=0.008)
        optimiser.step()
        cycle.step()


def test_it_learns_what_tells_the_sounds_apart_and_repeats_itself(
    corpus: Corpus, encoder: SpeechEncoder, tmp_path: Path
) -> None:
    settings = EncoderTuning(epochs=8, batch_size=4, learning_rate=2e-3, attack_db=75.0)
    start = encoder.network.state_dict()
    start = {name: value.clone() for name, value in start.items()}
    found = []
    for folder in ("a", "b"):
        encoder.network.load_state_dict(start)
        network = SmoothedClassifier(encoder, head_of(encoder), Noise(20.0))
        sounds = Sounds(corpus)
        tuner = EncoderTuner(network, sounds, sounds, settings, seed=5)
        fitted = fit(tuner, settings.schedule(), tmp_path / folder, seed=5, settings="")
        found.append((fitted, tuner.weights()))
    (first, weights), (second, again) = found
    assert first == second
    assert (first.epochs, first.best_epoch) == (8, 7)  # the last weights are kept
    assert tuner.validate(0)["validation/clean"] == 1.0
    assert all(torch.equal(weights[name], again[name]) for name in weights)


def test_the_attack_goes_as_far_as_asked_through_the_noise_of_the_step(
    corpus: Corpus, encoder: SpeechEncoder
) -> None:
    network = SmoothedClassifier(encoder, head_of(encoder), Noise(15.0, 4))
    sounds = Sounds(corpus)
    tuner = EncoderTuner(network, sounds, sounds, EncoderTuning(attack_db=30.0), seed=0)
    batch = sounds.batch(np.arange(3))
    tuner.heard.seed = 7
    said = tuner.heard(batch.x)
    assert torch.equal(said, tuner.heard(batch.x))  # the same noise in each pass
    moved = tuner.attacked(batch, 30.0)
    change = (moved - batch.x).norm(dim=1) / batch.x.norm(dim=1)
    assert torch.allclose(change, torch.full((3,), 10.0**-1.5), rtol=1e-3)
    loss = torch.nn.functional.cross_entropy
    assert loss(tuner.heard(moved), batch.y) > loss(said, batch.y)
    tuner.heard.seed = 8
    assert not torch.equal(said, tuner.heard(batch.x))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"attack_db": -1.0}, "attack_db is -1.0, expected a number of dB in [0, 90]"),
        ({"layers": 0}, "layers is 0"),
        ({"batch_size": 1}, "batch_size is 1"),
    ],
)
def test_settings_outside_their_range_are_refused(given: dict[str, float], told: str) -> None:
    with pytest.raises(SettingError) as refused:
        EncoderTuning(**given)  # type: ignore[arg-type]
    assert str(refused.value).startswith(told)


def test_an_encoder_with_fewer_layers_is_refused(corpus: Corpus, encoder: SpeechEncoder) -> None:
    network = EncoderClassifier(encoder, head_of(encoder))
    sounds = Sounds(corpus)
    with pytest.raises(SettingError, match="layers is 2, expected at most 1"):
        EncoderTuner(network, sounds, sounds, EncoderTuning(layers=2), seed=0)
