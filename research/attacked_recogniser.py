"""How often is a recogniser on a speech encoder still right, when its sound is attacked?

    servax train recogniser ravdess --encoder ../shared/models/whisper-tiny-en \
        --scheme four --groups 6 --held-out 1 --vaccinate 15 -o runs/v15
    python research/attacked_recogniser.py runs/v15/model ravdess --group 1 \
        -o results/ravdess_whisper_vaccinated/15_db

With ``--defence`` what stands before the recogniser is attacked too, as ``servax audit --defences``
takes it; what draws anew answers with the mean of 8 draws.

Each utterance of a group that the recogniser never heard is attacked by itself: projected gradient
descent with momentum on the margin, in the Euclidean ball of a signal-to-noise ratio. The oblivious
attacker knows encoder and head but neither noise nor defence; the adaptive one knows all but what
will be drawn, and takes each gradient through the mean over fresh draws (EOT, Athalye et al. 2018).
An attack is judged by new draws: two answers, each a mean as users get it. Attacks of more steps
and draws follow on who is still right, and louder ones too: the worst counts. Gradients are
computed in bfloat16, answers in float32.

Leaves ``answers.csv``, a row for each utterance and attack, as soon as the utterance is done, and
goes on there; utterances come in a drawn order, a class at a time, so that the first n are a fair
sample. ``--summary`` only tells what is there.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from servax.attacks import MomentumPGD
from servax.audio import read
from servax.corpora import Corpus, load
from servax.defences import ExpectationOverDraws
from servax.evaluation.loading import load_system
from servax.evaluation.options import defended
from servax.files import json_text, write_whole
from servax.models import EncoderClassifier, Noise, SmoothedClassifier, SpeechEncoder
from servax.perturbation import L2
from servax.recognition import EncoderRecogniser
from servax.training import generator

ANSWERS = 2
"""How often each attacked sound is judged."""
ANSWER_DRAWS = 8
"""Draws whose mean is one answer behind a defence that draws."""


def fair_order(corpus: Corpus, seed: int) -> list[int]:
    """Return positions of utterances in a drawn order that takes the classes in turn."""
    draws = np.random.default_rng(seed)
    labels = np.asarray(corpus.label_index)
    by_class = [draws.permutation(np.flatnonzero(labels == c)) for c in np.unique(labels)]
    turns = {int(p): (turn, c) for c, found in enumerate(by_class) for turn, p in enumerate(found)}
    return sorted(turns, key=turns.__getitem__)


@contextmanager
def in_bfloat16(encoder: SpeechEncoder) -> Iterator[None]:
    """Let the encoder compute in bfloat16, which is twice as fast where a CPU has it."""
    exact = encoder.states

    def rough(waveform: Tensor) -> list[Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            return [state.float() for state in exact(waveform)]

    encoder.states = rough  # type: ignore[method-assign]
    try:
        yield
    finally:
        encoder.states = exact  # type: ignore[method-assign]


def attacked(model: nn.Module, x: Tensor, y: Tensor, snr_db: float, steps: int) -> Tensor:
    """Return sound (1, T) of class (1,), changed at most as much as a ratio in dB allows."""
    radius = float(x.norm()) * 10.0 ** (-snr_db / 20.0)
    attack = MomentumPGD(
        norm=L2,
        epsilon=radius,
        step=radius / 8,
        steps=steps,
        decay=0.75,
        loss="margin",
        bounds=(-1.0, 1.0),
    )
    return attack(model, x, y)


@dataclass(frozen=True)
class Subject:
    """A recogniser as attackers and users meet it, over draws of its own for each utterance."""

    bare: nn.Module
    """What an attacker takes it for who knows neither noise nor defence."""
    answering: nn.Module
    """What users ask: each call is one answer."""
    known: Callable[[int], nn.Module]
    """What an attacker sees who knows all but the draws: the mean over so many."""


def subject(network: EncoderClassifier, given: argparse.Namespace, position: int) -> Subject:
    """Return what an utterance is attacked on; draws depend on its position in the group."""
    answers, attacks = (generator(given.seed, each, position) for each in ("answers", "attack"))
    bare = EncoderClassifier(network.encoder, network.head).eval()
    if given.defence:
        system = replace(load_system(str(given.recogniser)), model=bare)

        def behind(draws: torch.Generator, count: int) -> nn.Module:
            model = defended(system, given.defence, seed=draws.initial_seed()).model
            return ExpectationOverDraws(model, count)

        return Subject(bare, behind(answers, ANSWER_DRAWS), partial(behind, attacks))
    if isinstance(network, SmoothedClassifier):
        network.generator.manual_seed(answers.initial_seed())

        def smoothed(count: int) -> nn.Module:
            noise = Noise(network.noise.snr_db, count)
            return SmoothedClassifier(network.encoder, network.head, noise, attacks).eval()

        return Subject(bare, network, smoothed)
    return Subject(bare, network, lambda _: bare)


def rows_of(
    network: EncoderClassifier, x: Tensor, y: Tensor, given: argparse.Namespace, position: int
) -> list[dict[str, object]]:
    """Return what is answered for a sound (1, T) of class (1,), clean and under each attack."""
    met = subject(network, given, position)

    def right(sound: Tensor) -> int:
        with torch.no_grad():
            return sum(int(met.answering(sound).argmax(1) == y) for _ in range(ANSWERS))

    clean = right(x)
    first = {"knowledge": "none", "snr_db": np.inf, "steps": 0, "draws": 0, "right": clean}
    rows: list[dict[str, object]] = [first]
    efforts = [("oblivious", 20, 1), *(("adaptive", *effort) for effort in given.efforts)]
    for knowledge in ("oblivious", "adaptive"):
        kept = clean
        for snr_db in sorted(given.snr, reverse=True):
            for who, steps, count in efforts:
                if who != knowledge:
                    continue
                if kept:
                    model = met.bare if knowledge == "oblivious" else met.known(count)
                    with in_bfloat16(network.encoder):
                        moved = attacked(model, x, y, snr_db, steps)
                    kept = min(kept, right(moved))
                about = {"knowledge": knowledge, "snr_db": snr_db, "steps": steps, "draws": count}
                rows.append({**about, "right": kept})
    return rows


def summary(found: pd.DataFrame) -> pd.DataFrame:
    """Return UAR in percent under each attack and those before it.

    ``once`` is that of one answer, ``always`` counts who is right in every answer.
    """
    conditions = ["knowledge", "snr_db", "steps", "draws"]
    share = found["right"] / ANSWERS
    whole = found.assign(once=100 * share, always=100.0 * (share == 1))
    by_class = whole.groupby([*conditions, "label"])[["once", "always"]].mean()
    told = by_class.groupby(conditions).mean()
    told["utterances"] = whole.groupby(conditions)["utterance"].nunique()
    told["of_clean"] = told["once"] / told.loc["none", "once"].iloc[0]
    return told.round(3).reset_index()


def effort(text: str) -> tuple[int, int]:
    """Return steps and draws of an attack written as ``40x4``."""
    steps, draws = text.split("x")
    return int(steps), int(draws)


def main() -> None:
    """Attack what is not attacked yet, and tell what is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recogniser", type=Path)
    parser.add_argument("corpus")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--defence", default="", help="what stands before the recogniser")
    parser.add_argument("--scheme", default="four")
    parser.add_argument("--groups", type=int, default=6)
    parser.add_argument("--group", type=int, default=1)
    parser.add_argument("--utterances", type=int, default=112)
    parser.add_argument("--snr", type=float, nargs="+", default=[50.0, 40.0, 30.0])
    parser.add_argument("--efforts", type=effort, nargs="+", default=[(20, 2), (40, 4)])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--summary", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    test = load(given.corpus, None, scheme=given.scheme).folds(given.groups)[given.group - 1].test
    place = given.out / "answers.csv"
    done = pd.read_csv(place, dtype={"speaker": str}) if place.exists() else pd.DataFrame()
    network = EncoderRecogniser.from_pretrained(given.recogniser).network.eval()
    order = [] if given.summary else fair_order(test, given.seed)[: given.utterances]
    for position in order:
        name, path, start, end = list(test.stretches)[position]
        if len(done) and name in set(done["utterance"]):
            continue
        sound = read(path, sample_rate=16_000, start=start, end=end)
        x, y = torch.from_numpy(sound).float()[None], torch.tensor([test.label_index[position]])
        said = test.utterances.iloc[position]
        about = {"utterance": name, "speaker": str(said["speaker"]), "label": said["label"]}
        rows = pd.DataFrame([about | row for row in rows_of(network, x, y, given, position)])
        done = pd.concat([done, rows], ignore_index=True)
        write_whole(place, done.to_csv(index=False).encode())
    told = {**vars(given), "recogniser": given.recogniser.name, "out": given.out.name}
    told = {key: value for key, value in told.items() if key != "summary"}
    table = summary(done)
    told["figures"] = table.replace(np.inf, None).to_dict("records")
    write_whole(given.out / "summary.json", (json_text(told) + "\n").encode())
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
