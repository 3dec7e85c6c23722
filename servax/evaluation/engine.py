"""The one engine: systems × threats × utterances → records.

An oblivious attack (the paper's threat model) takes the gradients of the bare model, a transfer
attack those of a surrogate: both are computed **once**, and every system is scored on the same
inputs. All others go through each system itself. Sizes of a ball and steps of a trajectory share
their work. `run` does all of it for a list of threats; a run of a recipe, an audit, the benchmark
and a calibration call the parts of `AttackEngine`, so that each result can be kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from servax.attacks import Counting, logits_of
from servax.attacks.logits import labelled, with_gradients
from servax.audio import read_in_range
from servax.audio.writing import LARGEST_OF_16_BITS
from servax.defences import (
    Bpda,
    Defended,
    ExpectationOverDraws,
    SameDraws,
    draws_inside,
    draws_until_flat,
    generators_of,
)
from servax.errors import ServaxError, SettingError
from servax.evaluation.answers import asked
from servax.evaluation.dataset import EvaluationSet
from servax.evaluation.distortion import signal_to_noise_ratio
from servax.evaluation.records import UNDEFENDED, Records, validate
from servax.evaluation.systems import System
from servax.evaluation.threats import CLEAN, Threat
from servax.evaluation.trial import repeats
from servax.features import Dataset, FrontEnd, FrontEndSettings, Scaling
from servax.kinds import Precision
from servax.models import WaveformClassifier, classes_of
from servax.perturbation import into_16_bit
from servax.training import Compute, generator

FEW = 8
"""Most utterances that tell whether a system is random, and over how many draws it is averaged."""
FEWEST_DRAWS, MOST_DRAWS = 2, 64
"""Draws whose mean is one gradient of a random system, those of its own answer counted."""


@dataclass(frozen=True)
class Identity:
    """What is the same in every row of a table of records."""

    target: str
    """Name of the attacked recogniser."""
    fold: int
    """Number of the held-out fold, from 1."""
    seed: int
    """Seed of the run."""


@dataclass(frozen=True, eq=False)
class Attacked:
    """What a threat came to."""

    frame: pd.DataFrame
    """Records: one row per utterance, system and strength."""
    measures: dict[str, Any]
    """Gradients and queries per attacked utterance, distances and SNR."""
    inputs: Tensor
    """The inputs at the last strength, shape of the utterances' x."""
    answers: Mapping[str, pd.DataFrame]
    """What random systems answer to these when they are asked again and again, by name."""


@dataclass(frozen=True, kw_only=True, eq=False)
class AttackEngine:
    """Attacks systems on utterances; the parts of `run`."""

    dataset: EvaluationSet
    """Who is attacked."""
    identity: Identity
    """What is the same in every row."""
    batch_size: int = 16
    """Utterances attacked together."""
    gradients: Precision = "float32"
    """`bfloat16` is the fast mode: predictions stay in float32, and records name it."""
    compute: Compute = field(default_factory=lambda: Compute("cpu"))
    """Device; predictions are in float32 whatever its precision."""
    reseeds: bool = False
    """Whether a random system's draws start anew for each threat and strength, so that each alone
    decides its numbers; else whoever made the system has seen to it."""
    tick: Callable[[], None] = lambda: None
    """Called `Threat.ticks` times per threat, and once per batch of clean input."""
    most_draws: int = MOST_DRAWS
    """Most draws whose mean is one gradient of a random system."""
    times: int = 0
    """How often a random system is asked about the same inputs; 0 leaves it at the one answer that
    stands in the records."""
    needed: dict[tuple[str, str], int] = field(default_factory=dict)
    """Over how many draws a gradient of a system is averaged, once it is known."""

    def clean(self, systems: Sequence[System]) -> pd.DataFrame:
        """Return the records of the inputs as they are, for every system."""
        device = self._placed(systems)
        predictions = {system.name: torch.full_like(self.dataset.y, -1) for system in systems}
        for system in systems:
            self.reseed(system, "clean")
        for positions in self._batches(torch.arange(len(self.dataset))):
            x = self.dataset.x[positions].to(device)
            for system in systems:
                found = self._predicted(system.model, x, positions)
                predictions[system.name][positions] = found
            self.tick()
        frames = [self.rows(name, found) for name, found in predictions.items()]
        return validate(pd.concat(frames, ignore_index=True))

    def on_source(self, threat: Threat, source: nn.Module, systems: Sequence[System]) -> Attacked:
        """Return what inputs made against `source` do to every system (oblivious, transfer).

        All utterances are attacked, and to the end: what the source gets wrong another model may
        not. What is beyond `others_up_to` is scored for the source itself alone.
        """
        everyone = torch.arange(len(self.dataset))
        return self._attack(threat, source, systems, everyone, apart=True)

    def on_system(
        self, threat: Threat, system: System, predictions: Tensor | None = None
    ) -> Attacked:
        """Return what an attack through one system does to it.

        Args:
            threat: What is done.
            system: Who is attacked and scored.
            predictions: What it says without attack, (N,); asked for where it is needed.
        """
        chosen = torch.arange(len(self.dataset))
        if not threat.everyone:
            if predictions is None:
                predictions = self.predictions(system)
            worth_it = predictions == self.dataset.y
            if threat.towards:  # who is of the wanted class already cannot be led there
                worth_it &= self.dataset.y != self.dataset.number(threat.towards)
            chosen = torch.nonzero(worth_it).squeeze(1)
        source, draws = self.faced(threat, system)
        self.reseed(system, threat.name)
        return self._attack(threat, source, [system], chosen, predictions=predictions, draws=draws)

    def predictions(self, system: System) -> Tensor:
        """Return what a system says to the inputs as they are, (N,)."""
        frame = self.clean([system])
        return torch.tensor([self.dataset.number(name) for name in frame["prediction"]])

    def faced(self, threat: Threat, system: System) -> tuple[nn.Module, int]:
        """Return what the attacker differentiates or asks, and over how many draws.

        The system itself; its BPDA twin; or its mean over draws, where it is random.
        """
        model = system.model
        if threat.knowledge == "bpda" and system.bridgeable and isinstance(model, Defended):
            model = Bpda(model.model, model.defence).eval()
        draws = threat.draws or (1 if threat.knowledge == "black_box" else 0)
        key = (system.name, threat.knowledge)
        if not draws and key not in self.needed:
            # Not where an earlier stage left off: each decides its numbers alone.
            self.reseed(system, "draws")
            random = self.random(system, model)
            self.needed[key] = draws_needed(model, *self._few(), self.most_draws) if random else 1
        draws = draws or self.needed[key]
        if draws == 1:
            return model, 1
        draws //= 2 if threat.halved else 1
        mean: nn.Module = ExpectationOverDraws(model, draws, threat.mean)
        return (SameDraws(mean) if threat.fixed else mean).eval(), draws

    def answers(self, system: System, inputs: Tensor, *purpose: str) -> pd.DataFrame:
        """Return what a random system answers to inputs (N, ...) when it is asked again and again.

        Args:
            system: The system.
            inputs: Of the utterances.
            purpose: Decides its draws, where the engine starts them anew.
        """
        self.reseed(system, "answers", *purpose)
        device = self._placed([system])
        parts = [
            asked(system.model, inputs[p].to(device), self.dataset.y[p].to(device), self.times)
            for p in self._batches(torch.arange(len(inputs)))
        ]
        return pd.concat(parts, ignore_index=True)

    def random(self, system: System, model: nn.Module | None = None) -> bool:
        """Return whether the answers of a system (or of what stands for it) differ by draws."""
        return repeats(model or system.model, self._few()[0]).random

    def reseed(self, system: System, *purpose: str) -> None:
        """Start the draws of a random defence anew, where the engine does that."""
        if self.reseeds:
            reseed(system, self.identity.seed, *purpose)

    def rows(
        self,
        system: str,
        predictions: Tensor,
        threat: Threat | None = None,
        strength: float = 0.0,
        draws: int = 1,
    ) -> pd.DataFrame:
        """Return the records of one system under one condition; without a threat, of clean input.

        Args:
            system: Its name.
            predictions: Classes (N,).
            threat: Under which they were predicted.
            strength: Of it.
            draws: Draws whose mean was one gradient.
        """
        heard, told = self.dataset, asdict(self.identity)
        condition: Mapping[str, Any] = CLEAN | {"space": heard.space}
        if threat is not None:
            condition = threat.told(strength, space=heard.space, draws=draws)
        table = heard.corpus.utterances
        frame = pd.DataFrame(
            {
                **{name: table[name].array for name in ("utterance", "speaker", "gender", "label")},
                "prediction": np.array(heard.names, dtype=object)[predictions.numpy()],
            }
        )
        return frame.assign(
            **told | {"target": labelled(self.identity.target, self.gradients)},
            corpus=heard.corpus.name,
            defence=system,
            attack=threat.name if threat else "none",
            strength=strength,
            knowledge=threat.knowledge if threat else "none",
            **condition,
        )

    def _attack(
        self,
        threat: Threat,
        source: nn.Module,
        systems: Sequence[System],
        chosen: Tensor,
        *,
        predictions: Tensor | None = None,
        draws: int = 1,
        apart: bool = False,
    ) -> Attacked:
        """Return what an attack on `source` does to systems.

        An attack on the sound goes an utterance at a time, since sounds have lengths of their own;
        what is scored is what a 16-bit file of the attacked sound gives.

        Args:
            threat: What is done.
            source: What the attacker differentiates or asks.
            systems: Who is scored.
            chosen: Positions of the utterances that are attacked.
            predictions: What the one system says of the others, (N,).
            draws: Draws whose mean is one gradient.
            apart: Whether the draws of each system at each strength are kept apart.
        """
        heard, device = self.dataset, self._placed(systems, source)
        models = {system.name: system.model for system in systems}
        shown = [
            (strength, system.name)
            for strength in threat.strengths
            for system in systems
            if strength <= threat.others_up_to or system.model is source
        ]
        front: nn.Module = nn.Identity()
        if threat.waveform:
            front_end, scale = front_of(systems[0])
            front = nn.Sequential(FrontEnd(front_end), scale).to(device)
            source = WaveformClassifier(front, source)
            models = {name: WaveformClassifier(front, each).eval() for name, each in models.items()}
        counting = Counting(with_gradients(source.eval(), self.gradients))
        before = torch.full_like(heard.y, -1) if predictions is None else predictions
        found = {key: before.clone() for key in shown}
        states: dict[tuple[float, str], list[Tensor]] = {}
        moved, ratios = heard.x.clone(), [torch.empty(0, dtype=torch.float64)]
        for number, (positions, x) in enumerate(self._inputs(threat, systems[0], chosen)):
            x, y = x.to(device), heard.y[positions].to(device)
            if threat.towards:
                y = torch.full_like(y, heard.number(threat.towards))
            free = None if threat.waveform else heard.mask
            mask = None if free is None else free[positions].to(device)
            starts = generator(self.identity.seed, threat.name, threat.knowledge, number)
            if apart and self.reseeds:
                # Not the draws that it is scored with, nor where the last batch left off.
                _start(source, self.identity.seed, "source", threat.name, threat.knowledge, number)
            for strength, made in threat.moved(counting, x, y, generator=starts, mask=mask):
                attacked = as_heard(made, heard.space)
                for system in systems:
                    key = strength, system.name
                    if key in found:
                        # It draws on where its last batch of this strength ended.
                        drawing = generators_of(system.model) if apart and self.reseeds else []
                        if drawing:
                            self.reseed(system, threat.name)
                        for each, state in zip(drawing, states.get(key, ()), strict=False):
                            each.set_state(state)
                        found[key][positions] = self._predicted(
                            models[system.name], attacked, positions
                        )
                        states[key] = [each.get_state() for each in drawing]
                if strength == threat.strength:
                    ratios.append(signal_to_noise_ratio(x, attacked).cpu())
                    with torch.no_grad():
                        moved[positions] = front(attacked).cpu()
                if threat.ks:
                    self.tick()
            if not threat.ks and (not threat.waveform or number % self.batch_size == 0):
                self.tick()
        frames = [self.rows(name, found[s, name], threat, s, draws) for s, name in shown]
        measures = self._measures(threat, moved, torch.cat(ratios), counting, len(chosen))
        # A sound has a ball of its own, and one who leads to a class leaves that class alone.
        again = systems if self.times and not (threat.waveform or threat.towards) else []
        answers = {
            system.name: self.answers(system, moved, threat.knowledge, threat.name)
            for system in again
            if self.random(system)
        }
        if threat.towards and len(chosen):
            led = found[shown[-1]][chosen] == heard.number(threat.towards)
            measures |= {"towards": threat.towards, "success_rate": float(led.float().mean())}
        return Attacked(validate(pd.concat(frames, ignore_index=True)), measures, moved, answers)

    def _inputs(
        self, threat: Threat, system: System, chosen: Tensor
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield positions and inputs that are attacked together."""
        if threat.waveform:
            for position, sound in sounds_of(system, self.dataset, chosen.tolist()):
                yield torch.tensor([position]), sound
        else:
            for positions in self._batches(chosen):
                yield positions, self.dataset.x[positions]

    def _few(self) -> tuple[Tensor, Tensor]:
        few = slice(0, min(FEW, self.batch_size))
        return self.dataset.x[few], self.dataset.y[few]

    def _batches(self, positions: Tensor) -> Iterator[Tensor]:
        if self.batch_size < 1:
            raise SettingError("batch size", self.batch_size, "a whole number of at least 1")
        if len(positions):
            yield from torch.split(positions, self.batch_size)

    def _placed(self, systems: Sequence[System], *sources: nn.Module) -> torch.device:
        """Put all models on the device, in evaluation mode."""
        device = self.compute.resolve()
        for model in (*(system.model for system in systems), *sources):
            model.to(device).eval()
        return device

    def _predicted(self, model: nn.Module, x: Tensor, positions: Tensor) -> Tensor:
        names = self.dataset.corpus.utterances["utterance"].iloc[positions.numpy()].tolist()
        return predict(model, x, batch_size=len(x), names=names).cpu()

    def _measures(
        self, threat: Threat, moved: Tensor, ratios: Tensor, counting: Counting, count: int
    ) -> dict[str, Any]:
        """Return what it took for each attacked utterance, and how far those moved that did."""
        ratios = ratios[ratios < torch.inf]
        found: dict[str, Any] = {
            "gradients_per_utterance": round(counting.backward_rows / max(1, count), 2),
            "queries_per_utterance": round(counting.forward_rows / max(1, count), 2),
            "attacked": count,
            "moved": len(ratios),
        }
        if not len(ratios):
            return found
        if not threat.waveform:
            x = self.dataset.x
            touched = (moved != x).flatten(1).any(1)
            ball = threat.attack.ball.around(x[touched])
            found["median_distance"] = float(ball.norm((moved - x)[touched]).median())
        found["median_snr_db"] = float(ratios.median())
        return found | {"lowest_snr_db": float(ratios.min())}


def run(
    systems: Sequence[System],
    threats: Sequence[Threat],
    dataset: Dataset | EvaluationSet,
    *,
    surrogates: Mapping[str, nn.Module] | None = None,
    **settings: Any,
) -> Records:
    """Return records: what each system says of each utterance, clean and under each threat.

    Args:
        systems: The bare model first, called ``undefended``, then its defences.
        threats: What is done. Nothing stands before the bare model: where an oblivious attack is
            tried, it is the bare model's adaptive one too, and not computed twice.
        dataset: Held-out utterances.
        surrogates: Models whose gradients transfer attacks take, by name.
        **settings: Of `AttackEngine`; `identity` must be given.

    Raises:
        SettingError: A defence is called ``undefended``.
        ServaxError: What a model answers to an utterance is NaN or infinite.
    """
    if any(system.name == UNDEFENDED for system in systems[1:]):
        raise SettingError("defence name", UNDEFENDED, "another name, this one is the bare target")
    heard = dataset if isinstance(dataset, EvaluationSet) else EvaluationSet.of(dataset)
    engine = AttackEngine(dataset=heard, **settings)
    bare, frames = systems[0], [engine.clean(systems)]
    made: list[tuple[Threat, pd.DataFrame]] = []
    for threat in threats:
        if threat.knowledge in ("oblivious", "transfer"):
            sources = {"": bare.model, **(surrogates or {})}
            frame = engine.on_source(threat, sources[threat.surrogate], systems).frame
            made += [(threat, frame)] * (threat.knowledge == "oblivious")
            frames.append(frame[frame["strength"] <= threat.others_up_to])
            continue
        known = [frame for each, frame in made if covers(each, threat)]
        frames += [as_adaptive(frame, threat) for frame in known[:1]]
        for system in systems[bool(known) :]:
            through = threat if system.exact else replace(threat, knowledge="bpda")
            frames.append(engine.on_system(through, system).frame)
    frame = validate(pd.concat(frames, ignore_index=True))
    corpus = engine.dataset.corpus
    told = {"corpus": corpus.name, "scheme": corpus.scheme, "classes": list(corpus.labels)}
    return Records(frame, told)


def covers(oblivious: Threat, adaptive: Threat) -> bool:
    """Tell whether an oblivious attack on the bare model has all that an adaptive one would do."""
    return adaptive.name == oblivious.name and set(adaptive.strengths) <= set(oblivious.strengths)


def as_adaptive(frame: pd.DataFrame, threat: Threat) -> pd.DataFrame:
    """Return the bare model's records of an oblivious attack as those of one by who knows it."""
    bare = (frame["defence"] == UNDEFENDED) & frame["strength"].isin(threat.strengths)
    return frame[bare].assign(knowledge="adaptive")


def as_heard(attacked: Tensor, space: str) -> Tensor:
    """Return attacked inputs (B, ...) as systems get them: sound as a file of 16 bits holds it."""
    return into_16_bit(attacked) if space == "waveform" else attacked


@torch.no_grad()
def predict(model: nn.Module, x: Tensor, *, batch_size: int, names: Sequence[str] = ()) -> Tensor:
    """Return the predicted classes (N,) of inputs (N, ...).

    Raises:
        ServaxError: An answer is NaN or infinite; of `names` (N,) the utterance is told.
    """
    found = [
        classes_of(logits_of(model, part), names[first : first + batch_size])
        for first, part in zip(
            range(0, len(x), batch_size), torch.split(x, batch_size), strict=True
        )
    ]
    return torch.cat(found) if found else torch.empty(0, dtype=torch.int64)


def draws_needed(model: nn.Module, x: Tensor, y: Tensor, most: int = MOST_DRAWS) -> int:
    """Return over how many answers attackers average the gradient of a random classifier (EOT).

    Args:
        model: The classifier; each of its answers may be a mean over draws already.
        x: A few clean inputs (B, ...).
        y: Their classes (B,).
        most: Draws in all, of all answers.
    """
    inside = draws_inside(model)
    fewest = max(FEWEST_DRAWS // inside, 1)
    return max(fewest, draws_until_flat(model, x, y, most=max(most // inside, fewest)))


def reseed(system: System, seed: int, *purpose: str) -> None:
    """Start the draws of a random defence anew."""
    _start(system.model, seed, "defence", system.name, *purpose)


def _start(model: nn.Module, seed: int, *purpose: str | int) -> None:
    """Start all that a model draws anew, each of its generators with draws of its own."""
    for number, drawing in enumerate(generators_of(model)):
        own = (*purpose, number) if number else purpose
        drawing.manual_seed(generator(seed, *own).initial_seed())


def front_of(system: System) -> tuple[FrontEndSettings, Scaling]:
    """Return the front-end and scale of a system of log-Mel."""
    if system.front_end is None or system.scale is None:
        raise ServaxError(f"{system.name}: takes no log-Mel, so there is no front-end.")
    return system.front_end, system.scale


def sounds_of(
    system: System, heard: EvaluationSet, positions: Sequence[int]
) -> Iterator[tuple[int, Tensor]]:
    """Yield position and sound (1, T) of the utterances at `positions`, as long as they are."""
    stretches = heard.corpus.stretches
    for position in positions:
        _, path, start, end = stretches[position]
        sound = read_in_range(path, sample_rate=system.sample_rate, start=start, end=end)
        yield position, torch.from_numpy(sound).clamp(max=LARGEST_OF_16_BITS).unsqueeze(0)
