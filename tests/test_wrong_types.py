"""What is of the wrong type is refused in a sentence, wherever the public names are handed it."""

from __future__ import annotations

import dataclasses
import importlib
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import servax as sx
from servax import attacks, audio, defences, features, models, purifier, runtime
from servax.errors import ServaxError, SettingError, ShapeError
from servax.evaluation.threats import Budget
from servax.kinds import typed
from servax.perturbation import L2, Linf, PsychoacousticMask, SignalToNoise, into_reach

PACKAGES = ("attacks", "defences", "features", "models", "purifier", "perturbation", "training")
SETTINGS = ("evaluation.dataset", "evaluation.suites")
NUMBERS = {"int", "float", "bool", "int | None", "float | None"}
WRONG: tuple[Any, ...] = ("text", None, [], object(), np.zeros((2, 3)), {"a": 1}, [[1, 2], [3]])
OTHERS = {
    "Attack",
    "BallAttack",
    "Batch",
    "ChosenHead",
    "Corpus",
    "Effort",
    "Ensemble",
    "EvaluationSet",
    "Fitted",
    "Fold",
    "Found",
    "Outcome",
    "Problem",
    "Progress",
    "QueryAttack",
    "Schedule",
    "SingleStep",
    "Stored",
    "Suite",
    "System",
    "Team",
    "Threat",
}
"""Made by servax, not by those who use it, or abstract."""


def settings() -> list[type]:
    """Return the public dataclasses whose values people choose."""
    found: dict[type, None] = {}
    for package in (*PACKAGES, *SETTINGS):
        module = importlib.import_module(f"servax.{package}")
        for name in getattr(module, "__all__", vars(module)):
            value = getattr(module, name)
            if isinstance(value, type) and dataclasses.is_dataclass(value) and name not in OTHERS:
                found[value] = None
    return [kind for kind in found if kind.__module__.startswith("servax")]


REQUIRED: dict[str, dict[str, Any]] = {
    "WaveformPGD": {"epsilon": 0.01},
    "Restarts": {"attack": attacks.PGD()},
    "Foolbox": {"attack": "LinfPGD"},
    "ZScoreSettings": {"mean": (0.0,), "sd": (1.0,)},
    "ScaleSettings": {"top_db": 0.0},
    "Linf": {"radius": 0.1},
    "L2": {"radius": 0.1},
    "SignalToNoise": {"decibels": 20.0},
    "PsychoacousticMask": {"sample_rate": 16_000},
    "Selection": {"corpus": "synthetic"},
    "Noise": {"snr_db": 15.0},
    "NoiseTraining": {"standard_deviation": 0.1},
    "NoisyCopy": {
        "lowest_snr_db": 5.0,
        "highest_snr_db": 40.0,
        "shift_seconds": 0.5,
        "seed": 0,
        "number": 1,
    },
    "Suite": {"tier": "smoke", "budget": Budget()},
}


@pytest.mark.parametrize("kind", settings(), ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_numbers_and_switches_of_settings(kind: type) -> None:
    given = REQUIRED.get(kind.__name__, {})
    for field in dataclasses.fields(kind):
        if not field.init or str(field.type) not in NUMBERS:
            continue
        for wrong in WRONG:
            if wrong is None and str(field.type).endswith("None"):
                continue
            with pytest.raises(ServaxError, match=r".+, expected .+\."):
                kind(**{**given, field.name: wrong})


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


X = torch.rand(2, 1, 6, 8, generator=generator())
Y = torch.tensor([0, 1])
MEL = torch.rand(1, 1, 64, 40, generator=generator())
WAVES = torch.rand(2, 1_600, generator=generator())
MODEL = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
SAME = nn.Identity()
SCALE = sx.Scale(features.ScaleSettings(top_db=0.0))
PURIFIER = sx.Purifier(SAME, SCALE).eval()
LIGHT = runtime.Purifier(
    SimpleNamespace(
        get_inputs=lambda: [SimpleNamespace(name="x")],
        run=lambda _, given: [given["x"]],
    ),
    rate=16_000,
    clip_seconds=6.0,
)
"""A purifier without torch around a session that changes nothing."""
SOUND = {"path": "there.wav", "start": 0.0, "end": None}
FACED = {"model": MODEL, "x": X, "y": Y, "generator": generator(), "mask": None}
SIGMA = {"standard_deviation": 0.1, "generator": generator()}

CALLS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "an attack": (attacks.PGD(), FACED),
    "a query attack": (attacks.Square(queries=3), FACED),
    "counted": (attacks.Square(queries=3).counted, FACED),
    "an ensemble": (attacks.Restarts(attacks.PGD(), 1).run, FACED),
    "trajectory": (lambda **given: list(attacks.PGD().trajectory(**given)), FACED),
    "sweep": (
        lambda **given: list(attacks.FGSM().sweep(**given)),
        {"model": MODEL, "x": X, "y": Y, "epsilons": [0.1]},
    ),
    "class_loss": (lambda **given: attacks.class_loss(**given)(X), {"model": MODEL, "y": Y}),
    "Counting": (attacks.Counting, {"model": MODEL}),
    "FastGradients": (attacks.FastGradients, {"model": MODEL}),
    "a preset of foolbox": (
        attacks.Foolbox.preset,
        {"name": "nearest", "steps": 3, "epsilon": 0.1},
    ),
    "Defended": (sx.Defended, {"model": MODEL, "defence": SAME}),
    "a defended model": (sx.Defended(MODEL, SAME), {"x": X}),
    "Bpda": (defences.Bpda, {"model": MODEL, "defence": SAME}),
    "a model behind BPDA": (defences.Bpda(MODEL, SAME), {"x": X}),
    "ExpectationOverDraws": (defences.ExpectationOverDraws, {"model": MODEL, "draws": 2}),
    "SameDraws": (defences.SameDraws, {"model": MODEL}),
    "an expectation": (defences.ExpectationOverDraws(MODEL, 2), {"x": X}),
    "Detector": (defences.Detector, {"purifier": SAME, "model": MODEL, "threshold": 0.1}),
    "a detector": (defences.Detector(SAME, MODEL), {"x": X}),
    "threshold_at": (
        defences.threshold_at,
        {"clean_scores": [0.1, 0.2], "false_positive_rate": 0.1},
    ),
    "Smoothed": (defences.Smoothed, {"model": MODEL, "draws": 2, **SIGMA}),
    "certify": (
        defences.certify,
        {"model": MODEL, "x": X, "draws_to_select": 2, "draws_to_estimate": 4, **SIGMA},
    ),
    "certify_sound": (
        defences.certify_sound,
        {
            "model": nn.Linear(1_600, 3),
            "x": WAVES,
            "noise_db": 20.0,
            "draws_to_select": 2,
            "draws_to_estimate": 4,
            "generator": SIGMA["generator"],
        },
    ),
    "draws_until_flat": (defences.draws_until_flat, {"model": MODEL, "x": X, "y": Y}),
    "GaussianNoise": (defences.GaussianNoise, SIGMA),
    "MeanFilter": (defences.MeanFilter, {"size": 3}),
    "MedianFilter": (defences.MedianFilter, {"size": 3}),
    "Quantise": (defences.Quantise, {"bits": 3}),
    "WhiteNoise": (defences.WhiteNoise, {"snr_db": 20.0, "generator": generator()}),
    "RNNoise": (defences.RNNoise, {"sample_rate": 16_000}),
    "LowPass": (defences.LowPass, {"sample_rate": 16_000, "cutoff": 3_000.0}),
    "Resample": (defences.Resample, {"sample_rate": 16_000, "down_to": 8_000}),
    "FrontEnd": (sx.FrontEnd, {"settings": None}),
    "a front-end": (sx.FrontEnd(), {"waveform": WAVES}),
    "LogMel": (sx.LogMel, {"settings": None}),
    "a log-Mel": (sx.LogMel(), {"waveform": WAVES}),
    "Scale": (sx.Scale, {"settings": SCALE.settings}),
    "a scale": (SCALE, {"logmel_db": X}),
    "Scale.fit": (sx.Scale.fit, {"logmels": [np.zeros((3, 4))], "window_db": 80.0}),
    "ZScore": (features.ZScore, {"settings": features.ZScoreSettings((0.0,), (1.0,))}),
    "ZScore.fit": (features.ZScore.fit, {"logmels": [np.zeros((3, 4))], "width_sd": 6.0}),
    "fit_frames": (features.fit_frames, {"logmel": X, "frames": 5}),
    "set_level": (features.set_level, {"waveform": WAVES, "level_dbfs": -26.0}),
    "Purifier": (sx.Purifier, {"network": SAME, "scale": SCALE, "front_end": None}),
    "a purifier": (PURIFIER, {"x": MEL}),
    "purify": (PURIFIER.purify, {"sound": np.zeros(16_000), "sample_rate": 16_000}),
    "stream": (
        PURIFIER.stream,
        {"sample_rate": 16_000, "hop_seconds": 0.5, "look_ahead_seconds": 0.25},
    ),
    "from_pretrained": (sx.Purifier.from_pretrained, {"pretrained_model_name_or_path": "no where"}),
    "save_pretrained": (
        sx.Purifier(models.UNet(8, 1), SCALE).save_pretrained,
        {"save_directory": "purifier"},
    ),
    "generate_model_card": (
        PURIFIER.generate_model_card,
        {"license": None, "datasets": ["emodb"], "language": None},
    ),
    "save_network": (models.save_network, {"network": models.UNet(8, 1), "folder": "net"}),
    "purify without torch": (LIGHT.purify, {"sound": np.zeros(16_000), "sample_rate": 16_000}),
    "NoiseWiener": (
        defences.NoiseWiener,
        {"snr_db": 20.0, "generator": generator(), "sample_rate": 16_000},
    ),
    "runtime.NoiseWiener": (
        runtime.NoiseWiener,
        {"snr_db": 20.0, "generator": np.random.default_rng(0)},
    ),
    "a live stream of noise": (
        runtime.NoiseWiener(20.0).stream,
        {"sample_rate": 16_000, "level_dbfs": -26.0},
    ),
    "runtime.Purifier": (
        runtime.Purifier,
        {"session": LIGHT._session, "rate": 16_000, "clip_seconds": 6.0},
    ),
    "load without torch": (runtime.Purifier.load, {"where": "none.onnx", "threads": None}),
    "audio.read": (audio.read, {**SOUND, "sample_rate": 16_000}),
    "audio.inspect": (audio.inspect, SOUND),
    "audio.duration_seconds": (audio.duration_seconds, {"path": "there.wav"}),
    "audio.opened": (lambda path: audio.opened(path).__enter__(), {"path": "there.wav"}),
    "audio.write": (
        audio.write,
        {"path": "a.wav", "waveform": np.zeros(9), "sample_rate": 16_000.0} | {"subtype": "FLOAT"},
    ),
    "SoundPurifier": (sx.SoundPurifier, {"purifier": PURIFIER, "sample_rate": 16_000}),
    "a purifier of sound": (sx.SoundPurifier(PURIFIER, 16_000), {"waveform": WAVES}),
    "WaveformClassifier": (sx.WaveformClassifier, {"logmel": SAME, "classifier": MODEL}),
    "a classifier of sound": (
        sx.WaveformClassifier(sx.FrontEnd(), nn.Flatten()),
        {"waveform": WAVES},
    ),
    "VGG16": (models.VGG16, {"classes": 4, "width": 4}),
    "ResNet": (models.ResNet, {"classes": 4, "width": 4}),
    "CRNN": (models.CRNN, {"classes": 4, "width": 4}),
    "UNet": (models.UNet, {"width": 8, "bound": 0.1}),
    "a VGG16": (models.VGG16(4, 4).eval(), {"x": MEL}),
    "a ResNet": (models.ResNet(4, 4).eval(), {"x": MEL}),
    "a CRNN": (models.CRNN(4, width=4).eval(), {"x": MEL}),
    "a UNet": (models.UNet(8).eval(), {"x": MEL}),
    "a frame transformer": (models.FrameTransformer().eval(), {"x": MEL}),
    "a discriminator": (models.Discriminator().eval(), {"x": MEL}),
    "load_network": (models.load_network, {"folder": "nowhere"}),
    "frozen": (models.frozen, {"network": MODEL}),
    "SSA": (
        purifier.SSA(steps=1),
        {"extractor": MODEL, "x": X, "features": torch.zeros(2, 3), "generator": generator()},
    ),
    "DecisionSSA": (
        purifier.DecisionSSA(steps=1),
        {"surrogate": MODEL, "x": X, "logits": torch.zeros(2, 3), "generator": generator()},
    ),
    "preset": (purifier.preset, {"name": "ssad"}),
    "Linf": (Linf, {"radius": 0.1}),
    "L2": (L2, {"radius": 0.1}),
    "SignalToNoise.around": (SignalToNoise(20.0).around, {"x": X}),
    "a masking threshold": (PsychoacousticMask(sample_rate=16_000).around, {"x": WAVES}),
    "into_reach": (into_reach, {"x": X, "moved": X, "ball": Linf(0.1), "bounds": (0.0, 1.0)}),
    "load a corpus": (
        sx.corpora.load,
        {"name": "none", "root": None, "scheme": "native", "limit": None},
    ),
    "folder": (sx.pretrained.folder, {"name": "crnn-synthetic"}),
    "uar": (sx.metrics.uar, {"labels": ["a"], "predictions": ["a"]}),
    "protection_efficacy": (
        sx.metrics.protection_efficacy,
        {"labels": ["a"], "clean": ["a"], "attacked": ["a"], "protected": ["a"]},
    ),
    "confusion": (sx.metrics.confusion, {"labels": ["a"], "predictions": ["a"], "classes": ["a"]}),
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Go where the calls of the table may write, and where there is a sound."""
    monkeypatch.chdir(tmp_path)
    audio.write("there.wav", np.zeros(900), 16_000)


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(("call", "given"), CALLS.values(), ids=CALLS.keys())
def test_every_argument_of_every_call(call: Callable[..., Any], given: dict[str, Any]) -> None:
    for name, right in given.items():
        refused, told = 0, []
        for wrong in WRONG:
            if wrong is None and right is None:
                continue
            try:
                call(**{**given, name: wrong})
            except ServaxError as error:
                refused += 1
                told.append(str(error))
        assert refused >= 4, f"{name} takes anything"
        assert all(sentence.endswith((".", "?")) and "\n" not in sentence for sentence in told)


@pytest.mark.usefixtures("place")
def test_the_table_calls_each_with_something_right() -> None:
    no_such = {
        "load",
        "load without torch",
        "from_pretrained",
        "load_network",
        "load a corpus",
        "fit",
    }
    for name, (call, given) in CALLS.items():
        if name not in no_such:
            call(**given)


@pytest.mark.parametrize(
    ("x", "y", "sentence"),
    [
        (X.numpy(), Y, r"x is 'ndarray', expected a torch\.Tensor; torch\.as_tensor makes one"),
        (X.tolist(), Y, r"x is 'list', expected a torch\.Tensor"),
        (X, [0, 1], r"y is 'list', expected a torch\.Tensor"),
        (X, Y.numpy(), r"y is 'ndarray', expected a torch\.Tensor"),
        (X, nn.functional.one_hot(Y, 3), r"y has shape \(2, 3\), expected \(2,\) class indices"),
        (X, Y.float(), r"the type of y is torch\.float32, expected torch\.int64"),
        (X, Y + 5, r"y is 'in \[5, 6\]', expected classes in \[0, 2\]"),
        (X.long(), Y, r"the type of x is torch\.int64, expected a floating-point type"),
    ],
)
def test_what_people_hand_to_an_attack(x: Any, y: Any, sentence: str) -> None:
    for attack in (attacks.PGD(), attacks.FGSM(), attacks.Square(queries=3), attacks.APGD(steps=2)):
        with pytest.raises(ServaxError, match=sentence):
            attack(MODEL, x, y, generator=generator())


def test_a_model_that_is_none() -> None:
    for model in (lambda x: x, nn.Linear, MODEL.state_dict(), "model.pt"):
        with pytest.raises(SettingError, match=r"model is '\w+', expected a torch\.nn\.Module"):
            attacks.PGD()(model, X, Y)
        with pytest.raises(SettingError, match=r"model is '\w+', expected a torch\.nn\.Module"):
            sx.Defended(model, SAME)


def test_masks_of_other_types() -> None:
    for mask in (np.ones((2, 1, 6, 8), dtype=bool), [[True]], 1):
        with pytest.raises(SettingError, match=r"mask is '\w+', expected a torch\.Tensor"):
            attacks.PGD()(MODEL, X, Y, mask=mask)
    with pytest.raises(SettingError, match=r"the type of the mask is torch\.float32"):
        attacks.PGD()(MODEL, X, Y, mask=torch.ones(2, 1, 6, 8))


def test_a_typed_function_is_the_function() -> None:
    @typed
    def scaled(x: float, *, by: int = 2, name: str | None = None) -> float:
        """Return x times `by`."""
        return x * by

    assert scaled(1.5) == 3.0
    assert scaled(np.float32(2.0), by=np.int64(3), name=None) == 6.0  # type: ignore[arg-type]
    assert scaled.__doc__ == "Return x times `by`."
    for given in ({"x": "1"}, {"x": 1, "by": 2.5}, {"x": True}, {"x": 1, "name": 3}):
        with pytest.raises(SettingError, match="expected a"):
            scaled(**given)


def test_numbers_that_only_look_right(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    for call, sentence in (
        (
            lambda: audio.write(path, np.zeros(9), 16_000.5),
            "sample_rate is 16000.5, expected a whole",
        ),
        (
            lambda: audio.write(path, np.zeros(9), "16000"),
            "sample_rate is '16000', expected a number",
        ),
        (lambda: audio.write(path, np.zeros(9, complex), 16_000), "waveform is 'complex128'"),
        (lambda: audio.write(path, np.zeros(9, np.int16), 16_000), "waveform is 'int16'"),
        (lambda: audio.write(path, [[0.0], [0.0, 1.0]], 16_000), "waveform is 'list'"),
        (lambda: audio.read(path, sample_rate=8_000.5), "sample_rate is 8000.5, expected a whole"),
        (lambda: audio.created(path, "16k"), "sample_rate is '16k', expected a number"),
        (lambda: audio.created(path, 16_000, 1.5), "channels is 1.5, expected a whole number"),
        (lambda: runtime.Purifier.load(path, threads="2"), "threads is '2', expected a number"),
        (lambda: runtime.Purifier.load(path, threads=1.5), "threads is 1.5, expected a whole"),
    ):
        with pytest.raises(SettingError, match=sentence):
            call()
    assert not path.exists()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble, ">f4"])
def test_any_floating_point_type_is_written(tmp_path: Path, dtype: Any) -> None:
    audio.write(tmp_path / "a.wav", np.array([0.5, -0.25], dtype), np.int64(16_000))
    np.testing.assert_array_equal(audio.read(os.fspath(tmp_path / "a.wav")), [0.5, -0.25])


NETWORKS = [
    call for call, given in CALLS.values() if given.get("x") is MEL and call is not PURIFIER
]


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: type(network).__name__)
def test_spectrograms_of_no_frames_and_of_another_type(network: nn.Module) -> None:
    whole = [network]
    if isinstance(network, models.UNet | models.FrameTransformer):
        whole.append(sx.Purifier(network, SCALE))
    for each in whole:
        with pytest.raises(ShapeError, match=r"x has shape \(1, 1, 64, 0\), expected \(B, 1, "):
            each(MEL[..., :0])
        sentence = r"the type of x is torch\.float64, expected torch\.float32, that of the weights"
        with pytest.raises(SettingError, match=sentence):
            each(MEL.double())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            each(MEL)
        if isinstance(network, models.UNet):
            with pytest.raises(ShapeError, match=r"expected \(B, 1, M, F\) of at least one"):
                each(MEL[:0])


@pytest.mark.parametrize(
    "heard",
    [sx.FrontEnd(), sx.LogMel(), sx.SoundPurifier(PURIFIER, 16_000)],
    ids=lambda h: type(h).__name__,
)
def test_waveforms_of_another_type_and_none_at_all(heard: nn.Module) -> None:
    with pytest.raises(ShapeError, match=r"waveform has shape \(0, 1600\), expected \(B, T\)"):
        heard(WAVES[:0])
    sentence = r"the type of waveform is torch\.float64, expected torch\.float32, that of the"
    with pytest.raises(SettingError, match=sentence):
        heard(WAVES.double())
    assert torch.isfinite(heard(WAVES.half())).all()  # narrower ones are widened
