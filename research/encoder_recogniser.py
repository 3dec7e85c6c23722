"""How right is a head on a speech encoder, on speakers that it never heard, with and without noise?

    python research/encoder_recogniser.py ravdess ../shared/models/whisper-tiny-en \
        -o results/ravdess_whisper_clean

For each seed and each group of speakers a head is trained as `servax train recogniser --encoder`
does, and hears the group as recorded and with white noise; with ``--vaccinate 15`` as recorded, but
through the noise that it adds itself, in as many draws as there are copies. Leaves
``answers.csv``, a row for each utterance, and ``summary.json``, which is computed from it. What was
heard stays in the feature cache, so a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from servax.corpora import Corpus, Fold, cache_folder, load
from servax.evaluation import metrics
from servax.experiments.training import train_encoder_recogniser
from servax.features import Dataset, extract
from servax.files import json_text, write_whole
from servax.models import SpeechEncoder, open_encoder
from servax.training import AS_IT_IS, EncoderStatistics, HeadTraining, NoisyCopy

CACHE = cache_folder() / "features"


def conditions(training: HeadTraining, seed: int) -> dict[str, list[NoisyCopy | None]]:
    """Return in which copies the held-out speakers are heard; the answer is the mean over them."""
    if training.vaccinate_db is not None:
        return {"clean": training.copies(seed)}  # of other utterances than those of the training
    noise = NoisyCopy(20.0, 20.0, 0.0, seed=1_000, number=1, coloured=0.0)
    return {"clean": [None], "white_20_db": [noise]}


def answers(
    corpus: Corpus,
    fold: Fold,
    group: int,
    encoder: SpeechEncoder,
    training: HeadTraining,
    seed: int,
) -> pd.DataFrame:
    """Return what a head answers for a held-out group."""
    recogniser, chosen = train_encoder_recogniser(
        corpus, fold, encoder, training, seed=seed, cache=CACHE
    )
    test = fold.test.utterances
    found = pd.DataFrame({key: test[key].to_numpy() for key in ("utterance", "speaker", "label")})
    found.insert(0, "seed", seed)
    found.insert(1, "group", group)
    found["penalty"] = chosen.penalty
    weights = recogniser.network.head.weights.softmax(0).tolist()
    found["layers"] = " ".join(f"{weight:.3f}" for weight in weights)
    for name, copies in conditions(training, seed).items():
        total = torch.zeros(len(fold.test), len(corpus.labels))
        for copy in copies:
            heard = extract(corpus, EncoderStatistics(encoder, copy), folder=CACHE)
            x = Dataset(fold.test, heard, AS_IT_IS).batch(np.arange(len(fold.test))).x[:, 0]
            with torch.no_grad():
                total += recogniser.network.head(x).softmax(1)
        found[name] = [corpus.labels[index] for index in total.argmax(1).tolist()]
    return found


def summary(found: pd.DataFrame, training: HeadTraining) -> dict[str, object]:
    """Return the UAR of each condition, in percent: of each seed over all groups, and the mean."""
    told: dict[str, object] = {}
    for name in conditions(training, seed=0):
        by_seed = found.groupby("seed")
        uar = [100 * metrics.uar(rows["label"], rows[name]) for _, rows in by_seed]
        told[name] = {"uar": round(float(np.mean(uar)), 2), "seeds": [round(u, 2) for u in uar]}
    return told


def main() -> None:
    """Train and ask every head, and write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus")
    parser.add_argument("encoder")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--scheme", default="four")
    parser.add_argument("--groups", type=int, default=6)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--draws", type=int)
    parser.add_argument("--vaccinate", type=float)
    parser.add_argument("--steadiness", type=float)
    parser.add_argument("--layers", type=int)
    given = parser.parse_args()
    torch.set_num_threads(1)
    corpus = load(given.corpus, None, scheme=given.scheme)
    encoder = open_encoder(given.encoder, layers=given.layers)
    training = HeadTraining()
    if given.vaccinate is not None:
        training = HeadTraining.vaccinated(given.vaccinate)
    changed = {name: getattr(given, name) for name in ("draws", "steadiness")}
    training = replace(training, **{k: v for k, v in changed.items() if v is not None})
    found = pd.concat(
        answers(corpus, fold, group, encoder, training, seed)
        for seed in given.seeds
        for group, fold in enumerate(corpus.folds(given.groups), start=1)
    )
    told = {
        "corpus": corpus.name,
        "scheme": given.scheme,
        "groups": given.groups,
        "utterances": len(corpus),
        "encoder": {"sha256": encoder.sha256, "layers": encoder.depth},
        "draws": training.draws,
        "vaccinate_db": training.vaccinate_db,
        "steadiness": training.steadiness,
        **summary(found, training),
    }
    write_whole(given.out / "answers.csv", found.to_csv(index=False).encode())
    write_whole(given.out / "summary.json", (json_text(told) + "\n").encode())
    print(json_text(told))


if __name__ == "__main__":
    main()
