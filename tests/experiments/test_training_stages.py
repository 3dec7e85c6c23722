from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from servax.errors import SettingError
from servax.experiments import load_recipe
from servax.experiments.fold import RunData
from servax.experiments.logmel_fold import FoldPlan
from servax.experiments.training import (
    Parts,
    Session,
    epochs_note,
    train_purifier,
    train_recogniser,
)
from servax.models import (
    CRNN,
    VGG16,
    FrameTransformerSettings,
    NetworkName,
    ResNet,
)
from servax.purifier import Purifier
from servax.recognition import Recogniser
from servax.stages import Watcher
from servax.training import Compute, Progress

CPU = Compute("cpu")


@pytest.fixture
def parts(recipe_file: Path, tmp_path: Path) -> Parts:
    data = RunData.of(load_recipe(recipe_file), tmp_path / "run", Watcher())
    return FoldPlan(data, 0, seed=0, origin={}).parts


def train(
    parts: Parts, recipe_file: Path, folder: Path, seed: int = 0, network: NetworkName = "vgg16"
) -> None:
    training = load_recipe(recipe_file).recogniser
    session = Session(folder, seed, "s", CPU)
    train_recogniser(session, parts, training, width=2, network=network)


def test_a_recogniser_is_kept_with_what_it_was_trained_on(
    parts: Parts, recipe_file: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    train(parts, recipe_file, tmp_path / "a")
    torch.manual_seed(1)  # weights follow from the seed alone
    train(parts, recipe_file, tmp_path / "b")
    train(parts, recipe_file, tmp_path / "c", seed=1)
    a, b, c = (Recogniser.from_pretrained(tmp_path / name / "model") for name in "abc")
    assert a.labels == ("angry", "happy", "neutral", "sad")
    assert a.scale.settings == parts.scale.settings
    assert a.front_end == parts.front_end
    assert not a.network.training
    weights = [r.network.state_dict()["features.conv1_1.weight"] for r in (a, b, c)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize(("network", "kind"), [("resnet", ResNet), ("crnn", CRNN)])
def test_another_network_is_trained_and_loaded(
    parts: Parts, recipe_file: Path, tmp_path: Path, network: NetworkName, kind: type
) -> None:
    torch.manual_seed(0)
    train(parts, recipe_file, tmp_path / "a", network=network)
    torch.manual_seed(1)  # weights and dropout follow from the seed alone
    train(parts, recipe_file, tmp_path / "b", network=network)
    found, again = (Recogniser.from_pretrained(tmp_path / name / "model") for name in "ab")
    assert type(found.network) is kind
    assert found.network.settings.width == 2
    assert found.labels == ("angry", "happy", "neutral", "sad")
    x = parts.test.batch(np.arange(3)).x
    assert torch.equal(found.network(x), again.network(x))
    given = "a VGG16, which has taps for features"
    sentence = f"extractor is '{kind.__name__}', expected {given}."
    with pytest.raises(SettingError, match=f"^{re.escape(sentence)}$"):
        _ = found.extractor


def test_an_unknown_network_is_refused_before_any_work(
    parts: Parts, recipe_file: Path, tmp_path: Path
) -> None:
    sentence = "network is 'resnet18', expected one of crnn, resnet, vgg16. Did you mean 'resnet'?"
    with pytest.raises(SettingError, match=f"^{re.escape(sentence)}$"):
        train(parts, recipe_file, tmp_path / "a", network="resnet18")  # type: ignore[arg-type]
    assert not (tmp_path / "a").exists()


def test_the_network_enters_the_key_of_the_target_only_where_it_is_no_vgg16(
    recipe_file: Path, tmp_path: Path
) -> None:
    """Results that were made before there were other networks stay valid."""
    recipe = load_recipe(recipe_file)
    usual, named, other = (
        FoldPlan(RunData.of(r, tmp_path, Watcher()), 0, seed=1, origin={})
        for r in (recipe, replace(recipe, network="vgg16"), replace(recipe, network="crnn"))
    )
    told = json.loads(usual.target.stage.settings)
    shared = {"fold", "content", "corpus", "front_end", "scale", "compute"}
    assert set(told) == shared | {"kind", "width", "training", "seed"}
    assert named.target.stage.key == usual.target.stage.key
    assert json.loads(other.target.stage.settings) == {**told, "network": "crnn"}
    # All that is trained beside the target is a VGG-16, or reads one.
    for name, task in usual.networks.items():
        if name != "target":
            assert other.networks[name].stage.key == task.stage.key
    assert usual.identity.target == "vgg16-w2"
    assert other.identity.target == "crnn-w2"


def test_the_scale_is_fitted_on_training_speakers_only(parts: Parts) -> None:
    highest = max(float(b.x.max()) for b in parts.train.batches(8))
    assert highest == 1.0
    assert set(parts.train.corpus.speakers).isdisjoint(parts.test.corpus.speakers)
    tops = [parts.scale.inverse(b.x).max() for b in parts.train.batches(8)]
    assert float(max(tops)) == pytest.approx(parts.scale.settings.top_db, abs=1e-4)


def test_a_purifier_leaves_its_extractor_alone(
    parts: Parts, recipe_file: Path, tmp_path: Path
) -> None:
    recipe = load_recipe(recipe_file)
    extractor = VGG16(4, 2).eval()
    before = {name: value.clone() for name, value in extractor.state_dict().items()}
    preset = replace(recipe.chosen["ssad"], network=FrameTransformerSettings(blocks=1))
    session = Session(tmp_path, 0, "s", CPU)
    train_purifier(session, parts, extractor, preset, recipe.discriminator)
    for name, value in extractor.state_dict().items():
        assert torch.equal(value, before[name]), name
    purifier = Purifier.from_pretrained(tmp_path / "model")
    assert purifier.scale.settings == parts.scale.settings
    assert purifier.front_end == parts.front_end


def test_notes_beside_a_progress_bar() -> None:
    terms = {"train/loss": 1.0, "validation/loss": 0.98765, "validation/uar": 0.5}
    assert epochs_note(Progress(2, 10, 1, 5, {})) == "epoch 3/10"
    assert epochs_note(Progress(2, 10, 1, 5, terms)) == "epoch 3/10 loss 0.988 uar 0.500"
