"""What stands before a model, or in its place; what does not fit is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from servax.defences import (
    GaussianNoise,
    MeanFilter,
    MedianFilter,
    Quantise,
    Resample,
    RNNoise,
)
from servax.errors import CheckpointError, SettingError
from servax.evaluation.loading import load_system
from servax.evaluation.options import defended, surrogate
from servax.evaluation.records import UNDEFENDED
from servax.evaluation.systems import System
from servax.features import FrontEndSettings, LogMelSettings, Scale, ScaleSettings
from servax.models import VGG16, FrameTransformer, save_network
from servax.purifier import Purifier
from servax.training import generator, global_seed

FRONT_END = FrontEndSettings(logmel=LogMelSettings(mels=32), frames=40)


@pytest.fixture
def subject(own: str) -> System:
    return load_system(f"{own}:Bands")


@pytest.fixture
def sound(own: str) -> System:
    return load_system(f"{own}:Sound")


def purifier(
    folder: Path,
    *,
    residual: bool = True,
    top_db: float = 20.0,
    front_end: FrontEndSettings = FRONT_END,
) -> Path:
    """Write an untrained purifier whose weights are always the same ones."""
    with global_seed(0, "weights"):
        network = FrameTransformer(mels=32, blocks=1, heads=2, feedforward=16, residual=residual)
    scale = Scale(ScaleSettings(top_db=top_db))
    Purifier(network, scale, front_end).save_pretrained(folder)
    return folder


def recogniser(folder: Path, labels: tuple[str, ...], **changes: Any) -> Path:
    extra = {
        "role": "recogniser",
        "labels": list(labels),
        "front_end": {"frames": 40, "logmel": {"mels": 32}},
        "scale": {"top_db": 20.0, "window_db": 80.0},
    }
    with global_seed(9, "weights"):
        save_network(VGG16(classes=len(labels), width=2), folder, extra=extra | changes)
    return folder


@pytest.mark.parametrize(
    ("wanted", "name", "module"),
    [
        ("mean-filter:3", "mean-filter-3", MeanFilter(3)),
        ("smooth=median-filter:3", "smooth", MedianFilter(3)),
        ("quantise:4", "quantise-4", Quantise(4)),
    ],
)
def test_a_transform_stands_before_the_model(
    subject: System, wanted: str, name: str, module: torch.nn.Module
) -> None:
    x = torch.rand(2, 1, 32, 40, generator=generator(0, "x"))
    system = defended(subject, wanted, seed=0)
    assert system.name == name
    assert torch.equal(system.model(x), subject.model(module(x)))
    assert system.exact == (not isinstance(module, Quantise))
    assert system.fingerprint not in ("", subject.fingerprint)


def test_noise_is_drawn_from_the_seed_and_the_name(subject: System) -> None:
    x = torch.full((1, 1, 32, 40), 0.5)
    found = defended(subject, "gaussian-noise:0.1", seed=3).model(x)
    draws = generator(3, "defence", "gaussian-noise-0.1")
    assert torch.equal(found, subject.model(GaussianNoise(0.1, draws)(x)))


def test_a_transform_of_waveforms_stands_before_a_model_of_waveforms(sound: System) -> None:
    x = 0.1 * torch.randn(2, 3000, generator=generator(0, "x"))
    system = defended(sound, "resample:8000", seed=0)
    assert torch.equal(system.model(x), sound.model(Resample(16_000, 8000)(x)))
    assert not defended(sound, "mp3:0.5", seed=0).exact


def test_a_denoiser_is_named_without_a_number(sound: System) -> None:
    x = 0.1 * torch.randn(2, 3000, generator=generator(0, "x"))
    system = defended(sound, "rnnoise", seed=0)
    assert (system.name, system.source, system.exact) == ("rnnoise", "rnnoise", False)
    assert torch.equal(system.model(x), sound.model(RNNoise(16_000)(x)))
    assert defended(sound, "quiet=rnnoise", seed=0).name == "quiet"
    sentence = r"^defence is 'rnnoise:3', expected rnnoise alone, it takes no number\.$"
    with pytest.raises(SettingError, match=sentence):
        defended(sound, "rnnoise:3", seed=0)


def test_a_purifier_stands_before_the_model(subject: System, tmp_path: Path) -> None:
    x = torch.rand(2, 1, 32, 40, generator=generator(0, "x"))
    folder = purifier(tmp_path / "ssad" / "model")
    expected = subject.model(Purifier.from_pretrained(folder)(x))
    for wanted in (str(folder), str(folder.parent), f"ssad={folder}"):
        system = defended(subject, wanted, seed=0)
        assert system.name == "ssad"
        torch.testing.assert_close(system.model(x), expected)
    assert system.exact


def test_what_a_purifier_puts_out_is_part_of_what_it_is(subject: System, tmp_path: Path) -> None:
    places = [purifier(tmp_path / name) for name in "ab"]
    told = places[1] / "settings.json"
    told.write_text(told.read_text().replace('"residual": true', '"residual": false'))
    weights = [(place / "weights.safetensors").read_bytes() for place in places]
    assert weights[0] == weights[1]
    prints = {defended(subject, str(place), seed=0).fingerprint for place in places}
    assert len(prints) == 2


def test_a_recogniser_stands_in_the_place_of_the_model(
    subject: System, models: Mapping[str, Path]
) -> None:
    x = torch.rand(2, 1, 32, 40, generator=generator(0, "x"))
    system = defended(subject, str(models["twin"]), seed=0)
    assert system.front is None
    expected = load_system(str(models["twin"]))
    torch.testing.assert_close(system.model(x), expected.model(x))
    assert system.fingerprint == expected.fingerprint


def test_the_model_itself_is_called_undefended(subject: System) -> None:
    assert replace(subject, name=UNDEFENDED).name == "undefended"
    assert replace(subject, shut="it rounds").gradients is False


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        ("mean-filter", "is 'mean-filter', expected a number too: mean-filter:3, an odd size"),
        ("x=gaussian-noise:", "expected a number too: gaussian-noise:0.02, sd in"),
        ("median-filter", "expected a number too: median-filter:3, an odd size"),
        ("quantise", "expected a number too: quantise:4, whole bits"),
        ("mean-filter:wide", "expected mean-filter:VALUE, an odd size"),
        ("mean-filter:3.5", "'mean-filter:3.5', expected mean-filter:VALUE, an odd size"),
        ("mean-filter:nan", "expected mean-filter:VALUE"),
        ("quantise:inf", "expected quantise:VALUE, whole bits"),
        ("mean-filter:4", "size is 4, expected an odd whole number"),
        ("quantise:17", "bits is 17"),
        ("gaussian-noise:-1", r"standard_deviation is -1.0, expected a number in \(0, 1\]"),
        ("mean-fliter:3", r"one of gaussian-noise:VALUE, .*Did you mean 'mean-filter'\?"),
        ("low-pass:4000", "expected one that takes logmel as the model does, not waveform"),
        ("undefended=mean-filter:3", "a name is 'undefended', expected another"),
        ("../up=mean-filter:3", "a name is '../up', expected letters"),
        ("nowhere", "the folder of a purifier or of a recogniser that servax has trained"),
    ],
)
def test_a_defence_that_makes_no_sense_is_refused(
    subject: System, wanted: str, sentence: str
) -> None:
    with pytest.raises(SettingError, match=sentence):
        defended(subject, wanted, seed=0)


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        ("mean-filter:3", "expected one that takes waveform as the model does, not logmel"),
        ("low-pass:9000", r"cutoff is 9000.0, expected a frequency in \(0, 8000\) Hz"),
        ("resample:16000", "down_to is 16000, expected a rate below"),
        ("mp3:2", r"quality is 2.0, expected a number in \[0, 1\]"),
    ],
)
def test_a_defence_of_waveforms_that_makes_no_sense_is_refused(
    sound: System, wanted: str, sentence: str
) -> None:
    with pytest.raises(SettingError, match=sentence):
        defended(sound, wanted, seed=0)


def test_a_purifier_of_another_corpus_stands_where_a_step_is_as_many_db(
    subject: System, tmp_path: Path
) -> None:
    other = purifier(
        tmp_path / "other", top_db=19.0, front_end=replace(FRONT_END, frames=41, fill="floor")
    )
    assert defended(subject, str(other), seed=0).source == str(other)


@pytest.mark.parametrize(
    "change",
    [
        {"level_dbfs": -20.0},
        {"logmel": replace(FRONT_END.logmel, f_min=FRONT_END.logmel.f_min + 10.0)},
    ],
)
def test_a_purifier_of_another_front_end_is_refused(
    subject: System, tmp_path: Path, change: dict[str, Any]
) -> None:
    heard = purifier(tmp_path / "heard", front_end=replace(FRONT_END, **change))
    with pytest.raises(SettingError, match="a purifier of the model's own log-Mel, level and"):
        defended(subject, str(heard), seed=0)


def test_a_recogniser_of_other_labels_or_another_scale_is_refused(
    subject: System, tmp_path: Path
) -> None:
    other = recogniser(tmp_path / "labels", (*subject.labels[:3], "calm"))
    scaled = recogniser(
        tmp_path / "scale", subject.labels, scale={"top_db": 19.0, "window_db": 80.0}
    )
    for folder in (other, scaled):
        with pytest.raises(SettingError, match="a recogniser with the labels, front-end and scale"):
            defended(subject, str(folder), seed=0)


def test_a_folder_of_something_else_is_refused(subject: System, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not say what the folder holds"):
        defended(subject, str(tmp_path), seed=0)
    (tmp_path / "settings.json").write_text(json.dumps({"extra": {"role": "discriminator"}}))
    with pytest.raises(SettingError, match="the folder of a purifier or of a recogniser"):
        defended(subject, str(tmp_path), seed=0)


def test_a_surrogate_has_weights_of_its_own(
    subject: System, models: Mapping[str, Path], tmp_path: Path, own: str
) -> None:
    assert surrogate(subject, str(models["other"])).name == "other"
    assert surrogate(subject, f"late={models['other']}").name == "late"
    trained = recogniser(tmp_path / "late" / "model", subject.labels)
    assert surrogate(subject, str(trained.parent)).name == "late"
    with pytest.raises(SettingError, match="weights of its own, not the audited one"):
        surrogate(subject, f"{own}:Bands")
    with pytest.raises(SettingError, match="a model with gradients that takes the same inputs"):
        surrogate(subject, f"shut={own}:Shut")
    with pytest.raises(SettingError, match="a model of the classes angry, happy, neutral, sad"):
        surrogate(subject, str(recogniser(tmp_path / "calm", (*subject.labels[:3], "calm"))))
    with pytest.raises(SettingError, match="inputs is 'logmel', expected 'waveform'"):
        surrogate(subject, f"sound={own}:Sound")


@pytest.mark.parametrize(
    ("defences", "surrogates", "name"),
    [
        (("mean-filter:3", "mean-filter:3"), (), "mean-filter-3"),
        (("a=mean-filter:3", "a=mean-filter:5"), (), "a"),
        (("other=mean-filter:3",), ("{other}",), "other"),
        ((), ("x={other}", "x={twin}"), "x"),
    ],
)
def test_two_of_one_name_are_refused(
    set_up: Any,
    models: Mapping[str, Path],
    tmp_path: Path,
    defences: tuple[str, ...],
    surrogates: tuple[str, ...],
    name: str,
) -> None:
    paths = {name: str(place) for name, place in models.items()}
    with pytest.raises(SettingError, match=f"a name is '{name}', expected a name for one system"):
        set_up(tmp_path, defences=defences, surrogates=[s.format(**paths) for s in surrogates])


def test_a_model_that_shuts_gradients_out_is_asked_only(own: str) -> None:
    assert load_system(f"{own}:Bands").gradients
    assert not load_system(f"{own}:Shut").gradients
