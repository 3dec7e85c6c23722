"""Denoised smoothing for sound: noise, then a small cleaner, before a recogniser on an encoder.

A trial trains a cleaner without labels so that noisy speech reads like clean speech to a speech
encoder that has never heard noise (`ssad` with F = that encoder, in the place of the denoiser of
Salman et al. 2020), on the training speakers of group 1 of RAVDESS (groups of 4) and on other
speech. The target is a head on the same public encoder, trained on the same speakers as recorded;
its head and its labels are not seen. Utterances of group 1 are heard clean, under PGD that knows
the bare target (oblivious), and under PGD through noise and cleaner, whose gradient averages draws.

    python research/sound_trial.py ../shared/models/whisper-tiny-en noise noise-wiener mask

leaves `results/research/sound/TRIAL.csv`, a row for each answer, and `TRIAL.json`, its summary;
docs/research.md tells of them. One that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from noise_cleaners import Mask, NoiseThenGain, WienerGains, stft_loss
from torch import Tensor, nn

from servax import audio
from servax.attacks import MomentumPGD
from servax.corpora import Corpus, Fold, cache_folder, load
from servax.corpora.loading import data_folder
from servax.evaluation.dataset import chosen
from servax.evaluation.distortion import signal_to_noise_ratio
from servax.evaluation.metrics import uar
from servax.experiments.provenance import provenance
from servax.experiments.training import train_encoder_recogniser
from servax.features import set_level
from servax.files import json_text, write_whole
from servax.models import EncoderClassifier, SpeechEncoder, open_encoder
from servax.models.encoder import LEVEL_DBFS
from servax.perturbation import SignalToNoise, ascend
from servax.perturbation.balls import UNIT, PerUtterance
from servax.training import HeadTraining, generator, global_seed

RESULTS = Path("results/research/sound")
MODELS = Path("runs/research/sound")
RATE = 16_000
STRETCH = 2 * RATE
"""Samples of a training stretch."""
SPEECH = {"ravdess": 270, "ased": 120, "emodb": 90, "fsdd": 120}
"""How many stretches of each corpus are heard in training."""
SOUNDS = (".flac", ".wav")
DRAWS = (1, 4, 8)
"""How many draws make an answer."""
TARGET = HeadTraining(draws=0)
"""How the head that is attacked is trained."""
CHECKS = (10, 20, 40, 80)
"""After so many steps an attack is asked what it has reached."""


@dataclass(frozen=True)
class Trial:
    """What may differ between trials."""

    snr_db: float = 20.0
    """Of the noise in use."""
    heard_db: tuple[float, float] = (10.0, 25.0)
    """Between which it is drawn in training, one for each step."""
    weights: str = ""
    """Trial whose weights are used, without training."""
    cleaner: str = "mask"
    """`none`, `wiener`, `mask` (which corrects Wiener's gains) or `mask-alone`."""
    feature: float = 1.0
    """Weight of the distance of the encoder's states."""
    layers: tuple[int, ...] = (1, 2, 3)
    """Which layers of the encoder are F."""
    frames: bool = True
    """Whether F is read frame by frame, or by its mean and deviation over frames."""
    stft: float = 0.25
    """Weight of the multi-resolution STFT loss."""
    budget: tuple[float, float] | None = None
    """SNR in dB between which SSA moves the input in training; none leaves it clean."""
    through: bool = False
    """Whether SSA climbs through noise and cleaner, or through F alone."""
    ssa_steps: int = 1
    steps: int = 400
    batch: int = 6
    learning_rate: float = 1e-3
    seed: int = 0


MASK = Trial()
STATISTICS = replace(MASK, frames=False)
THROUGH = replace(STATISTICS, budget=(30.0, 50.0), through=True)
ALONE = replace(MASK, cleaner="mask-alone")
NO_ENCODER = replace(MASK, feature=0.0)
TRIALS: dict[str, Trial] = {
    "undefended": replace(MASK, cleaner="none", steps=0, snr_db=200.0),
    "noise": replace(MASK, cleaner="none", steps=0),
    "noise-15": replace(MASK, cleaner="none", steps=0, snr_db=15.0),
    "noise-wiener": replace(MASK, cleaner="wiener", steps=0),
    "noise-wiener-15": replace(MASK, cleaner="wiener", steps=0, snr_db=15.0),
    "mask": MASK,
    "mask-15": replace(MASK, snr_db=15.0, weights="mask"),
    "through": THROUGH,
    "through-15": replace(THROUGH, snr_db=15.0, weights="through"),
    "statistics": STATISTICS,
    "statistics-15": replace(STATISTICS, snr_db=15.0, weights="statistics"),
    "mask-alone": ALONE,
    "mask-alone-15": replace(ALONE, snr_db=15.0, weights="mask-alone"),
    "no-encoder": NO_ENCODER,
    "no-encoder-15": replace(NO_ENCODER, snr_db=15.0, weights="no-encoder"),
}


class Heard(nn.Module):
    """The target behind a cleaner: logs of the mean probabilities over draws.

    Args:
        cleaner: From (B, T) to (B, T); random.
        target: From (B, T) to logits (B, C).
        draws: How many make one answer.
        half: Whether the target computes in bfloat16: for gradients, never for answers.
    """

    def __init__(self, cleaner: nn.Module, target: nn.Module, draws: int, *, half: bool) -> None:
        super().__init__()
        self.cleaner, self.target, self.draws, self.half_precision = cleaner, target, draws, half

    def forward(self, x: Tensor) -> Tensor:
        """Return log probabilities (B, C)."""
        logs = self.each(x)
        return logs.logsumexp(dim=0) - math.log(self.draws)

    def each(self, x: Tensor) -> Tensor:
        """Return the log probabilities of each draw, (draws, B, C)."""
        cleaned = self.cleaner(x.repeat(self.draws, 1))
        with torch.autocast("cpu", torch.bfloat16, enabled=self.half_precision):
            logits = self.target(cleaned)
        return logits.float().log_softmax(dim=1).view(self.draws, len(x), -1)


def built(trial: Trial) -> NoiseThenGain:
    """Return the untrained cleaner of a trial."""
    with global_seed(trial.seed, "weights"):
        gains = {
            "none": lambda: None,
            "wiener": WienerGains,
            "mask": Mask,
            "mask-alone": lambda: Mask(informed=False),
        }[trial.cleaner]()
    return NoiseThenGain(trial.snr_db, gains, generator(trial.seed, "noise"))


@cache
def group_one() -> tuple[Corpus, Fold]:
    """Return RAVDESS with four emotions, and the fold that holds group 1 out."""
    corpus = load("ravdess", scheme="four")
    return corpus, corpus.folds(6)[0]


@cache
def stretches() -> Tensor:
    """Return the training speech (N, STRETCH)."""
    draws = np.random.default_rng(0)
    found = [cut(ravdess(group_one()[1].train), SPEECH["ravdess"], draws)]
    for name in ("ased", "emodb", "fsdd"):
        paths = sorted(p for p in (data_folder() / name).rglob("*.*") if p.suffix in SOUNDS)
        found.append(cut(paths, SPEECH[name], draws))
    return torch.cat(found)


def ravdess(part: Corpus) -> list[Path]:
    """Return all that the speakers of a part of RAVDESS said, of any emotion."""
    corpus, speakers = load("ravdess"), set(map(str, part.speakers))
    table = corpus.utterances
    paths = table["path"][table["speaker"].astype(str).isin(speakers)]
    return [corpus.root / str(path) for path in paths]


def cut(paths: list[Path], count: int, draws: np.random.Generator) -> Tensor:
    """Return stretches (count, STRETCH) of files, each brought to one level before it was cut."""
    found = []
    for number in draws.choice(len(paths), count, replace=False):
        sound = torch.from_numpy(audio.read(paths[number], sample_rate=RATE))
        sound = set_level(sound, LEVEL_DBFS).repeat(math.ceil(STRETCH / len(sound)))
        start = int(draws.integers(0, len(sound) - STRETCH + 1))
        found.append(sound[start : start + STRETCH])
    return torch.stack(found)


@torch.no_grad()
def apart(cleaner: NoiseThenGain, encoder: SpeechEncoder) -> dict[str, float]:
    """Return the losses on 48 stretches of the validation speakers, whom no cleaner heard."""
    x = cut(ravdess(group_one()[1].validation), 48, np.random.default_rng(1))
    cleaner.draws.manual_seed(0)
    cleaned = cleaner(x)
    found = {"stft": float(stft_loss(x, cleaned))}
    for name, frames in (("frames", True), ("statistics", False)):
        states = States(encoder, tuple(range(1, encoder.depth + 1)), frames=frames)
        reference = states(x)
        size = size_of(reference, frames=frames)
        found[name] = float(apart_in(states, reference, size, cleaned).mean())
    return {name: round(value, 4) for name, value in found.items()}


class States(nn.Module):
    """F: what some layers (from 1) of an encoder say of a sound.

    Args:
        encoder: The encoder.
        layers: Which layers.
        frames: Whether frame by frame, or the mean and deviation over frames that heads read.
    """

    def __init__(self, encoder: SpeechEncoder, layers: tuple[int, ...], *, frames: bool) -> None:
        super().__init__()
        self.encoder, self.layers, self.frames = encoder, layers, frames

    def forward(self, x: Tensor) -> Tensor:
        """Return (L, B, N, D) of sound (B, T), or statistics (L, B, 1, 2 D)."""
        with torch.autocast("cpu", torch.bfloat16):
            found = self.encoder.states(x)
        states = torch.stack([found[layer - 1].float() for layer in self.layers])
        if self.frames:
            return states
        variance, mean = torch.var_mean(states, dim=2, correction=0, keepdim=True)
        return torch.cat([mean, (variance + 1e-8).sqrt()], dim=3)


def apart_in(states: nn.Module, reference: Tensor, size: Tensor, x: Tensor) -> Tensor:
    """Return how far the states of x (B, T) are from `reference`, for each sound (B,).

    Args:
        states: From (B, T) to (L, B, N, D).
        reference: The states that are wanted.
        size: What a difference is divided by, broadcastable to them.
        x: The sounds.
    """
    return ((states(x) - reference).abs() / size).mean(dim=(0, 2, 3))


def size_of(reference: Tensor, *, frames: bool) -> Tensor:
    """Return by what differences are divided: each layer's size, or each statistic's spread."""
    if frames:
        return reference.abs().mean(dim=(1, 2, 3), keepdim=True)
    return reference.std(dim=1, keepdim=True)


def train(trial: Trial, encoder: SpeechEncoder) -> NoiseThenGain:
    """Return the trained cleaner of a trial; what there is to train has its weights kept."""
    cleaner = built(trial)
    if not trial.steps:
        return cleaner
    states, x = States(encoder, trial.layers, frames=trial.frames), stretches()
    with torch.no_grad():
        references = [states(part).half() for part in x.split(20)]
    reference = torch.cat(references, dim=1)
    size = size_of(reference.float(), frames=trial.frames)
    optimiser = torch.optim.AdamW(cleaner.parameters(), lr=trial.learning_rate, weight_decay=1e-4)
    draws, began = generator(trial.seed, "trial"), time.monotonic()
    for step in range(trial.steps):
        rate = trial.learning_rate * min(1.0, (step + 1) / 20)
        rate *= 0.5 * (1.0 + math.cos(math.pi * step / trial.steps))
        for group in optimiser.param_groups:
            group["lr"] = rate
        rows = torch.randint(0, len(x), (trial.batch,), generator=draws)
        low, high = trial.heard_db
        cleaner.snr_db = low + (high - low) * float(torch.rand((), generator=draws))
        clean, wanted = x[rows], reference[:, rows].float()
        cleaner.requires_grad_(False)
        objective = partial(apart_in, states, wanted, size)
        moved = augmented(trial, objective, cleaner, clean, draws)
        cleaner.requires_grad_(True)
        cleaned = cleaner(moved)
        pixel = stft_loss(clean, cleaned)
        feature = (
            apart_in(states, wanted, size, cleaned).mean() if trial.feature else pixel.new_zeros(())
        )
        loss = trial.feature * feature + trial.stft * pixel
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(cleaner.parameters(), 1.0)
        optimiser.step()
        if step % 25 == 0 or step == trial.steps - 1:
            told = f"feature {feature.item():.4f} stft {pixel.item():.4f}"
            print(f"{step} {told} {time.monotonic() - began:.0f} s", flush=True)
    cleaner.snr_db = trial.snr_db
    return cleaner


def augmented(
    trial: Trial,
    objective: Callable[[Tensor], Tensor],
    cleaner: nn.Module,
    x: Tensor,
    draws: torch.Generator,
) -> Tensor:
    """Return x (B, T) pushed away in F by SSA, within an SNR drawn for each."""
    if trial.budget is None:
        return x
    low, high = trial.budget
    snr_db = low + (high - low) * torch.rand(len(x), generator=draws, dtype=torch.float64)
    ball = PerUtterance(UNIT.norm(x.double()) * 10.0 ** (-snr_db / 20.0))
    *_, moved = ascend(
        lambda z: objective(cleaner(z) if trial.through else z),
        x,
        ball,
        step=1.5 / trial.ssa_steps,
        steps=trial.ssa_steps,
        start=x + 0.5 * ball.sample(x, draws),
        bounds=(-1.0, 1.0),
    )
    return moved


def key_of(*told: object) -> str:
    """Return digits that tell what decides a file from everything else."""
    return hashlib.sha256(repr(told).encode()).hexdigest()[:16]


def cleaner_of(name: str, encoder: SpeechEncoder) -> NoiseThenGain:
    """Return the cleaner of a trial, trained unless its weights lie there."""
    trial = TRIALS[name]
    cleaner = built(trial)
    if trial.weights:
        cleaner.load_state_dict(cleaner_of(trial.weights, encoder).state_dict())
    elif trial.steps:
        place = MODELS / f"{name}-{key_of(trial, encoder.sha256)}.pt"
        if not place.is_file():
            MODELS.mkdir(parents=True, exist_ok=True)
            torch.save(train(trial, encoder).state_dict(), place)
        cleaner.load_state_dict(torch.load(place, weights_only=True))
    return cleaner.requires_grad_(False).eval()


@cache
def target(place: str) -> EncoderClassifier:
    """Return the target: a head that never heard noise, on what the training speakers said."""
    corpus, fold = group_one()
    recogniser, _ = train_encoder_recogniser(
        corpus,
        fold,
        open_encoder(place),
        TARGET,
        seed=0,
        cache=cache_folder() / "features",
    )
    return recogniser.network.requires_grad_(False).eval()


@dataclass(frozen=True)
class Attack:
    """How an utterance is attacked: momentum PGD at a ratio, steps of a tenth of the ball."""

    snr_db: float
    steps: int
    draws: int

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, seed: int) -> Iterator[Tensor]:
        """Yield each iterate."""
        pgd = MomentumPGD(
            norm=SignalToNoise, epsilon=self.snr_db, step=0.1, steps=self.steps, bounds=(-1.0, 1.0)
        )
        return pgd.trajectory(model, x, y, generator=generator(seed, "attack"))


def conditions(known: tuple[Attack, ...]) -> dict[str, Attack | None]:
    """Return what is asked of each trial: clean, and attacks by name."""
    found: dict[str, Attack | None] = {"clean": None}
    found |= {f"adaptive-{a.snr_db:g}-{a.steps}x{a.draws}": a for a in known}
    return found | {f"oblivious-{snr}": Attack(snr, 20, 1) for snr in (40, 50, 30)}


def attacked(place: str, number: int, x: Tensor, y: Tensor, attack: Attack) -> Tensor:
    """Return what the oblivious attacker makes of an utterance; kept for all trials."""
    told = key_of(attack, target(place).encoder.sha256, TARGET)
    kept = MODELS / "oblivious" / f"{number}-{told}.pt"
    if not kept.is_file():
        kept.parent.mkdir(parents=True, exist_ok=True)
        *_, moved = attack(target(place), x, y, number)
        torch.save(moved, kept)
    moved: Tensor = torch.load(kept, weights_only=True)
    return moved


def fooled_most(
    system: Heard, attack: Attack, x: Tensor, y: Tensor, number: int
) -> tuple[Tensor, int]:
    """Return the iterate that leaves the true class least probable, and its step.

    It is asked at `CHECKS` over 16 new draws each, and stops where that is below a tenth.
    """
    judge = Heard(system.cleaner, system.target, 16, half=True)
    best, lowest, at = x, math.inf, 0
    for step, moved in enumerate(attack(system, x, y, number), start=1):
        if step in CHECKS or step == attack.steps:
            with torch.no_grad():
                probability = float(judge(moved).exp()[0, y])
            if probability < lowest:
                best, lowest, at = moved, probability, step
            if lowest < 0.1:
                break
    return best, at


def measure(name: str, place: str, asked: dict[str, Attack | None], utterances: int) -> None:
    """Ask a trial under some conditions, and write what is known of it."""
    network = target(place)
    cleaner = cleaner_of(name, network.encoder)
    table = RESULTS / f"{name}.csv"
    RESULTS.mkdir(parents=True, exist_ok=True)
    if asked:
        ask(cleaner, place, asked, table, utterances)
    record = {
        "trial": name,
        "settings": asdict(TRIALS[name]),
        "parameters": sum(p.numel() for p in cleaner.parameters()),
        "validation": apart(cleaner, network.encoder),
        "figures": summary(pd.read_csv(table)) if table.is_file() else {},
        **{key: provenance("").get(key) for key in ("commit",)},
    }
    write_whole(RESULTS / f"{name}.json", (json_text(record, indent=1) + "\n").encode())
    print(name, json.dumps(record["figures"]), flush=True)


def ask(
    cleaner: NoiseThenGain,
    place: str,
    asked: dict[str, Attack | None],
    table: Path,
    utterances: int,
) -> None:
    """Add the answers that are missing to a table, each as it comes."""
    network = target(place)
    answering = Heard(cleaner, network, max(DRAWS), half=False)
    corpus, fold = group_one()
    test = fold.test
    under_attack = chosen(test, utterances, seed=0)
    done = set()
    if table.is_file():
        done = set(map(tuple, pd.read_csv(table)[["condition", "utterance"]].to_numpy()))
    columns = ["condition", "utterance", "speaker", "label", *(f"said_{n}" for n in DRAWS)]
    columns += ["output_snr_db", "step", "probability"]
    with table.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if not done:
            writer.writerow(columns)
        for condition, attack in asked.items():
            began = time.monotonic()
            for number, row in enumerate(test.utterances.to_dict("records")):
                if (condition, row["utterance"]) in done or (attack and not under_attack[number]):
                    continue
                sound = audio.read(corpus.root / str(row["path"]), sample_rate=RATE)
                x = set_level(torch.from_numpy(sound)[None], LEVEL_DBFS).clamp(-1.0, 1.0)
                y = torch.tensor([corpus.labels.index(str(row["label"]))])
                moved, step = x, 0
                cleaner.draws.manual_seed(generator(number, condition, "attack").initial_seed())
                if attack and attack.draws > 1:
                    system = Heard(cleaner, network, attack.draws, half=True)
                    moved, step = fooled_most(system, attack, x, y, number)
                elif attack:
                    moved, step = attacked(place, number, x, y, attack), attack.steps
                cleaner.draws.manual_seed(generator(number, condition, "answer").initial_seed())
                with torch.no_grad():
                    each = answering.each(moved)[:, 0].exp()
                    distance_db = float(signal_to_noise_ratio(x, cleaner(moved))[0])
                said = [corpus.labels[int(each[:n].mean(0).argmax())] for n in DRAWS]
                told = [row["speaker"], row["label"], *said, f"{distance_db:.2f}", step]
                told.append(f"{float(each[:, y].mean()):.4f}")
                writer.writerow([condition, row["utterance"], *told])
                file.flush()
            print(f"{table.stem} {condition} {time.monotonic() - began:.0f} s", flush=True)


def summary(answers: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Return for each condition the UAR in percent of 1, 4 and 8 draws, and the output's SNR.

    Where it was asked for, also the mean probability of the true class in each draw, in percent.
    """
    found = {}
    for condition, rows in answers.groupby("condition", sort=False):
        figures = {f"uar_{n}": 100 * uar(rows["label"], rows[f"said_{n}"]) for n in DRAWS}
        figures |= {"utterances": len(rows), "output_snr_db": rows["output_snr_db"].mean()}
        if rows["probability"].notna().all():
            figures["probability"] = 100 * rows["probability"].mean()
        found[str(condition)] = {key: round(float(value), 1) for key, value in figures.items()}
    return found


def main() -> None:
    """Train and measure what the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("encoder")
    parser.add_argument("trials", nargs="+", choices=TRIALS, metavar="TRIAL")
    kinds = ("clean", "adaptive", "oblivious")
    parser.add_argument("--ask", nargs="*", choices=kinds, default=kinds)
    parser.add_argument("--adaptive", type=float, nargs="*", default=[50.0, 40.0], metavar="DB")
    parser.add_argument("--utterances", type=int, default=16, help="under attack")
    parser.add_argument("--steps", type=int, default=40, help="of the adaptive attack")
    parser.add_argument("--draws", type=int, default=8, help="that each of its gradients averages")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name in given.trials:
        known = tuple(Attack(snr_db, given.steps, given.draws) for snr_db in given.adaptive)
        asked = conditions(known)
        kept = {each: asked[each] for each in asked if each.partition("-")[0] in given.ask}
        measure(name, given.encoder, kept, given.utterances)


if __name__ == "__main__":
    main()
