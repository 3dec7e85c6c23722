"""Published figures are what the packaged weights give, within half a point."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmark import sample
from entries import Protocol, Record, Training, read_all
from subjects import defence_of, target_of

from servax.attacks import FGSM, PGD
from servax.corpora import load
from servax.errors import SettingError
from servax.pretrained import PURIFIER, RECOGNISER, names

ENTRIES = read_all(Path(__file__).parents[2] / "results" / "benchmark")
SAMPLED = [each for each in ENTRIES if each.sample is not None and each.weights is not None]
TOLERANCE = 0.5


def test_packaged_names_exist() -> None:
    told = {each.weights for each in ENTRIES if each.weights}
    told |= {each.sample.target for each in ENTRIES if each.sample}
    assert told <= set(names())


@pytest.mark.slow
@pytest.mark.real_corpus
@pytest.mark.parametrize("record", SAMPLED, ids=lambda record: record.name)
def test_published_figures_are_measured_again(
    record: Record, real_data: Callable[[str], Path]
) -> None:
    corpus = load(
        record.protocol.corpus, real_data(record.protocol.corpus), scheme=record.protocol.scheme
    )
    published = record.sample
    assert published is not None
    found = sample(
        record,
        published.target,
        corpus,
        group=published.group,
        utterances=published.utterances,
    )
    assert found.utterances == published.utterances
    for name in ("clean", "fgsm", "pgd"):
        told, measured = getattr(published, name), getattr(found, name)
        assert measured == pytest.approx(told, abs=TOLERANCE), name


@pytest.mark.real_corpus
def test_a_sample_needs_packaged_weights_and_speakers_nobody_has_heard(
    real_data: Callable[[str], Path],
) -> None:
    corpus = load("ravdess", real_data("ravdess"), scheme="four")
    training = Training(data="speech", licence="CC0")
    record = Record(
        name="mine", kind="purifier", source="s", training=training, protocol=Protocol()
    )
    with pytest.raises(SettingError, match="name of a packaged network, to measure a sample"):
        sample(record, "crnn-ravdess", corpus, group=1)


@pytest.mark.real_corpus
def test_a_sample_is_what_the_attacks_give_one_by_one(real_data: Callable[[str], Path]) -> None:
    corpus = load("ravdess", real_data("ravdess"), scheme="four")
    record = Record(
        name="mine",
        kind="purifier",
        source="s",
        weights=PURIFIER,
        training=Training(data="speech", licence="CC0"),
        protocol=Protocol(),
    )
    found = sample(record, RECOGNISER, corpus, group=1, utterances=8)
    target = target_of(RECOGNISER, corpus, corpus.folds(6), group=1)
    system = defence_of(PURIFIER, target, seed=0).model
    batch = next(target.test.batches(8))
    attacks = {
        "clean": lambda model, x, y: x,
        "fgsm": FGSM(epsilon=0.009),
        "pgd": PGD(step=0.003, epsilon=0.02, steps=9),
    }
    for name, attack in attacks.items():
        with torch.no_grad():
            predicted = system(attack(target.system.model, batch.x, batch.y)).argmax(1)
        right = predicted == batch.y
        wanted = np.mean([right[batch.y == c].float().mean() for c in batch.y.unique()])
        assert getattr(found, name) == pytest.approx(100 * wanted, abs=0.006), name
