"""Suites: which threats a run and an audit try, as lists.

`PAPER` is the grid of Table 1 and Figure 2. `SMOKE`, `STANDARD` and `FULL` have each kind of
attacker; the later ones give them more steps, queries, restarts and attacks. Steps and queries are
most: an attack that may stop early leaves an utterance as soon as it is fooled.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar, Literal, get_args

from servax.attacks import (
    APGD,
    FGSM,
    NES,
    PGD,
    Attack,
    AutoAttack,
    DiversePGD,
    Foolbox,
    RandomNoise,
    Restarts,
    Square,
    TargetedAPGD,
    Universal,
    WaveformPGD,
)
from servax.attacks.ensemble import RAND_DRAWS
from servax.attacks.gradient import STRIDE
from servax.errors import SettingError
from servax.evaluation.sound_grid import STEP as SOUND_STEP, SoundGrid
from servax.evaluation.threats import KNOWLEDGE, Budget, Knowledge, Threat
from servax.kinds import (
    COUNT,
    NOT_NEGATIVE,
    Choice,
    Precision,
    Rules,
    Tier,
    check_list,
    check_types,
)
from servax.perturbation import L2

TABLE_STEPS = (3, 6, 9, 12, 15)
"""k of PGD in Table 1 of the paper."""
AttackedLabel = Literal["true", "predicted"]


@dataclass(frozen=True)
class AttackGrid:
    """Strengths of the attacks; the grid is the paper's, section 3.2.3 and Figure 2."""

    epsilons: tuple[float, ...] = (0.003, 0.006, 0.009, 0.012, 0.015)
    """ε of FGSM, on the [0, 1] scale (.003 is .24 dB)."""
    step: float = 0.003
    """Step of PGD, on the [0, 1] scale; not printed in the paper."""
    radius: float = 0.02
    """Radius of PGD's ball, on the [0, 1] scale (.02 is 1.6 dB); not printed in the paper."""
    steps: int = 30
    """Largest k of PGD; every k from 1 is scored."""
    adaptive_steps: int = 30
    """Steps of the adaptive PGD (same step and radius)."""
    label: AttackedLabel = "true"
    """Whose loss rises: of the `true` label, or of what the model `predicted` (as [18] does)."""
    gradients: Precision = "float32"
    """`bfloat16` is the fast mode: predictions stay in float32, and records name it."""
    RULES: ClassVar[Rules] = {
        "radius": NOT_NEGATIVE,
        "adaptive_steps": COUNT,
        "label": Choice(("true", "predicted")),
        "gradients": Choice(get_args(Precision)),
    }

    def __post_init__(self) -> None:
        check_types(self)
        check_list("epsilons", self.epsilons)
        object.__setattr__(self, "epsilons", tuple(self.epsilons))
        if not self.epsilons:
            raise SettingError("epsilons", self.epsilons, "at least one size")
        if len(set(self.epsilons)) < len(self.epsilons):
            raise SettingError("epsilons", self.epsilons, "each size once")
        for epsilon in self.epsilons:
            FGSM(epsilon=epsilon)
        self.pgd(self.steps)

    @property
    def adaptive_ks(self) -> tuple[int, ...]:
        """K at which the adaptive PGD is scored: those of Table 1 on its way, and its last."""
        return tuple(
            sorted({k for k in TABLE_STEPS if k < self.adaptive_steps} | {self.adaptive_steps})
        )

    @property
    def longest(self) -> int:
        """Steps of the trajectory on the bare target, which serves both kinds of attacker."""
        return max(self.steps, self.adaptive_steps)

    def told(self) -> dict[str, Any]:
        """Return what provenance says of the grid; of the gradients only where they are fast."""
        told = asdict(self)
        if self.gradients == "float32":  # tables of before say nothing, and must agree
            del told["gradients"]
        return told

    def pgd(self, steps: int) -> PGD:
        """Return PGD with `steps` steps, from the clean input."""
        return PGD(step=self.step, epsilon=self.radius, steps=steps, labels=self.label)

    def oblivious(self) -> tuple[Threat, Threat]:
        """Return FGSM and PGD on the bare target, for it and every defence.

        PGD goes on beyond `steps` where the adaptive one is longer, for the bare target alone:
        nothing stands before it, so that one trajectory is both attackers'.
        """
        attack = self.pgd(self.longest)
        ks = tuple(range(1, self.longest + 1))
        pgd = Threat("pgd", "oblivious", attack, gradients=ks[-1], ks=ks, others_up_to=self.steps)
        return self._fgsm("oblivious"), pgd

    def adaptive(self, knowledge: Knowledge = "adaptive") -> tuple[Threat, Threat]:
        """Return FGSM and PGD through a defence, single draws of a random one as the paper's."""
        attack, ks = self.pgd(self.adaptive_steps), self.adaptive_ks
        pgd = Threat("pgd", knowledge, attack, gradients=ks[-1], ks=ks, draws=1)
        return self._fgsm(knowledge), pgd

    def _fgsm(self, knowledge: Knowledge) -> Threat:
        attack = FGSM(epsilon=self.epsilons[-1], labels=self.label)
        return Threat("fgsm", knowledge, attack, gradients=1, sweep=self.epsilons, draws=1)


PAPER = AttackGrid()
"""The grid of the paper."""

SHARES = (0.15, 0.3, 0.45, 0.6, 0.75, 1.0)
"""Sizes of FGSM against the radius: the paper's .003 ... .015 when it is .02, and the radius."""
PAPERS_STEPS = 15
"""Most steps of PGD in the paper's table."""
TOWARDS = "towards-"
"""How the name of an attack begins that leads to a chosen class."""
RADII = (0.25, 0.5, 1.0)
"""Sizes of APGD against the radius."""
VOTES = 8
"""Draws whose mean answers one question of an attacker who only asks."""


@dataclass(frozen=True)
class Effort:
    """How much a tier spends on each attack."""

    pgd: int
    """Steps of PGD through the system; twice as many are tried too."""
    apgd: int
    """Steps of APGD."""
    targeted: int
    """Steps of APGD towards each other class; 0 leaves it out."""
    restarts: int
    """Random restarts of PGD; 0 leaves them out."""
    minimum_norm: int
    """Steps of the minimum-norm attack; 0 leaves it out."""
    transfer: int
    """Steps on the bare model and on surrogates."""
    square: int
    """Queries of Square."""
    estimated: int
    """Queries of NES; 0 leaves it out."""
    decisions: int
    """Queries of HopSkipJump; 0 leaves it out."""
    waveform: int
    """Steps of PGD on the sound; 0 leaves it out."""
    probes: int
    """Utterances of the probing checks."""
    towards: int
    """Steps of APGD towards each class as the one that is wanted; 0 leaves it out."""
    auto: int
    """Steps of each attack of AutoAttack; 0 leaves it out."""


SMOKE = Effort(15, 10, 0, 0, 0, 15, 50, 0, 0, 0, 8, 0, 0)
STANDARD = Effort(50, 50, 20, 5, 50, 20, 200, 200, 0, 20, 16, 20, 0)
FULL = Effort(100, 100, 50, 10, 200, 50, 5000, 2000, 1000, 100, 32, 100, 100)
TIERS: Mapping[Tier, Effort] = {"smoke": SMOKE, "standard": STANDARD, "full": FULL}
"""What each tier of an audit spends."""
RATIOS_DB: Mapping[Tier, tuple[float, ...]] = {
    "smoke": (50.0, 40.0, 30.0),
    "standard": SoundGrid.snr_db,
    "full": SoundGrid.snr_db,
}
"""The ratios at which a model of sound is attacked where no others are told."""
SMOKE_UTTERANCES = 32
"""Most utterances of a smoke audit on sound that is told no number: encoders answer slowly."""


def sound_grid(tier: Tier, snr_db: tuple[float, ...], sample_rate: int) -> SoundGrid:
    """Return what a tier spends on a model of sound.

    Args:
        tier: How much.
        snr_db: At these ratios, in dB.
        sample_rate: Of the model, in Hz.
    """
    e = TIERS[tier]
    return SoundGrid(
        snr_db=snr_db,
        steps=e.apgd,
        targeted=e.targeted,
        restarts=e.restarts,
        masked=e.waveform * (tier != "smoke"),
        # With a speech encoder the questions are the longest part of a smoke audit.
        square=e.square // 2 if tier == "smoke" else e.square,
        estimated=e.estimated,
        sample_rate=sample_rate,
    )


@dataclass(frozen=True)
class Suite:
    """The threats of one tier of an audit within a budget."""

    tier: Tier
    budget: Budget
    snr_db: float | None = None
    """Least signal-to-noise ratio of the attack on the sound, in dB; none for no such attack."""
    sound: SoundGrid | None = field(default=None, repr=False)
    """The attacks on a model of sound, up to the budget; none on one of log-Mel."""

    def __post_init__(self) -> None:
        check_types(self)

    @property
    def effort(self) -> Effort:
        """What the tier spends."""
        return TIERS[self.tier]

    def threats(
        self,
        knowledge: Collection[Knowledge] = KNOWLEDGE,
        *,
        classes: Sequence[str] = (),
        surrogates: Sequence[str] = (),
    ) -> tuple[Threat, ...]:
        """Return all threats, from the attacker who knows least to the one who knows all.

        Making an attack looks for its library, so that a missing one is noticed before any work.

        Args:
            knowledge: Which attackers are tried; noise, which is none, always is.
            classes: Each is led to by an attack of its own, where the tier has such.
            surrogates: Names of models whose gradients a transfer attack takes.
        """
        grid, chain = self.sound, itertools.chain
        parts: dict[Knowledge, Iterator[Threat]] = {
            "oblivious": self._oblivious(),
            "transfer": chain.from_iterable(map(self._transfer, surrogates)),
            "black_box": chain(self._black_box(), self._votes()),
            "bpda": self._bpda(),
            "adaptive": chain(self._adaptive(), self._towards(classes)),
        }
        noise = Threat("noise", "black_box", RandomNoise(**self._ball()), queries=1)
        if grid is not None:
            noise = grid.noise()
            # Three times the questions for the same answer: who falls to less falls to the most.
            asked = replace(grid, snr_db=grid.snr_db[-1:]) if self.tier == "smoke" else grid
            parts = {
                "oblivious": map(_kept, grid.oblivious()),
                "transfer": chain.from_iterable(map(grid.transfer, surrogates)),
                "black_box": chain(asked.black_box(), self._votes()),
                "bpda": iter(grid.bpda()),
                "adaptive": chain(
                    map(_kept, grid.adaptive()),
                    self._beside(grid),
                    self._universal(grid.snr_db),
                    self._random(),
                    self._towards(classes),
                ),
            }
        threats = [noise]
        threats += [threat for known in KNOWLEDGE if known in knowledge for threat in parts[known]]
        of_source = ("oblivious", "transfer")
        return tuple(replace(each, everyone=each.knowledge in of_source) for each in threats)

    def _oblivious(self) -> Iterator[Threat]:
        """Yield the attacks on the bare model, for every defence: the paper's threat model."""
        steps = self.effort.transfer
        yield self._fgsm("oblivious")
        yield self._papers("oblivious")
        if self.tier != "smoke":
            attack = APGD(**self._ball(), steps=steps, early_stop=False)
            yield Threat("apgd-ce", "oblivious", attack, gradients=steps + 1)

    def _transfer(self, surrogate: str) -> Iterator[Threat]:
        """Yield the attacks on a surrogate, for every system."""
        steps, step = self.effort.transfer, 2.0 * self.budget.radius / self.effort.transfer
        attacks: dict[str, tuple[Attack, int]] = {
            "pgd": (self._pgd(PAPERS_STEPS, early_stop=False), PAPERS_STEPS),
            "mi-di": (DiversePGD(**self._ball(), step=step, steps=steps, decay=1.0), steps),
        }
        for name, (attack, count) in attacks.items():
            named = f"{name}-{surrogate}"
            yield Threat(named, "transfer", attack, gradients=count, surrogate=surrogate)

    def _black_box(self) -> Iterator[Threat]:
        """Yield the attacks that ask the system only."""
        e, ball = self.effort, self._ball()
        yield Threat("square", "black_box", Square(**ball, queries=e.square), queries=e.square)
        if e.estimated:
            yield Threat("nes", "black_box", self._nes(), queries=e.estimated)
        if e.decisions:
            jump = Foolbox.preset("hop-skip-jump", queries=e.decisions, **ball)
            yield Threat("hop-skip-jump", "black_box", jump, queries=e.decisions)

    def _nes(self) -> NES:
        return NES(**self._ball(), step=self.budget.unit / 4, queries=self.effort.estimated)

    def _votes(self) -> Iterator[Threat]:
        """Yield the attacks that ask a random system several times at each point."""
        e = self.effort
        if self.tier != "smoke":
            yield self._voted("square-vote", Square(**self._ball(), queries=e.square), e.square)
        if self.tier == "full":
            yield self._voted("nes-vote", self._nes(), e.estimated)

    def _voted(self, name: str, attack: Attack, queries: int) -> Threat:
        """Return an attack each of whose questions is answered by the mean of several draws."""
        return Threat(
            name,
            "black_box",
            attack,
            queries=VOTES * queries,
            draws=VOTES,
            random_only=True,
        )

    def _bpda(self) -> Iterator[Threat]:
        """Yield the attacks with the identity in place of a defence's gradient."""
        e = self.effort
        yield Threat("pgd", "bpda", self._pgd(e.pgd), gradients=e.pgd)
        if self.tier != "smoke":
            attack = APGD(**self._ball(), steps=e.apgd)
            yield Threat("apgd-ce", "bpda", attack, gradients=e.apgd + 1)

    def _adaptive(self) -> Iterator[Threat]:
        """Yield the attacks through the whole system."""
        e, ball, radius = self.effort, self._ball(), self.budget.radius
        yield self._fgsm("adaptive")
        yield self._papers("adaptive")
        if e.pgd != PAPERS_STEPS:
            yield Threat("pgd", "adaptive", self._pgd(e.pgd), gradients=e.pgd)
        yield Threat("pgd-2x", "adaptive", self._pgd(2 * e.pgd), gradients=2 * e.pgd)
        # The largest radius last: who falls to a smaller one is not attacked again.
        sizes, each = self._sizes(RADII), e.apgd + 1
        apgd = APGD(**ball, steps=e.apgd)
        gradients = len(sizes) * each
        yield Threat("apgd-ce", "adaptive", apgd, gradients=gradients, sweep=sizes)
        if e.targeted:
            targeted = TargetedAPGD(**ball, steps=e.targeted)
            gradients = 3 * (e.targeted + 1)
            yield Threat("apgd-targeted", "adaptive", targeted, gradients=gradients)
        if e.restarts:
            step = max(2.5 * radius / e.apgd, 0.05 * radius)
            pgd = PGD(**ball, step=step, steps=e.apgd, random_start=True, early_stop=True)
            restarts = Restarts(attack=pgd, count=e.restarts)
            yield Threat("pgd-restarts", "adaptive", restarts, gradients=e.restarts * e.apgd)
        if e.minimum_norm:
            nearest = Foolbox.preset("nearest", steps=e.minimum_norm, **ball)
            yield Threat("minimum-norm", "adaptive", nearest, gradients=e.minimum_norm)
        yield from self._random()
        if e.auto:
            yield from self._longest()
        if self.snr_db is not None and e.waveform:
            sound = WaveformPGD(snr_db=self.snr_db, steps=e.waveform)
            name = f"pgd-waveform-{self.snr_db:g}dB"
            yield Threat(name, "adaptive", sound, gradients=e.waveform, waveform=True)

    def _beside(self, grid: SoundGrid) -> Iterator[Threat]:
        """Yield what PGD on sound is held against by checks: one step, and twice as many."""
        fgsm, steps = FGSM(**self._ball()), 2 * grid.steps
        yield Threat("fgsm", "adaptive", fgsm, gradients=1, sweep=grid.snr_db)
        pgd = PGD(**self._ball(), step=SOUND_STEP, steps=steps, early_stop=True)
        gradients = steps * len(grid.snr_db)
        yield Threat("pgd-2x", "adaptive", pgd, gradients=gradients, sweep=grid.snr_db)

    def _universal(self, snr_db: tuple[float, ...]) -> Iterator[Threat]:
        """Yield one sound for everybody, as loud as each ratio allows; whoever attacks fits it."""
        if self.tier != "smoke":
            attack = Universal(**self._ball(), steps=self.effort.pgd)
            queries = len(snr_db)
            yield Threat("universal", "adaptive", attack, queries=queries, sweep=snr_db)

    def _random(self) -> Iterator[Threat]:
        """Yield what only a random system meets: other ways to average its draws."""
        e = self.effort
        known: dict[str, Any] = {"knowledge": "adaptive", "random_only": True}
        pgd = {**known, "attack": self._pgd(e.pgd), "gradients": e.pgd}
        yield Threat("pgd-half-draws", **pgd, halved=True)
        if self.tier != "smoke":
            yield Threat("pgd-fixed-draws", **pgd, fixed=True)
            yield Threat("pgd-mean-logits", **pgd, mean="logits")
            apgd = APGD(**self._ball(), steps=e.apgd)
            gradients = e.apgd + 1
            yield Threat("apgd-eot", **known, attack=apgd, gradients=gradients, draws=RAND_DRAWS)

    def _longest(self) -> Iterator[Threat]:
        """Yield what only the full tier has: DeepFool, Carlini & Wagner's L2, AutoAttack."""
        e = self.effort
        deep = Foolbox.preset("deepfool", **self._ball())
        yield Threat("deepfool", "adaptive", deep, gradients=200)
        if self.budget.ball is L2:
            wagner = Foolbox.preset("carlini-wagner", **self._ball())
            yield Threat("carlini-wagner", "adaptive", wagner, gradients=900)
        standard, rand = (
            AutoAttack(**self._ball(), steps=e.auto, queries=e.square, version=version)
            for version in ("standard", "rand")
        )
        yield Threat(
            "autoattack",
            "adaptive",
            standard,
            gradients=4 * (e.auto + 1) + e.auto,
            queries=e.square,
            if_random=Threat(
                "autoattack",
                "adaptive",
                rand,
                gradients=2 * (e.auto + 1),
                draws=RAND_DRAWS,
            ),
        )

    def _towards(self, classes: Sequence[str]) -> Iterator[Threat]:
        """Yield the attacks that lead every utterance of another class to a chosen one."""
        steps = self.effort.towards
        for goal in classes if steps else ():
            attack, name = APGD(**self._ball(), steps=steps, targeted=True), TOWARDS + _fit(goal)
            yield Threat(name, "adaptive", attack, gradients=steps + 1, towards=goal)

    def _fgsm(self, knowledge: Knowledge) -> Threat:
        sizes = self._sizes(SHARES)
        attack = FGSM(epsilon=sizes[-1], norm=self.budget.ball, bounds=self.budget.bounds)
        return Threat("fgsm", knowledge, attack, gradients=1, sweep=sizes)

    def _papers(self, knowledge: Knowledge) -> Threat:
        """Return the paper's longest PGD, to the end; its inputs become sound afterwards."""
        name = "pgd" if self.effort.pgd == PAPERS_STEPS else f"pgd-{PAPERS_STEPS}"
        attack = self._pgd(PAPERS_STEPS, early_stop=False)
        return Threat(name, knowledge, attack, gradients=PAPERS_STEPS, kept=True)

    def _pgd(self, steps: int, *, early_stop: bool = True) -> PGD:
        # The paper's step and radius, .003 in .02, for any radius; more steps are as long as that.
        step = STRIDE * self.budget.unit
        return PGD(**self._ball(), step=step, steps=steps, early_stop=early_stop)

    def _sizes(self, shares: tuple[float, ...]) -> tuple[float, ...]:
        """Return shares of the radius without the dust of floats; the radius stays as it is."""
        radius = self.budget.radius
        return tuple(radius if each == 1 else float(f"{each * radius:.9g}") for each in shares)

    def _ball(self) -> dict[str, Any]:
        return self.budget.given


def _kept(threat: Threat) -> Threat:
    """Return a threat whose inputs are kept, if it is the one that an audit plays."""
    return replace(threat, kept=True) if threat.name == "pgd" else threat


def _fit(name: str) -> str:
    """Return the name of a class as part of the name of a folder; two names stay two."""
    plain = re.sub(r"[^\w.-]+", "-", name)
    return plain if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"
