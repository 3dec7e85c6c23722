from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from benchmark import Attacker, measure
from entries import Protocol
from subjects import Target, defence_of, group_of, parameters_of, target_of
from torch import nn

from servax.attacks import PGD
from servax.corpora import COLUMNS, Corpus, Fold
from servax.defences import Defended, MeanFilter
from servax.errors import SettingError
from servax.evaluation.engine import Identity, run
from servax.evaluation.records import UNDEFENDED
from servax.evaluation.systems import System, before
from servax.features import (
    Dataset,
    Features,
    FrontEndSettings,
    LogMelSettings,
    Scale,
    ScaleSettings,
)
from servax.models import VGG16, save_network
from servax.training import Compute, global_seed

LABELS = ("angry", "happy", "neutral", "sad")
MELS, FRAMES = 32, 32
FRONT_END = FrontEndSettings(LogMelSettings(mels=MELS), frames=FRAMES)
PROTOCOL = Protocol(epsilons=(0.02, 0.1), step=0.04, radius=0.1, steps=3)
ATTACKER = Attacker(radii=(0.05, 0.2), steps=3, restarts=2, utterances=8)


class Bands(nn.Module):
    """A recogniser that looks at the means of the Mel bins."""

    def __init__(self) -> None:
        super().__init__()
        with global_seed(0, "bands"):
            self.layer = nn.Linear(MELS, len(LABELS))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = 20 * self.layer(x.mean(3)[:, 0])
        return logits


def made(speakers: list[str]) -> tuple[Corpus, Features]:
    draws = np.random.default_rng(0)
    count = 4 * len(speakers)
    names = [f"u{i:03d}" for i in range(count)]
    table = pd.DataFrame(dict.fromkeys(COLUMNS, ""), index=range(count))
    table["utterance"] = names
    table["file"] = names
    table["label"] = table["emotion"] = [LABELS[i % 4] for i in range(count)]
    table["speaker"] = [speakers[i // 4] for i in range(count)]
    table["start"], table["end"] = 0.0, float("nan")
    decibels = draws.normal(-50.0, 15.0, (count, MELS, FRAMES)).astype(np.float32)
    for row in range(count):
        decibels[row, 4 * (row % 4) : 4 * (row % 4) + 4] += 25.0
    corpus = Corpus("made", Path(), "four", LABELS, table)
    return corpus, Features(decibels, tuple(names))


def make_target() -> Target:
    corpus, features = made(["a", "b", "c", "d", "e"])
    scale = Scale(ScaleSettings(top_db=0.0))
    system = System(
        name=UNDEFENDED,
        model=Bands().eval(),
        labels=LABELS,
        front_end=FRONT_END,
        scale=scale,
        fingerprint="f",
    )
    test = Dataset(corpus, features, scale)
    return Target(system=system, name="bands", group=2, test=test, features=features)


TARGET = make_target()
MEAN = {s: before(TARGET.system, MeanFilter(s), "mean-filter") for s in (3, 5)}
DEFENCES = {"mean-filter": MEAN, "undefended": {}}


def test_oblivious_rows_are_those_of_the_protocol() -> None:
    found = measure(TARGET, DEFENCES, PROTOCOL, ATTACKER)
    for seed, defence in DEFENCES["mean-filter"].items():
        expected = run(
            [TARGET.system, defence],
            PROTOCOL.grid().oblivious(),
            TARGET.test,
            identity=Identity("bands", 2, seed),
            compute=Compute("cpu"),
        ).frame
        rows = found["mean-filter"]
        rows = rows[(rows["seed"] == seed) & rows["knowledge"].isin(["none", "oblivious"])]
        order = ["defence", "attack", "strength", "utterance"]
        pd.testing.assert_frame_equal(
            rows.sort_values(order, ignore_index=True),
            expected.sort_values(order, ignore_index=True),
        )
    assert set(found["undefended"]["defence"]) == {"undefended"}


def test_the_adaptive_attacker_goes_through_the_defence_and_is_stronger_than_one_start() -> None:
    found = measure(TARGET, DEFENCES, PROTOCOL, ATTACKER)["mean-filter"]
    rows = found[(found["attack"] == "pgd-restarts-3x2") & (found["seed"] == 3)]
    assert set(rows["knowledge"]) == {"adaptive"}
    assert rows.groupby("strength").size().to_dict() == {0.05: 8, 0.2: 8}
    assert rows["label"].value_counts().tolist() == [4, 4, 4, 4]  # two radii, classes equal
    # One start from the clean inputs, utterance by utterance, breaks no more than half as much.
    system = Defended(TARGET.system.model, MeanFilter(3))
    names = TARGET.test.corpus.utterances["utterance"].tolist()
    for radius in (0.05, 0.2):
        chosen = rows[rows["strength"] == radius]
        batch = TARGET.test.batch(np.array([names.index(n) for n in chosen["utterance"]]))
        x = PGD(step=radius / 4, epsilon=radius, steps=3)(system, batch.x, batch.y)
        single = int((system(x).argmax(1) == batch.y).sum())
        kept = int((chosen["prediction"] == chosen["label"]).sum())
        clean = int((system(batch.x).argmax(1) == batch.y).sum())
        assert kept <= clean
        assert abs(kept - single) <= 2


def folds_of(corpus: Corpus) -> list[Fold]:
    part = {name: corpus.subset(speakers=[name]) for name in "abcd"}
    both = corpus.subset(speakers=["a", "b"])
    folds = [Fold.__new__(Fold) for _ in range(2)]  # recordings are made up: no leak to look for
    for index, (train, test) in enumerate(((corpus.subset(speakers=["c", "d"]), "a"), (both, "d"))):
        values = {"index": index, "train": train, "validation": part["b"], "test": part[test]}
        for name, value in values.items():
            object.__setattr__(folds[index], name, value)
    return folds


def saved(folder: Path, speakers: list[str], labels: tuple[str, ...] = LABELS) -> str:
    with global_seed(0, "weights"):
        network = VGG16(len(labels), 2)
    extra = {
        "role": "recogniser",
        "labels": list(labels),
        "speakers": speakers,
        "scale": {"top_db": 0.0, "window_db": 80.0},
        "front_end": {"frames": FRAMES, "logmel": {"mels": MELS}},
    }
    save_network(network, folder, extra=extra)
    return str(folder)


def test_a_recogniser_is_measured_only_on_whom_it_has_not_heard(tmp_path: Path) -> None:
    corpus, _ = made(list("abcd"))
    folds = folds_of(corpus)
    own = saved(tmp_path / "own" / "model", ["a", "b"])
    assert group_of(own, folds) == group_of(str(tmp_path / "own"), folds) == 2
    with pytest.raises(SettingError, match="it has heard a"):
        target_of(own, corpus, folds, group=1)
    with pytest.raises(SettingError, match="a group from 1 to 2"):
        target_of(own, corpus, folds, group=3)
    other = saved(tmp_path / "other", ["a"])
    with pytest.raises(SettingError, match="FOLDER@GROUP"):
        group_of(other, folds)
    # A stage of a run says of which fold it is.
    told = json.dumps({"settings": json.dumps({"fold": folds[0].hash})})
    stage = saved(tmp_path / "stage" / "model", [])
    (tmp_path / "stage" / "done.json").write_text(told, encoding="utf-8")
    assert group_of(stage, folds) == 1
    three = saved(tmp_path / "three", [], LABELS[:3])
    with pytest.raises(SettingError, match="a recogniser of the classes angry, happy"):
        target_of(three, corpus, folds, group=1)


def test_defences_are_built_from_names_and_folders(tmp_path: Path) -> None:
    built = defence_of("mean-filter:{seed}", TARGET, seed=5)
    assert isinstance(built.front, MeanFilter)
    assert built.front.size == 5
    assert parameters_of("mean-filter:{seed}", TARGET, seed=5) is None
    folder = saved(tmp_path / "group-2", [])
    built = defence_of(str(tmp_path / "group-{group}"), TARGET, seed=0)
    assert built.front is None
    with global_seed(0, "weights"):
        told = parameters_of(str(tmp_path / "group-{group}"), TARGET, seed=0)
        assert told == sum(p.numel() for p in VGG16(4, 2).parameters())
    assert built.fingerprint != defence_of("mean-filter:3", TARGET, seed=0).fingerprint
    heard = saved(tmp_path / "heard", ["b"])
    for what, sentence in {
        heard: "it has heard b",
        "mean-filtre:3": r"expected the folder of a purifier .*Did you mean 'mean-filter'",
        "mean-filter:x": "mean-filter:VALUE, an odd size",
        "mean-filter:3.5": "mean-filter:VALUE, an odd size",
        "low-pass:100": "one that takes logmel as the model does",
    }.items():
        with pytest.raises(SettingError, match=sentence):
            defence_of(what, TARGET, seed=0)
    assert folder


@pytest.mark.parametrize(
    ("given", "sentence"),
    [({"radii": ()}, "at least one"), ({"utterances": 0}, "at least one"), ({"steps": 0}, "steps")],
)
def test_an_attacker_without_effort_is_refused(given: dict[str, object], sentence: str) -> None:
    with pytest.raises(SettingError, match=sentence):
        Attacker(**given)  # type: ignore[arg-type]
