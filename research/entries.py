"""What one entry of the benchmark says: the defence, how it was trained, and what was measured.

An entry is one JSON file, ``results/benchmark/<name>.json``. UARs stand in percent, PE and RR as
shares; what was not measured is null and is printed as "not measured".
"""

from __future__ import annotations

import datetime
import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from servax.errors import PathError, ServaxError, SettingError
from servax.evaluation.suites import AttackGrid
from servax.experiments.reading import build
from servax.files import json_text, write_whole
from servax.purifier import Level

Kind = Literal["purifier", "input transform", "adversarial training", "none"]
"""What a defence is; `none` is the undefended recogniser."""
GroupSet = Literal["tuning", "held-out"]

LEVELS: dict[Level, str] = {
    "P0": "its training never used the weights of a recogniser that it protects",
    "P1": "its training never used a recogniser of a protected architecture",
    "P2": "its training never used a label",
    "P3": "its training never used an attack on what a recogniser says (its classes)",
}
"""What was kept from a defence while it was trained."""
MEASURES = ("undefended", "clean", "fgsm", "pgd", "pe", "rr")
"""The oblivious figures of an entry, in the order of the table."""
NAME = re.compile(r"\w[\w.+-]*")


@dataclass(frozen=True, kw_only=True)
class Training:
    """What a defence learned from."""

    data: str
    """The recordings, and whose: which speakers, which labels."""
    licence: str
    """Under which the recordings, and so the weights, may be used."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What is the same for all entries of one table."""

    corpus: str = "ravdess"
    """Name of the corpus."""
    scheme: str = "four"
    """Label scheme."""
    groups: int = 6
    """Into how many groups the speakers are divided."""
    tuning: tuple[int, ...] = (1, 2, 3)
    """Groups that may be looked at as often as one likes, from 1."""
    held_out: tuple[int, ...] = (4, 5, 6)
    """Groups that are looked at once, when nothing is changed any more."""
    epsilons: tuple[float, ...] = AttackGrid().epsilons
    """ε of FGSM, on the [0, 1] scale."""
    step: float = AttackGrid().step
    """Step of the oblivious PGD, on the [0, 1] scale."""
    radius: float = AttackGrid().radius
    """Radius of the oblivious PGD, on the [0, 1] scale."""
    steps: int = AttackGrid().steps
    """Largest k of the oblivious PGD; PE and RR are means over every k from 1."""

    def __post_init__(self) -> None:
        told = (*self.tuning, *self.held_out)
        if len(set(told)) < len(told):
            raise SettingError("held_out", list(self.held_out), "groups that are not for tuning")
        if not all(1 <= group <= self.groups for group in told):
            raise SettingError("tuning, held_out", list(told), f"groups from 1 to {self.groups}")
        self.grid()

    def grid(self) -> AttackGrid:
        """Return the strengths of the oblivious attacks."""
        return AttackGrid(
            epsilons=self.epsilons,
            step=self.step,
            radius=self.radius,
            steps=self.steps,
            adaptive_steps=self.steps,
        )

    def of(self, groups: GroupSet) -> tuple[int, ...]:
        """Return the groups of a set."""
        return self.tuning if groups == "tuning" else self.held_out


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A number with its 95 % interval over speakers."""

    value: float
    """UAR in percent, or a share."""
    low: float | None = None
    """Lower end; null below five speakers."""
    high: float | None = None
    """Upper end; null below five speakers."""

    def __post_init__(self) -> None:
        ends = [end for end in (self.low, self.high) if end is not None]
        if not all(map(math.isfinite, (self.value, *ends))):
            raise SettingError("value", self.value, "finite numbers; null says not measured")
        if len(ends) == 1 or ends != sorted(ends):
            raise SettingError("low", self.low, f"null like high, or at most high ({self.high})")


@dataclass(frozen=True, kw_only=True)
class Adaptive:
    """What PGD through the defence leaves: the attacker knows it and takes exact gradients."""

    radius: float
    """Of the ball, on the [0, 1] scale; a step is a quarter of it."""
    steps: int
    """Steps of each start."""
    restarts: int
    """How many random starts; an utterance counts as right only if all of them fail."""
    utterances: int
    """How many were attacked, classes and speakers in equal shares."""
    uar: float
    """In percent."""

    def __post_init__(self) -> None:
        for name in ("steps", "restarts", "utterances"):
            if getattr(self, name) < 1:
                raise SettingError(name, getattr(self, name), "a whole number of at least 1")
        if not 0 < self.radius < math.inf:
            raise SettingError("radius", self.radius, "a finite number above 0")
        check_percent(self, "uar")


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What was measured in front of one kind of recogniser on one set of groups."""

    target: str
    """Network of the recognisers, for example `vgg16`; one recogniser per group."""
    groups: GroupSet
    """Which set of groups."""
    heard: tuple[int, ...]
    """The groups that were measured; fewer than the set has while it is being measured."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of the defence's training; their predictions are pooled."""
    utterances: int
    """How many there are, each seed's counted once."""
    undefended: Figure
    """UAR of the bare recogniser on clean input."""
    clean: Figure | None = None
    """UAR on clean input, through the defence."""
    fgsm: Figure | None = None
    """Mean UAR over the ε of FGSM, oblivious."""
    pgd: Figure | None = None
    """Mean UAR over k = 3, 6, 9, 12, 15 of PGD, oblivious."""
    pe: Figure | None = None
    """Protection efficacy, mean over every k of the oblivious PGD."""
    rr: Figure | None = None
    """Recovery rate, mean over every k of the oblivious PGD."""
    adaptive: tuple[Adaptive, ...] = ()
    """What attackers who know the defence leave."""
    command: str
    """What was typed to measure this."""
    commit: str
    """Of the code that measured it."""
    date: str
    """On which day, YYYY-MM-DD."""

    def __post_init__(self) -> None:
        if not self.heard or not self.seeds:
            raise SettingError("heard, seeds", [], "at least one of each")
        check_percent(self, "undefended", "clean", "fgsm", "pgd")
        if (self.fgsm or self.pgd) and not self.adaptive:
            raise SettingError(
                "adaptive",
                [],
                "at least one figure: oblivious figures never stand without adaptive ones; "
                "measure them with --adaptive-utterances",
            )
        conditions = [(each.radius, each.steps, each.restarts) for each in self.adaptive]
        if len(set(conditions)) < len(conditions):
            raise SettingError("adaptive", conditions, "each radius, steps and restarts once")
        try:
            datetime.date.fromisoformat(self.date)
        except ValueError:
            raise SettingError("date", self.date, "a day, YYYY-MM-DD") from None


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Figures that a test recomputes from the packaged weights."""

    target: str
    """Name of a packaged recogniser."""
    group: int
    """Group of speakers that neither it nor the defence has heard, from 1."""
    utterances: int = 48
    """The first so many of the group, in the order of the corpus."""
    clean: float
    """UAR in percent on clean input, through the defence."""
    fgsm: float
    """UAR in percent under oblivious FGSM of ε = .009."""
    pgd: float
    """UAR in percent under oblivious PGD of 9 steps."""

    def __post_init__(self) -> None:
        if self.group < 1 or self.utterances < 1:
            raise SettingError("group, utterances", (self.group, self.utterances), "at least 1")
        check_percent(self, "clean", "fgsm", "pgd")


@dataclass(frozen=True, kw_only=True)
class Record:
    """One entry of the benchmark."""

    name: str
    """Name of the defence, and of its file."""
    kind: Kind
    """What it is."""
    source: str
    """Paper or page that describes it."""
    parameters: int | None = None
    """How many numbers it has learned; null for none."""
    knowledge: tuple[Level, ...] = ()
    """What was kept from it in training (`LEVELS`)."""
    weights: str | None = None
    """Name of the packaged network; null where none is packaged."""
    training: Training | None = None
    """What it learned from; null where nothing was learned."""
    protocol: Protocol
    """What was measured, and how."""
    figures: tuple[Figures, ...] = ()
    """What came out, by network and set of groups."""
    sample: Sample | None = None
    """Figures that a test recomputes; needs `weights`, or a defence without any."""

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise SettingError("name", self.name, "letters, digits, '.', '_', '+' and '-'")
        if self.parameters is not None and self.parameters < 1:
            raise SettingError("parameters", self.parameters, "a count above 0, or null")
        _check_once("knowledge", self.knowledge)
        _check_once("figures", [(each.target, each.groups) for each in self.figures])
        for each in self.figures:
            foreign = set(each.heard) - set(self.protocol.of(each.groups))
            if foreign:
                allowed = ", ".join(map(str, self.protocol.of(each.groups)))
                raise SettingError("heard", min(foreign), f"a group of {each.groups}: {allowed}")
        if self.learned and self.training is None:
            raise SettingError(
                "training", None, f"data and licence: {self.kind} learns from recordings"
            )

    @property
    def learned(self) -> bool:
        """Whether the defence has weights of its own."""
        return self.kind in ("purifier", "adversarial training")

    def of(self, target: str, groups: GroupSet) -> Figures | None:
        """Return what was measured with one network on one set, or None."""
        found = [f for f in self.figures if (f.target, f.groups) == (target, groups)]
        return found[0] if found else None


def check_percent(entry: object, *names: str) -> None:
    """Refuse a UAR that is no percentage; what was not measured is None."""
    for name in names:
        found = getattr(entry, name)
        value = found.value if isinstance(found, Figure) else found
        if value is not None and not 0 <= value <= 100:
            raise SettingError(name, value, "a percentage from 0 to 100")


def _check_once(name: str, values: Sequence[object]) -> None:
    if len(set(values)) < len(values):
        raise SettingError(name, list(values), "each once")


def read_record(path: str | Path) -> Record:
    """Return the entry in a file.

    Raises:
        PathError: There is no such file, it is not JSON, a key is unknown or missing, or a value is
            outside its rule; the sentence starts with the path.
    """
    path = Path(path)
    try:
        given = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_constant)
        if not isinstance(given, dict):
            raise ServaxError("does not hold a JSON object, expected an entry of the benchmark")
        record = build(Record, given)
    except OSError as error:
        raise PathError(path, f"cannot be read ({error.strerror})") from None
    except ServaxError as error:
        raise PathError(path, str(error)) from None
    except (ValueError, RecursionError):
        raise PathError(path, "is not JSON, expected an entry of the benchmark") from None
    if record.name != path.stem:
        raise PathError(
            path, f"tells of {record.name!r}; a file is called after its entry, rename one of them"
        )
    return record


def read_all(folder: str | Path) -> list[Record]:
    """Return all entries of a folder, by name."""
    return [read_record(path) for path in sorted(Path(folder).glob("*.json"))]


def write_record(record: Record, folder: str | Path) -> Path:
    """Write an entry to ``<folder>/<name>.json`` and return where."""
    path = Path(folder) / f"{record.name}.json"
    write_whole(path, f"{json_text(asdict(record))}\n".encode())
    return path


def with_figures(record: Record, figures: Figures) -> Record:
    """Return the entry with figures of one network and set, in place of those it had of them."""
    key = (figures.target, figures.groups)
    others = [each for each in record.figures if (each.target, each.groups) != key]
    together = sorted([*others, figures], key=lambda each: (each.target, each.groups))
    return replace(record, figures=tuple(together))


def _no_constant(name: str) -> float:
    raise ServaxError(f"holds {name}, expected finite numbers; null says not measured.")
