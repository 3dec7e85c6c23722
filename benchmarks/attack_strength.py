"""How strong attacks are: those of servax beside those of foolbox, ART and torchattacks.

All attack the same recogniser with the same utterances, radius, steps and queries; what is told is
how much of the model's accuracy each leaves, lower being stronger, and what it cost. Minimum-norm
attacks, which servax takes from foolbox, are called through the bridge and directly: the mean
distance must be the same.

Libraries are given only the utterances that are right without an attack. Costs are rows that went
through the network forwards and backwards, divided by all utterances; seconds are those of the
processor. Auto-PGD and Square stop with an utterance once it is fooled, as the libraries do; plain
and momentum PGD take all steps everywhere.

Needs foolbox, adversarial-robustness-toolbox, and torchattacks (``pip install --no-deps``).

    python benchmarks/attack_strength.py --model runs/ravdess_paper_cpu/models/fold-1-target \
        --utterances 32
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from subject import held_out
from torch import Tensor, nn

from servax.attacks import (
    APGD,
    PGD,
    Counting,
    Foolbox,
    MomentumPGD,
    Square,
    TargetedAPGD,
)
from servax.corpora import cache_folder, load
from servax.errors import ServaxError, SettingError
from servax.experiments.provenance import provenance
from servax.features import Dataset, FrontEnd, extract
from servax.models import frozen
from servax.perturbation import L2
from servax.recognition import Recogniser
from servax.training import Compute

LIBRARIES = ("foolbox", "adversarial-robustness-toolbox", "torchattacks")
STEP = 0.25
"""Length of a step of PGD, as a share of the radius."""
POINTS = 100.0 / 32.0
"""How much accuracy ours may leave more than a library, in points: one utterance of 32."""

Run = Callable[..., Tensor]
"""From model, inputs, classes and `generator` to adversarial inputs, as an attack is called."""
Make = Callable[[float], Run]
"""From the radius to an attack."""


@dataclass(frozen=True, kw_only=True)
class Duel:
    """One attack of ours, and the same one of the libraries."""

    ours: Make
    theirs: Mapping[str, Make]
    """By the name of the library."""


def foolbox(name: str, **settings: Any) -> Make:
    """Return what makes an attack of foolbox, with a step of a quarter of the radius."""
    return lambda radius: Foolbox(
        attack=name, epsilon=radius, settings={**settings, "rel_stepsize": STEP}
    )


def images(name: str, *, step: str | None = None, **settings: Any) -> Make:
    """Return what makes an attack of torchattacks; `step` is its name for a step's length."""

    def made(radius: float) -> Run:
        import torchattacks  # type: ignore[import-untyped]

        def run(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            length = {} if step is None else {step: STEP * radius}
            attack = getattr(torchattacks, name)(model, eps=radius, **length, **settings)
            attack.set_device(x.device)
            return attack(x, y)  # type: ignore[no-any-return]

        return spared(run)

    return made


def art(name: str, *, stepping: bool = False, **settings: Any) -> Make:
    """Return what makes an attack of ART; `stepping`: with a step of a quarter of the radius."""

    def made(radius: float) -> Run:
        from art.attacks import evasion
        from art.estimators.classification import PyTorchClassifier

        def run(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            with torch.no_grad():
                classes = model(x[:1]).shape[1]
            classifier = PyTorchClassifier(
                model=model,
                loss=nn.CrossEntropyLoss(),
                input_shape=tuple(x.shape[1:]),
                nb_classes=classes,
                clip_values=(0.0, 1.0),
                device_type="cpu" if x.device.type == "cpu" else "gpu",
            )
            given = {"eps": radius, "batch_size": max(64, len(x)), "verbose": False, **settings}
            # Its steps are refused when longer than the radius.
            length = STEP * radius if stepping else min(0.1, radius)
            if name != "SquareAttack":
                given["eps_step"] = length
            labels = nn.functional.one_hot(y, classes).cpu().numpy()
            found = getattr(evasion, name)(classifier, **given).generate(x.cpu().numpy(), labels)
            return torch.from_numpy(found).to(x)

        return spared(run)

    return made


def spared(run: Run) -> Run:
    """Return an attack that enters only with what is right without it."""

    def entered(
        model: nn.Module, x: Tensor, y: Tensor, *, generator: torch.Generator | None = None
    ) -> Tensor:
        del generator
        with torch.no_grad():
            right = model(x).argmax(dim=1) == y
        found = x.clone()
        if bool(right.any()):
            found[right] = run(model, x[right], y[right])
        return found

    return entered


def first_share(side: int, frames: int) -> float:
    """Return which share a square may cover on log-Mels that are no squares: at most .8.

    The libraries place squares of the published share outside of a log-Mel with many frames.
    """
    return min(0.8, (min(side, frames) - 1) ** 2 / (side * frames))


def duels(steps: int, auto_steps: int, queries: int, shape: tuple[int, int]) -> dict[str, Duel]:
    """Return what is compared at every radius on log-Mels of a shape (M, F)."""
    own = {"n_restarts": 1, "steps": auto_steps}
    share = first_share(*shape)
    return {
        "PGD": Duel(
            ours=lambda r: PGD(epsilon=r, step=STEP * r, steps=steps),
            theirs={
                "foolbox": foolbox("LinfPGD", steps=steps, random_start=False),
                "ART": art("ProjectedGradientDescent", stepping=True, max_iter=steps),
                "torchattacks": images("PGD", step="alpha", steps=steps, random_start=False),
            },
        ),
        "MI-FGSM": Duel(
            ours=lambda r: MomentumPGD(epsilon=r, step=STEP * r, steps=steps),
            theirs={
                "foolbox": foolbox("LinfMomentumIterativeFastGradientMethod", steps=steps),
                "ART": art("MomentumIterativeMethod", stepping=True, max_iter=steps),
                "torchattacks": images("MIFGSM", step="alpha", steps=steps),
            },
        ),
        "APGD-CE": Duel(
            ours=lambda r: APGD(epsilon=r, steps=auto_steps),
            theirs={
                "ART": art(
                    "AutoProjectedGradientDescent",
                    max_iter=auto_steps,
                    nb_random_init=1,
                    loss_type="cross_entropy",
                ),
                "torchattacks": images("APGD", loss="ce", **own),
            },
        ),
        "APGD-DLR": Duel(
            ours=lambda r: APGD(epsilon=r, steps=auto_steps, loss="dlr"),
            theirs={"torchattacks": images("APGD", loss="dlr", **own)},
        ),
        "APGD-DLR-T": Duel(
            ours=lambda r: TargetedAPGD(epsilon=r, steps=auto_steps),
            theirs={"torchattacks": images("APGDT", **own)},
        ),
        "Square": Duel(
            ours=lambda r: Square(epsilon=r, queries=queries),
            theirs={
                # One of its iterations asks three times.
                "ART": art("SquareAttack", max_iter=queries // 3, p_init=share),
                "torchattacks": images("Square", n_queries=queries, p_init=share),
            },
        ),
    }


def nearest(steps: int) -> dict[str, Foolbox]:
    """Return the minimum-norm attacks, all of foolbox."""
    return {
        "DeepFool": Foolbox.preset("deepfool"),
        "FMN": Foolbox.preset("fmn", steps=steps),
        "DeepFool L2": Foolbox.preset("deepfool", norm=L2),
        "DDN": Foolbox.preset("ddn", steps=steps),
        "Carlini-Wagner": Foolbox.preset("carlini-wagner", steps=steps),
    }


@dataclass(frozen=True)
class Bench:
    """The network and its inputs."""

    network: nn.Module
    parts: list[tuple[Tensor, Tensor]]
    """Inputs (B, 1, M, F) and classes (B,) of each batch."""
    seed: int

    @property
    def utterances(self) -> int:
        """How many there are."""
        return sum(len(y) for _, y in self.parts)

    def of(self, attack: Run) -> dict[str, float]:
        """Return what an attack leaves of the accuracy (%), and what it cost."""
        counting, right, begin = Counting(self.network), 0, time.process_time()
        generator = torch.Generator().manual_seed(self.seed)
        for x, y in self.parts:
            found = attack(counting, x, y, generator=generator)
            with torch.no_grad():
                right += int((self.network(found).argmax(dim=1) == y).sum())
        return {
            "accuracy": 100.0 * right / self.utterances,
            "gradients": counting.backward_rows / self.utterances,
            "queries": counting.forward_rows / self.utterances,
            "seconds": time.process_time() - begin,
        }

    def distances(self, attack: Foolbox) -> dict[str, float]:
        """Return the mean distance that a minimum-norm attack finds, bridged and called directly.

        Over the utterances that are right when clean and that both calls fool.
        """
        bridged, direct = [], []
        begin = time.process_time()
        for x, y in self.parts:
            with torch.no_grad():
                right = self.network(x).argmax(dim=1) == y
            x, y = x[right], y[right]
            if len(y):
                generator = torch.Generator().manual_seed(self.seed)
                bridged.append(attack.distances(self.network, x, y, generator=generator))
                direct.append(called_directly(attack, self.network, x, y))
        ours, theirs = torch.cat(bridged), torch.cat(direct)
        both = ours.isfinite() & theirs.isfinite()
        return {
            "bridged": float(ours[both].mean()),
            "direct": float(theirs[both].mean()),
            "bridged_found": int(ours.isfinite().sum()),
            "direct_found": int(theirs.isfinite().sum()),
            "seconds": time.process_time() - begin,
        }


def called_directly(attack: Foolbox, network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return the distances (B,) that foolbox finds by itself, infinite where it finds nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import foolbox

        model = foolbox.PyTorchModel(network, bounds=(0, 1), device=x.device)
        _, found, fooled = attack.kind(**attack.settings)(model, x, y, epsilons=None)
    distance: Tensor = attack.ball.norm(found - x)
    return distance.masked_fill(~fooled, float("inf"))


def rows(
    bench: Bench, compared: Mapping[str, Duel], radii: list[float]
) -> Iterator[dict[str, Any]]:
    """Yield a row for each attack, radius and library."""
    for radius in radii:
        for name, duel in compared.items():
            ours = bench.of(duel.ours(radius))
            for library, make in duel.theirs.items():
                row: dict[str, Any] = {"attack": name, "radius": radius, "library": library}
                theirs = bench.of(make(radius))
                for key, value in ours.items():
                    row[f"servax_{key}"], row[f"library_{key}"] = value, theirs[key]
                print(f"{name} {radius:g} {library}: {row}", file=sys.stderr, flush=True)
                yield row


def main() -> int:
    """Run the benchmark; 0 when nothing of ours is weaker by more than one utterance of 32."""
    given = arguments()
    torch.set_num_threads(given.threads)
    bench = bench_of(given)
    begin = time.perf_counter()
    with torch.no_grad():
        right = [bench.network(x).argmax(dim=1) == y for x, y in bench.parts]
    mels, frames = bench.parts[0][0].shape[-2:]
    compared = duels(given.steps, given.auto_steps, given.queries, (mels, frames))
    table = pd.DataFrame(rows(bench, compared, given.radii))
    distances = [
        {"attack": name, "norm": attack.norm.__name__, **bench.distances(attack)}
        for name, attack in nearest(given.nearest_steps).items()
    ]
    origin = dict(provenance(" ".join(["python", *sys.argv])))
    origin["versions"] = {**origin["versions"], **{name: version(name) for name in LIBRARIES}}
    found = {
        **origin,
        "device": given.device,
        "utterances": bench.utterances,
        "clean_accuracy": 100.0 * float(torch.cat(right).double().mean()),
        "settings": {
            "steps": given.steps,
            "step": f"{STEP:g} of the radius",
            "auto_steps": given.auto_steps,
            "queries": given.queries,
            "nearest_steps": given.nearest_steps,
            "seed": given.seed,
        },
        "seconds": time.perf_counter() - begin,
        "fixed_radius": table.to_dict("records"),
        "minimum_norm": distances,
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(found, indent=1, default=str) + "\n", encoding="utf-8")
    return show(found, table, given.out)


def bench_of(given: argparse.Namespace) -> Bench:
    """Return the network and its inputs."""
    device = Compute(given.device).resolve()
    recogniser = Recogniser.from_pretrained(given.model)
    corpus = load(given.corpus, given.root, scheme=given.scheme)
    if recogniser.labels != corpus.labels:
        raise SettingError(
            "model", str(given.model), f"one with the labels {', '.join(corpus.labels)}"
        )
    test = held_out(corpus, groups=given.groups, index=given.held_out, utterances=given.utterances)
    features = extract(test, FrontEnd(recogniser.front_end), folder=cache_folder() / "features")
    data = Dataset(test, features, recogniser.scale)
    return Bench(
        network=frozen(recogniser.network).to(device).eval(),
        parts=[(batch.x, batch.y) for batch in data.batches(given.batch_size, device)],
        seed=given.seed,
    )


def show(found: dict[str, Any], table: pd.DataFrame, out: Path) -> int:
    """Print the figures; 0 when ours are not weaker."""
    print(f"{found['machine']}, device {found['device']}; commit {found['commit']}")
    print(", ".join(f"{name} {number}" for name, number in found["versions"].items()))
    print(
        f"{found['utterances']} utterances, {found['clean_accuracy']:.1f} % right when clean; "
        f"{found['seconds']:.0f} s"
    )
    print(table.drop(columns=["servax_seconds", "library_seconds"]).round(4).to_string(index=False))
    print(pd.DataFrame(found["minimum_norm"]).round(6).to_string(index=False))
    behind = float((table["servax_accuracy"] - table["library_accuracy"]).max())
    print(f"ours leave at most {behind:.1f} points more than a library (limit {POINTS:.1f})")
    print(f"written: {out}")
    return 0 if behind <= POINTS else 1


def arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description="Strength of attacks: servax and other libraries.")
    add = parser.add_argument
    add("--model", type=Path, required=True, help="folder of a trained recogniser")
    add("--corpus", default="ravdess", help="name of a corpus, or a manifest")
    add("--root", default=None, help="folder of the corpus; default $SERVAX_DATA/<name>")
    add("--scheme", default="four", help="label scheme")
    add("--groups", type=int, default=6, help="groups of speakers")
    add("--held-out", type=int, default=1, help="which group is attacked, from 1")
    add("--utterances", type=int, default=32, help="how many of it, spread evenly")
    add("--batch-size", type=int, default=16, help="utterances attacked together")
    add("--radii", type=float, nargs="+", default=[0.001, 0.002, 0.004], help="L-inf radii")
    add("--steps", type=int, default=20, help="steps of PGD and MI-FGSM")
    add("--auto-steps", type=int, default=50, help="steps of Auto-PGD, for each target class")
    add("--queries", type=int, default=500, help="queries of Square")
    add("--nearest-steps", type=int, default=100, help="steps of FMN, DDN and Carlini-Wagner")
    add("--seed", type=int, default=0, help="of all random numbers")
    add("--threads", type=int, default=1, help="threads of torch")
    add("--device", default="cpu", help="auto, cpu, cuda or cuda:N")
    add("--out", type=Path, default=Path("results/attack_strength/attack_strength.json"))
    return parser.parse_args()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ServaxError as error:
        sys.exit(f"attack_strength: {error}")
