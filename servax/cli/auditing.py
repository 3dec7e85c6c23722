"""``servax audit``: any model, the attack suite, the sanity checks, one report."""

from __future__ import annotations

import json
import time
from pathlib import Path

from servax.audit.overhead import measured
from servax.audit.run import Audited, Estimate, estimates, run_audit
from servax.audit.scene import Scene
from servax.audit.settings import AuditSettings
from servax.audit.stages import Stages
from servax.audit.tiers import Budget, Tier
from servax.cli.bars import RunBars
from servax.cli.output import bar, print_json, print_table, say
from servax.cli.running import command_line
from servax.errors import SettingError
from servax.evaluation.dataset import Selection
from servax.evaluation.loading import Value, load_system
from servax.evaluation.statistics import no_interval
from servax.evaluation.threats import known
from servax.experiments.provenance import provenance
from servax.report.audit.document import document
from servax.report.audit.result import MEASURES
from servax.report.audit.scores import scores
from servax.report.audit.sentences import verdict
from servax.report.audit.summary import summary
from servax.report.audit.tables import main_table
from servax.report.audit.threshold import below, parsed, untrusted
from servax.training.device import Precision


def audit_model(
    model: str,
    *,
    selection: Selection,
    tier: Tier,
    knowledge: str,
    defences: str | None,
    surrogates: str | None,
    attacks: str | None,
    radius: float | None,
    norm: str,
    snr: float,
    labels: str | None,
    sample_rate: int | None,
    inputs: str | None,
    seconds: float | None,
    seed: int,
    batch_size: int,
    gradients: Precision,
    out: str | None,
    fail_under: str | None,
    init: str | None,
    sounds: int,
    dry_run: bool,
    as_json: bool,
    began: float,
) -> int:
    """Audit a model; the options are those of the command, `began` when it was given.

    Returns:
        0; `BELOW` where less is left than `fail_under` asks; `UNTRUSTED` where a sanity check found
        an error, or with `fail_under` no white-box attack was possible.
    """
    asked, judged_by = (None, MEASURES[0]) if fail_under is None else parsed(fail_under)
    if sounds < 0:
        raise SettingError("sounds", sounds, "a whole number of at least 0")
    who = known(knowledge)
    if knowledge != "all" and "transfer" in who and not surrogates:
        raise SettingError("surrogates", surrogates, "NAME=FOLDER for the transfer attacks")
    given = load_system(
        model,
        labels=names(labels),
        sample_rate=sample_rate,
        inputs=inputs,  # type: ignore[arg-type]
        seconds=seconds,
        init=arguments(init),
    )
    reach = radius if radius is not None else DEFAULT_RADIUS[given.inputs, norm]
    settings = AuditSettings(
        selection=selection,
        tier=tier,
        budget=Budget(radius=reach, norm=norm, bounds=given.bounds),  # type: ignore[arg-type]
        knowledge=who,
        seed=seed,
        batch_size=batch_size,
        snr_db=snr,
        gradients=gradients,
    )
    folder = Path(out) if out else Path("runs") / f"audit-{given.name}"
    with bar("features") as update:
        scene = Scene.of(
            settings,
            given,
            defences=names(defences) or (),
            surrogates=names(surrogates) or (),
            attacks=names(attacks) or (),
            folder=folder,
            origin=provenance(command_line()),
            progress=update,
        )
    few = no_interval(len(scene.material.corpus.speakers))
    if judged_by == "lower" and few:
        raise SettingError("fail_under", fail_under, "40 or lost:10", hint=f" {few}")
    planned = Stages(scene).plan()
    found = estimates(planned, measured(scene, planned), sounds=sounds)
    if dry_run:
        loading = Estimate("models and recordings", time.perf_counter() - began, done=False)
        found = [loading, *found]
        return _show_estimates(scene, found, as_json=as_json)
    _say_estimate(scene, found)
    with RunBars() as bars:
        audited = run_audit(
            scene,
            fail_under=asked,
            judged_by=judged_by,
            sounds=sounds,
            planned=planned,
            watcher=bars,
        )
    return _show(audited, as_json=as_json)


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


def _say_estimate(scene: Scene, found: list[Estimate]) -> None:
    rest = sum(each.seconds for each in found if not each.done)
    done = sum(each.done for each in found)
    say(
        f"{len(scene.material)} utterances, {len(scene.systems)} systems, {len(found)} parts "
        f"({done} done): at most {duration(rest)} on this machine; less where utterances fall early"
    )


def _show_estimates(scene: Scene, found: list[Estimate], *, as_json: bool) -> int:
    if as_json:
        print_json(
            {
                "stages": [
                    {"stage": e.title, "seconds_at_most": round(e.seconds, 1), "done": e.done}
                    for e in found
                ],
                "seconds_at_most": round(sum(e.seconds for e in found if not e.done), 1),
            }
        )
    else:
        rows = [[e.title, duration(e.seconds), "done" if e.done else ""] for e in found]
        print_table("What an audit would do", ["stage", "at most", ""], rows)
        _say_estimate(scene, found)
    return 0


def duration(seconds: float) -> str:
    """Return a time for people."""
    if seconds < 1:
        return "< 1 s" if seconds > 0 else "0 s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:.1f} h"


def _show(audited: Audited, *, as_json: bool) -> int:
    result = audited.result
    found = scores(result)
    if as_json:
        print_json(document(result, found))
    else:
        table = main_table(result, found)
        rows = [[cell.text for cell in row] for row in table.rows]
        print_table(table.title, [head.text for head in table.head], rows)
        for sentence in (*summary(result, found), *verdict(result, found)):
            say(sentence)
    say(f"report: {audited.paths.html}")
    if untrusted(result):
        return UNTRUSTED
    return BELOW if below(result, found) else 0
