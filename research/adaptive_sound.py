"""Attack what stands before a recogniser of sound, by who knows it, over draws of its noise.

    servax train recogniser ravdess --encoder ../shared/models/whisper-tiny-en --held-out 1 \
        --draws 0 -o runs/whisper-unaware
    python research/adaptive_sound.py runs/whisper-unaware/model noise-wiener:20 noise-wiener:15 \
        -o results/noise_wiener

Each utterance of a held-out group is heard as it is, then attacked by PGD with momentum at a lowest
signal-to-noise ratio (L2, steps of .15 of the radius): 20 steps on the bare recogniser (oblivious),
then 40 through each defence, each gradient averaged over 8 draws. The adaptive attack begins where
the oblivious one ended, or where an earlier one with fewer draws did, and stops when the mean over
16 draws is wrong. An answer is the mean of the probabilities over 8 draws that no attack has seen.
Utterances come in random order, so those of a run that was stopped are a fair sample; it goes on
where it was.
Leaves ``answers.csv``, a row for each answer, and ``summary.json``, which is computed from it.

With ``--quality`` nothing is attacked: what the defences make of the clean sounds is compared with
them (SNR, wideband PESQ, STOI), and with what comes of a copy that begins 10 ms later, under noise
of its own. Leaves ``quality.csv`` and prints its means.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pesq
import pystoi
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from servax.attacks import MomentumPGD, cross_entropy
from servax.attacks.early_stopping import walk
from servax.corpora import load
from servax.defences import ExpectationOverDraws
from servax.evaluation.dataset import chosen
from servax.evaluation.distortion import signal_to_noise_ratio
from servax.evaluation.loading import load_system
from servax.evaluation.options import defended
from servax.evaluation.systems import System
from servax.experiments.provenance import provenance
from servax.files import json_text, write_whole
from servax.perturbation import SignalToNoise
from servax.purifier.files import write_array
from servax.recognition import Recogniser
from servax.training import generator

ANSWER_DRAWS, CHECK_DRAWS, CHECKED, OBLIVIOUS_STEPS = 8, 16, 10, 20
"""Draws of an answer, draws that tell an attack that it is done, steps between such looks, and of
the oblivious attack."""


RATE = 16_000
SHIFT = RATE // 100
STEP = 0.15
"""Length of a step, as a share of the ball."""


def answer(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, object]:
    """Return the mean answer over draws, and in how many of them alone the model is right."""
    with torch.no_grad():
        each = torch.cat([model(x) for _ in range(ANSWER_DRAWS)]).softmax(1)
    right_alone = int((each.argmax(1) == y).sum())
    return {"said": int(each.mean(0).argmax()), "right_alone": right_alone}


def fooled(model: nn.Module, x: Tensor, y: Tensor) -> bool:
    """Say whether the mean over `CHECK_DRAWS` is wrong."""
    with torch.no_grad():
        return bool(ExpectationOverDraws(model, CHECK_DRAWS)(x).argmax(1) != y)


def ascended(
    model: nn.Module, x: Tensor, y: Tensor, begin: Tensor, *, snr_db: float, steps: int
) -> Iterator[Tensor]:
    """Yield x_1 ... x_steps inside the ball around `x`, from `begin` on."""
    reach = MomentumPGD(norm=SignalToNoise, epsilon=snr_db, step=STEP, bounds=(-1.0, 1.0))
    with reach.facing(model, x, y) as problem:
        given = {"loss": cross_entropy, "step": reach.step, "decay": reach.decay}
        yield from walk(problem, reach.ball, steps=steps, start=begin, **given)


def adaptive(
    model: nn.Module, x: Tensor, y: Tensor, begin: Tensor, given: argparse.Namespace, snr_db: float
) -> tuple[Tensor, int]:
    """Return where an attack through the model ended, and after how many steps."""
    found, done = begin, 0
    expected = ExpectationOverDraws(model, given.draws)
    walk_on = ascended(expected, x, y, begin, snr_db=snr_db, steps=given.steps)
    while done < given.steps and (done % CHECKED or not fooled(model, found, y)):
        found, done = next(walk_on), done + 1
    return found, done


def measured(
    systems: dict[str, System], x: Tensor, y: Tensor, given: argparse.Namespace, kept: Path
) -> Iterator[dict[str, object]]:
    """Yield a row for each system, attacker and ratio; sounds of an attack are kept.

    Under the fingerprint of what was attacked: a model of the same name may be another one.
    """
    bare = systems["undefended"]
    attacker = f"adaptive, {given.draws} draws, {given.steps} steps"
    heard = {("clean", None): x}
    for snr_db in given.snr:
        file = kept / f"{bare.fingerprint[:16]}-{snr_db:g}-{OBLIVIOUS_STEPS}x{STEP}.npy"
        if not file.is_file():
            *_, last = ascended(bare.model, x, y, x, snr_db=snr_db, steps=OBLIVIOUS_STEPS)
            write_array(file, last.numpy())
        heard["oblivious", snr_db] = torch.from_numpy(np.load(file))
    for name, system in systems.items():
        model = system.model
        for (who, snr_db), sound in heard.items():
            row = {"system": name, "attacker": who, "snr_db": snr_db, "steps": 0}
            if who == "clean" and name != "undefended":
                row["output_snr_db"] = float(signal_to_noise_ratio(x, model.defence(x)))
            yield row | answer(model, sound, y)
            if who == "clean" or name == "undefended" or snr_db not in given.adaptive:
                continue
            file = kept / f"{system.fingerprint[:16]}-{snr_db:g}-{STEP}.npy"
            begin = torch.from_numpy(np.load(file)) if file.is_file() else sound
            found, steps = adaptive(model, x, y, begin, given, snr_db)
            write_array(file, found.numpy())
            row = {"system": name, "attacker": attacker, "snr_db": snr_db, "steps": steps}
            yield row | answer(model, found, y)


def quality(model: nn.Module, x: Tensor) -> dict[str, float]:
    """Return how far the output for a clean sound (1, T) lies from it, and from a shifted one's."""
    with torch.no_grad():
        made, later = model.defence(x), model.defence(pad(x, (SHIFT, 0)))[:, SHIFT:]
    clean, given = x[0].numpy(), made[0].numpy()
    return {
        "snr_db": float(signal_to_noise_ratio(x, made)),
        "pesq": float(pesq.pesq(RATE, clean, given, "wb")),
        "stoi": float(pystoi.stoi(clean, given, RATE)),
        "shift_db": float(signal_to_noise_ratio(made, later)),
    }


def summary(found: pd.DataFrame) -> pd.DataFrame:
    """Return the share of utterances that are right, in percent, over all and per answer alone."""
    keys = ["system", "attacker", "snr_db"]
    found = found.assign(
        right=100.0 * (found["said"] == found["label"]),
        right_alone=100.0 * found["right_alone"] / ANSWER_DRAWS,
        utterances=1,
    )
    how = {"right": "mean", "right_alone": "mean", "utterances": "sum", "output_snr_db": "mean"}
    return found.groupby(keys, dropna=False).agg(how).round(1).reset_index()


def main() -> None:
    """Attack the utterances that are not in the answers yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("defences", nargs="+")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--corpus", default="ravdess")
    parser.add_argument("--held-out", type=int, default=1)
    parser.add_argument("--utterances", type=int, default=40)
    parser.add_argument("--scheme", default="four")
    parser.add_argument("--snr", type=float, nargs="*", default=[50.0, 40.0, 30.0])
    parser.add_argument("--adaptive", type=float, nargs="*", default=[50.0, 40.0])
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--kept", type=Path, default=Path("runs/adaptive_sound"))
    parser.add_argument("--quality", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    bare = load_system(given.model)
    recogniser = Recogniser.from_pretrained(given.model)
    corpus = load(given.corpus, None, scheme=given.scheme)
    test = corpus.folds(6)[given.held_out - 1].test
    rows = test.utterances[chosen(test, given.utterances, seed=0)]
    file = given.out / ("quality.csv" if given.quality else "answers.csv")
    done = pd.read_csv(file) if file.is_file() else pd.DataFrame()
    if len(done) and not given.quality:
        write_summary(done, given.out / "summary.json")
    for _, row in rows.sample(frac=1.0, random_state=0).iterrows():
        name = row["utterance"]
        if len(done) and (done["utterance"] == name).any():
            continue
        seed = generator(0, "utterance", name).initial_seed()
        systems = {"undefended": bare}
        for what in given.defences:
            systems[what] = defended(bare, what, seed=seed)
        x = recogniser.inputs(test.root / row["path"])
        if given.quality:
            told = [
                quality(system.model, x) | {"system": what}
                for what, system in list(systems.items())[1:]
            ]
            done = pd.concat([done, pd.DataFrame(told).assign(utterance=name)], ignore_index=True)
            write_whole(file, done.round(4).to_csv(index=False).encode())
            continue
        y = torch.tensor([recogniser.labels.index(row["label"])])
        kept = given.kept / given.out.name / name
        kept.mkdir(parents=True, exist_ok=True)
        found = pd.DataFrame(measured(systems, x, y, given, kept))
        found["said"] = [recogniser.labels[index] for index in found["said"]]
        found.insert(0, "utterance", name)
        found.insert(1, "label", row["label"])
        done = pd.concat([done, found], ignore_index=True)
        write_whole(file, done.to_csv(index=False).encode())
        write_summary(done, given.out / "summary.json")
        print(name, summary(done).to_string(), sep="\n", flush=True)
    if given.quality:
        print(done.groupby("system").mean(numeric_only=True).round(4).to_string())


def write_summary(done: pd.DataFrame, file: Path) -> None:
    """Write what the answers come to, and where they come from."""
    told = {"figures": summary(done).to_dict("records"), "utterances": done["utterance"].nunique()}
    told |= provenance(shlex.join(["python", *sys.argv]))
    write_whole(file, f"{json_text(told, indent=1)}\n".encode())


if __name__ == "__main__":
    main()
