"""Measure what the way through sound costs: purified audio against purified log-Mel.

The packaged recogniser hears held-out actors of RAVDESS bare, behind the purifier on the log-Mel
(direct), and on the log-Mel of what `Purifier.purify` and `Purifier.stream` give: clean, and under
PGD on the sound that knows the bare recogniser (oblivious, 30 dB SNR, 16 bits). On clean sound also
SNR, segmental SNR and log-spectral distance of the purified sound to the original.

    python research/purified_sound.py

leaves `results/purified_sound/figures.json`, which docs/sound.md tells of; `--corrections 0 --out
results/purified_sound/uncorrected.json` is the same with the change of the log-Mel applied once.
`--mix .75 .5 .25 --limit-db 6 12 --out results/purified_sound/mixed.json` also hears sound of which
less of the change was let through.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sound_distances import log_spectral_distance, segmental_signal_to_noise_ratio
from torch import Tensor, nn

from servax import audio
from servax.attacks import WaveformPGD
from servax.corpora import load
from servax.evaluation import SpeakerDraws, interval_of, uar
from servax.evaluation.distortion import signal_to_noise_ratio
from servax.experiments.provenance import provenance
from servax.models import WaveformClassifier
from servax.purifier import Purifier, purifier as sound_path
from servax.recognition import Recogniser
from servax.runtime.stream import Mixture

RESULTS = Path("results/purified_sound")
WAYS = ("undefended", "direct", "sound", "stream")
STATES = ("clean", "attacked")
SEGMENT_SAMPLES = 400


def main() -> None:
    """Measure and write the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="crnn-ravdess")
    parser.add_argument("--purifier", default="ssad-plus-ravdess")
    parser.add_argument("--groups", nargs="+", type=int, default=[1, 2, 3], help="of 6, held out")
    parser.add_argument(
        "--corrections", type=int, default=sound_path.CORRECTIONS, help="of the gain, for a trial"
    )
    parser.add_argument("--out", type=Path, default=RESULTS / "figures.json")
    parser.add_argument("--snr", type=float, default=30.0, help="of the attack, in dB")
    parser.add_argument("--steps", type=int, default=15, help="of the attack")
    parser.add_argument("--mix", nargs="*", type=float, default=[], help="shares of the change")
    parser.add_argument("--limit-db", nargs="*", type=float, default=[], help="below the sound")
    given = parser.parse_args()
    torch.set_num_threads(1)
    sound_path.CORRECTIONS = given.corrections
    began = time.monotonic()
    recogniser = Recogniser.from_pretrained(given.model)
    purifier = Purifier.from_pretrained(given.purifier)
    front_end = recogniser.logmel
    model = recogniser.network.eval()
    cleaner = purifier.frozen()
    mixtures = {f"mix {share:g}": Mixture(mix=share) for share in given.mix}
    mixtures |= {f"limit {db:g} dB": Mixture(limit_db=db) for db in given.limit_db}
    less = {name: cleaner.mixed(mixture) for name, mixture in mixtures.items()}
    ways = (*WAYS, *less)
    attack = WaveformPGD(snr_db=given.snr, steps=given.steps)
    listener = WaveformClassifier(front_end, model)
    rate = recogniser.front_end.logmel.sample_rate
    corpus = load("ravdess", scheme="four")
    folds = corpus.folds(6)
    labels: list[int] = []
    speakers: list[str] = []
    answers: dict[str, list[dict[str, int]]] = {state: [] for state in STATES}
    apart: list[dict[str, float]] = []
    ratios: list[list[float]] = []
    spent = seconds = 0.0
    for group in given.groups:
        for row in folds[group - 1].test.utterances.to_dict("records"):
            sound = audio.read(corpus.root / str(row["path"]), sample_rate=rate)
            x = torch.from_numpy(sound).clamp(-1, 1).unsqueeze(0)
            y = torch.tensor([recogniser.labels.index(str(row["label"]))])
            labels.append(int(y))
            speakers.append(str(row["speaker"]))
            for state, heard in zip(STATES, (x, attack(listener, x, y)), strict=True):
                start = time.monotonic()
                cleaned = torch.from_numpy(cleaner.purify(heard[0].numpy(), rate))[None]
                spent += time.monotonic() - start
                seconds += heard.shape[1] / rate
                mixed = [made.purify(heard[0].numpy(), rate) for made in less.values()]
                told = answers_of(model, front_end, cleaner, heard, cleaned)
                for name, sound in zip(less, mixed, strict=True):
                    told[name] = answer_of(model, front_end, sound)
                answers[state].append(told)
                if state == "clean":
                    apart.append(distances(x, cleaned))
                    made = [torch.from_numpy(each)[None] for each in mixed]
                    ratios.append([float(signal_to_noise_ratio(x, each)) for each in made])
        print(f"group {group}: {time.monotonic() - began:.0f} s", flush=True)
    y_all = np.array(labels)
    record = {
        "model": given.model,
        "purifier": given.purifier,
        "groups": given.groups,
        "utterances": len(labels),
        "corrections": given.corrections,
        "attack": {"snr_db": given.snr, "steps": given.steps, "knowledge": "oblivious"},
        "uar": {
            state: {
                way: round(100 * uar(y_all, np.array([each[way] for each in told])), 1)
                for way in ways
            }
            for state, told in answers.items()
        },
        "points_from_direct": {
            state: {way: from_direct(y_all, told, way, speakers) for way in ("sound", "stream")}
            for state, told in answers.items()
        },
        "same_answer_clean": round(
            100 * float(np.mean([each["direct"] == each["sound"] for each in answers["clean"]])), 1
        ),
        "quartiles": {
            name: [
                round(float(q), 2)
                for q in np.quantile([each[name] for each in apart], [0.25, 0.5, 0.75])
            ]
            for name in apart[0]
        },
        **(
            {"median_snr": dict(zip(less, np.median(ratios, axis=0).round(1), strict=True))}
            if less
            else {}
        ),
        "seconds_of_sound_per_second": round(seconds / spent, 1),
        "seconds": round(time.monotonic() - began),
        **provenance(shlex.join(["python", *sys.argv])),
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(record["uar"], indent=1))


@torch.no_grad()
def answers_of(
    model: nn.Module, front_end: nn.Module, cleaner: Purifier, heard: Tensor, cleaned: Tensor
) -> dict[str, int]:
    """Return the class of a sound (1, T), and behind the purifier each way."""
    stream = cleaner.stream(cleaner.front_end.logmel.sample_rate)
    live = np.concatenate([stream.feed(heard[0].numpy()), stream.finish()])
    mel: Tensor = front_end(heard)
    sounds = (cleaned, torch.from_numpy(live)[None])
    inputs = (mel, cleaner(mel), *(front_end(sound) for sound in sounds))
    return {way: int(model(x).argmax()) for way, x in zip(WAYS, inputs, strict=True)}


@torch.no_grad()
def answer_of(model: nn.Module, front_end: nn.Module, sound: NDArray[np.float32]) -> int:
    """Return the class of a sound (T,)."""
    return int(model(front_end(torch.from_numpy(sound)[None])).argmax())


def from_direct(
    labels: NDArray[np.int64], told: list[dict[str, int]], way: str, speakers: list[str]
) -> list[float]:
    """Return how many points of UAR a way lies above the direct one, and its 95 % interval.

    The interval is of a bootstrap over speakers, paired: both ways hear the same utterances.
    """
    ways = {name: np.array([each[name] for each in told]) for name in ("direct", way)}
    points = 100 * (uar(labels, ways[way]) - uar(labels, ways["direct"]))
    draws = SpeakerDraws(speakers)
    drawn = draws.uar(labels, ways[way]) - draws.uar(labels, ways["direct"])
    interval = interval_of(100 * drawn)
    return [round(value, 1) for value in (points, interval.low, interval.high)]


def distances(x: Tensor, cleaned: Tensor) -> dict[str, float]:
    """Return how far purified sound (1, T) lies from the clean one, in dB."""
    segmental = segmental_signal_to_noise_ratio(x, cleaned, segment_samples=SEGMENT_SAMPLES)
    return {
        "snr": float(signal_to_noise_ratio(x, cleaned)),
        "segmental_snr": float(segmental),
        "lsd": float(log_spectral_distance(x, cleaned)),
    }


if __name__ == "__main__":
    main()
