"""``servax audit``: any model, the attack suite, the sanity checks, one report."""

from __future__ import annotations

import json
import time
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Literal

from servax.audit.estimates import Estimate, of_attacks, of_audit
from servax.audit.plan import plan
from servax.audit.run import Audited, run_audit
from servax.audit.settings import Audit as Prepared
from servax.audit.settings import AuditSettings
from servax.cli.bars import RunBars
from servax.cli.commands import listed, part
from servax.cli.corpus import Scheme
from servax.cli.output import bar, command_line, duration, print_json, print_table, say
from servax.errors import SettingError
from servax.evaluation.dataset import Selection
from servax.evaluation.loading import Value, load_system
from servax.evaluation.statistics import no_interval
from servax.evaluation.suites import Tier
from servax.evaluation.systems import System
from servax.evaluation.threats import Budget, known
from servax.experiments.provenance import provenance
from servax.report.audit import (
    MEASURES,
    below,
    document,
    main_table,
    parsed,
    scores,
    summary,
    untrusted,
    verdict,
)
from servax.training import Precision

BELOW = 3
"""Exit code where less is left than was asked for."""
UNTRUSTED = 4
"""Exit code where a sanity check found an error; it wins over `BELOW`."""
DEFAULT_RADIUS = {
    ("logmel", "linf"): 0.02,
    ("logmel", "l2"): 1.0,
    ("waveform", "linf"): 0.002,
    ("waveform", "l2"): 0.1,
}
"""Radius by what the model takes and the norm, where none is given."""


@dataclass(frozen=True)
class Audit(Selection):
    """Audit any model: attacks by attackers of all kinds, sanity checks, one report.

    Stages already done are not repeated. A class path runs the code it names. Lists are written
    with commas (a,b) or with spaces (a b).
    """

    model: str
    """Folder of a recogniser of servax, or a packaged one (crnn-ravdess, CC BY-NC-SA 4.0);
    package.module:Class of your own (B, 1, M, F) or (B, T) to logits (B, C); folder of a Hugging
    Face audio classifier, or hf://owner/name; a TorchScript file (.pt of torch.jit.save), whose
    code is run; an .onnx file (black box only)."""
    _: KW_ONLY
    corpus: str = "ravdess"
    """Name of a corpus, or the path of a CSV or Parquet manifest."""
    scheme: Scheme = "four"
    """Label scheme."""
    tier: Tier = "standard"
    """smoke (a minute), standard, or full (AutoAttack's steps and queries); an estimate comes
    first."""
    knowledge: str = listed("all")
    """What attackers know: all, or some of oblivious, transfer, black_box, bpda and adaptive with
    commas between. Attackers who do not know the defence are never alone."""
    defences: str | None = listed(None)
    """What is audited beside the bare model, NAME=WHAT with commas between: the folder of a
    purifier (before the model) or of a recogniser (in its place), a packaged one
    (ssad-plus-ravdess, CC BY-NC-SA 4.0), or a transform such as mean-filter:3, gaussian-noise:0.02,
    quantise:4; for models of waveforms low-pass:4000, resample:8000, mp3:0.5; or a class path of
    your own (my_module:MyDefence), whose code is run."""
    surrogates: str | None = listed(None)
    """Recognisers whose gradients a transfer attack takes, NAME=FOLDER with commas between: trained
    with seeds of their own, of other architectures."""
    attacks: str | None = listed(None)
    """Attacks of your own that join those of the tier, NAME=my_module:MyAttack with commas between;
    their code is run, and they know the whole system."""
    radius: float | None = None
    """Size of the attacks, in units of the input; default .02 on the log-Mel of [0, 1] (1.6 dB; 1
    for l2), .002 on waveforms (-54 dBFS; .1 for l2)."""
    norm: Literal["linf", "l2"] = "linf"
    """linf (per element) or l2 (per utterance)."""
    snr: float = 30.0
    """Least signal-to-noise ratio of attacks on the sound before a front-end, in dB."""
    labels: str | None = listed(None)
    """The model's classes in the order of its logits, with commas between, where it does not say
    them itself or calls them otherwise than the corpus."""
    sample_rate: int | None = None
    """In Hz, where the model does not say it."""
    inputs: Literal["logmel", "waveform"] | None = None
    """logmel or waveform, where the model does not say it."""
    seconds: float | None = None
    """Length of the sounds that a model of waveforms hears; default what it says, else 3."""
    batch_size: int = 16
    """Utterances attacked together."""
    gradients: Precision = "float32"
    """bfloat16 is the fast mode: the attacks' gradients are rough, what is predicted stays in
    float32, and records and report name it."""
    out: str | None = None
    """Folder of the audit; default runs/audit-<model>."""
    init: str | None = listed(None)
    """Arguments of the class of a class path, NAME=VALUE (width=16,deep=true) or a JSON object."""
    fail_under: str | None = None
    """Leave with exit code 3 when a defence (the model, where there is none) keeps less UAR than
    this, in percent, in the worst case over all attacks; lower:40 asks it of the lower end of the
    interval, lost:10 that no more points than these are lost. With it or without, the exit code is
    4 when a sanity check found an error."""
    sounds: int = 2
    """Utterances that the report plays, clean, attacked and purified; 0 for a report that holds no
    recordings, whose licence may not allow to pass them on."""
    dry_run: bool = False
    """Show the stages and how long they may take; attack nothing."""
    json: bool = False
    """Print JSON."""

    def __call__(self) -> int:
        """Audit the model.

        Returns:
            0; `BELOW` where less is left than `fail_under` asks; `UNTRUSTED` where a sanity check
            found an error, or with `fail_under` no white-box attack was possible.
        """
        began = time.perf_counter()
        asked, judged_by = (
            (None, MEASURES[0]) if self.fail_under is None else parsed(self.fail_under)
        )
        audit = self._prepared()
        few = no_interval(len(audit.dataset.corpus.speakers))
        if judged_by == "lower" and few:
            raise SettingError("fail_under", self.fail_under, "40 or lost:10", hint=f" {few}")
        planned = plan(audit)
        if self.dry_run:
            loading = Estimate("models and recordings", time.perf_counter() - began, done=False)
            found = of_audit(audit, planned, clips=self.sounds)
            return self._show_estimates(audit, [loading, *found])
        _say_estimate(audit, of_attacks(planned))
        with RunBars() as bars:
            audited = run_audit(
                audit,
                fail_under=asked,
                judged_by=judged_by,
                clips=self.sounds,
                planned=planned,
                watcher=bars,
            )
        return self._show(audited)

    def _prepared(self) -> Prepared:
        """Return what is audited, with everything loaded that it takes."""
        if self.sounds < 0:
            raise SettingError("sounds", self.sounds, "a whole number of at least 0")
        knowledge = known(self.knowledge)
        if self.knowledge != "all" and "transfer" in knowledge and not self.surrogates:
            expected = "NAME=FOLDER for the transfer attacks"
            raise SettingError("surrogates", self.surrogates, expected)
        system = load_system(
            self.model,
            labels=names(self.labels),
            sample_rate=self.sample_rate,
            inputs=self.inputs,
            seconds=self.seconds,
            init=arguments(self.init),
        )
        with bar("features") as update:
            return Prepared.of(
                self._settings(system),
                system,
                defences=names(self.defences) or (),
                surrogates=names(self.surrogates) or (),
                attacks=names(self.attacks) or (),
                folder=Path(self.out) if self.out else Path("runs") / f"audit-{system.name}",
                origin=provenance(command_line()),
                progress=update,
            )

    def _settings(self, system: System) -> AuditSettings:
        radius = DEFAULT_RADIUS[system.inputs, self.norm] if self.radius is None else self.radius
        return AuditSettings(
            selection=part(Selection, self),
            tier=self.tier,
            budget=Budget(radius=radius, norm=self.norm, bounds=system.bounds),
            knowledge=known(self.knowledge),
            seed=self.seed,
            batch_size=self.batch_size,
            snr_db=self.snr,
            gradients=self.gradients,
        )

    def _show_estimates(self, audit: Prepared, found: list[Estimate]) -> int:
        if self.json:
            stages = [
                {"stage": e.title, "seconds_at_most": round(e.seconds, 2), "done": e.done}
                for e in found
            ]
            rest = round(sum(e.seconds for e in found if not e.done), 1)
            print_json({"stages": stages, "seconds_at_most": rest})
        else:
            rows = [[e.title, duration(e.seconds), "done" if e.done else ""] for e in found]
            print_table("What an audit would do", ["stage", "at most", ""], rows)
            _say_estimate(audit, found)
        return 0

    def _show(self, audited: Audited) -> int:
        result = audited.result
        found = scores(result)
        if self.json:
            print_json(document(found))
        else:
            table = main_table(found)
            rows = [[cell.text for cell in row] for row in table.rows]
            print_table(table.title, [head.text for head in table.head], rows)
            for sentence in (*summary(found), *verdict(found)):
                say(sentence)
        say(f"report: {audited.paths.html}")
        if untrusted(result):
            return UNTRUSTED
        return BELOW if below(found) else 0


def _say_estimate(audit: Prepared, found: list[Estimate]) -> None:
    rest = sum(each.seconds for each in found if not each.done)
    done = sum(each.done for each in found)
    say(
        f"{len(audit.dataset)} utterances, {len(audit.systems)} systems, {len(found)} parts "
        f"({done} done): at most {duration(rest)} on this machine; less where utterances fall early"
    )


def names(option: str | None) -> tuple[str, ...] | None:
    """Return the parts of an option with commas between, perhaps in brackets; none if not given."""
    if option is None:
        return None
    option = option.strip()
    if option.startswith("[") and option.endswith("]"):
        option = option[1:-1]
    return tuple(part.strip() for part in option.split(",") if part.strip())


def arguments(option: str | None) -> dict[str, Value] | None:
    """Return the arguments of a class path: ``width=16,name=a``, or a JSON object.

    Raises:
        SettingError: It is neither, or a value is no number, text or truth value.
    """
    if option is None:
        return None
    try:
        told = json.loads(option) if option.lstrip().startswith("{") else _pairs(option)
    except ValueError:
        told = None
    if not isinstance(told, dict) or not all(
        isinstance(v, (str, int, float)) for v in told.values()
    ):
        raise SettingError(
            "init",
            option,
            "NAME=VALUE with commas between, or a JSON object of numbers, texts and true or false",
        )
    return told


def _pairs(option: str) -> dict[str, Value]:
    pairs = [part.partition("=")[::2] for part in names(option) or ()]
    if not all(name.isidentifier() and value for name, value in pairs):
        raise ValueError(option)
    return {name: _value(value) for name, value in pairs}


def _value(text: str) -> Value:
    """Return a number or truth value where a text is one as JSON or Python writes it."""
    try:
        value = json.loads(text.lower() if text in ("True", "False") else text)
    except ValueError:
        return text
    return value if isinstance(value, (int, float)) else text
