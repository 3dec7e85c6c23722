"""How right is a head on a speech encoder, on speakers that it never heard, with and without noise?

    python research/encoder_recogniser.py ravdess ../shared/models/whisper-tiny-en \
        -o results/ravdess_whisper_clean

For each seed and each group of speakers a head is trained as `servax train recogniser --encoder`
does, and hears the group as recorded and with white noise. Leaves ``answers.csv``, a row for each
utterance, and ``summary.json``, which is computed from it. What was heard stays in the feature
cache, so a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
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

CONDITIONS = {"clean": None, "white_20_db": 20.0}
"""How the held-out speakers are heard: as recorded, or with white noise at so many dB."""
CACHE = cache_folder() / "features"


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
    for name, snr_db in CONDITIONS.items():
        noise = snr_db and NoisyCopy(snr_db, snr_db, 0.0, seed=1_000, number=1, coloured=0.0)
        heard = extract(corpus, EncoderStatistics(encoder, noise or None), folder=CACHE)
        x = Dataset(fold.test, heard, AS_IT_IS).batch(np.arange(len(fold.test))).x[:, 0]
        with torch.no_grad():
            said = recogniser.network.head(x).argmax(1).tolist()
        found[name] = [corpus.labels[index] for index in said]
    return found


def summary(found: pd.DataFrame) -> dict[str, object]:
    """Return the UAR of each condition, in percent: of each seed over all groups, and the mean."""
    told: dict[str, object] = {}
    for name in CONDITIONS:
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
    parser.add_argument("--draws", type=int, default=HeadTraining.draws)
    parser.add_argument("--layers", type=int)
    given = parser.parse_args()
    torch.set_num_threads(1)
    corpus = load(given.corpus, None, scheme=given.scheme)
    encoder = open_encoder(given.encoder, layers=given.layers)
    training = HeadTraining(draws=given.draws)
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
        "draws": given.draws,
        **summary(found),
    }
    write_whole(given.out / "answers.csv", found.to_csv(index=False).encode())
    write_whole(given.out / "summary.json", (json_text(told) + "\n").encode())
    print(json_text(told))


if __name__ == "__main__":
    main()
