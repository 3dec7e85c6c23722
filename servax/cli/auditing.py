"""What ``servax audit`` does: it loads what computes, which its options do not."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from servax.audit.estimates import Estimate, of_attacks, of_audit
from servax.audit.plan import plan
from servax.audit.regression import RegressionAudit
from servax.audit.run import Audited, run_audit
from servax.audit.settings import Audit as Prepared, AuditSettings
from servax.cli.audit import Audit
from servax.cli.commands import part
from servax.cli.output import bar, command_line, duration, note, print_json, print_table
from servax.cli.results import show_numbers
from servax.cli.status import run_bars
from servax.corpora import Selection
from servax.errors import SettingError
from servax.evaluation.loading import Value, load_system
from servax.evaluation.statistics import no_interval
from servax.evaluation.suites import RATIOS_DB, SMOKE_UTTERANCES
from servax.evaluation.systems import System
from servax.evaluation.threats import LINF_OF_SOUND, Budget, known
from servax.experiments.provenance import provenance
from servax.report.audit import (
    MEASURES,
    demand_of,
    document,
    main_table,
    summary,
    verdict,
)
from servax.training import Compute

BELOW = 3
"""Exit code where less is left than was asked for."""
UNTRUSTED = 4
"""Exit code where a sanity check found an error; it wins over `BELOW`."""
DEFAULT_RADIUS = {
    ("logmel", "linf"): 0.02,
    ("logmel", "l2"): 1.0,
    ("waveform", "linf"): LINF_OF_SOUND,
    ("waveform", "l2"): 0.1,
}
"""Radius by what the model takes and the norm, where none is given."""


def audit(command: Audit) -> int:
    """Audit the model.

    Returns:
        0; `BELOW` where less is left than `fail_under` asks; `UNTRUSTED` where a sanity check
        found an error, or with `fail_under` no white-box attack was possible.
    """
    began = time.perf_counter()
    asked, judged_by = (
        (None, MEASURES[0]) if command.fail_under is None else demand_of(command.fail_under)
    )
    system, settings = _loaded(command)
    if system.regression:
        return _in_numbers(command, system, settings)
    prepared = _prepared(command, system, settings)
    few = no_interval(len(prepared.dataset.corpus.speakers))
    if judged_by == "lower" and few:
        raise SettingError("fail_under", command.fail_under, "40 or lost:10", hint=f" {few}")
    planned = plan(prepared)
    if command.dry_run:
        loading = Estimate("models and recordings", time.perf_counter() - began, done=False)
        found = of_audit(prepared, planned, clips=command.sounds)
        return _show_estimates(command, prepared, [loading, *found])
    _say_estimate(prepared, of_attacks(planned))
    with run_bars() as bars:
        audited = run_audit(
            prepared,
            fail_under=asked,
            judged_by=judged_by,
            clips=command.sounds,
            planned=planned,
            watcher=bars,
        )
    return _show(command, audited)


def _settings(command: Audit, system: System, **others: Any) -> AuditSettings:
    """Return the settings of an audit, with the budget that suits what the model takes."""
    ratios, plain = _ratios(command.snr), command.norm == "auto" and command.radius is None
    if system.inputs == "waveform" and plain:
        snr_db = RATIOS_DB[command.tier] if ratios is None else ratios
        return AuditSettings.on_sound(snr_db, bounds=system.bounds, **others)
    if ratios is not None and (system.inputs == "waveform" or len(ratios) != 1):
        expected = "one before a front-end, several on waveforms without --radius and --norm"
        raise SettingError("snr", command.snr, expected)
    if ratios is not None:
        others["snr_db"] = ratios[0]
    norm = "linf" if command.norm == "auto" else command.norm
    usual = DEFAULT_RADIUS[system.inputs, norm]
    radius = usual if command.radius is None else command.radius
    return AuditSettings(budget=Budget(radius=radius, norm=norm, bounds=system.bounds), **others)


def _ratios(option: str | None) -> tuple[float, ...] | None:
    """Return the ratios of an option, in dB."""
    try:
        return None if option is None else tuple(map(float, names(option) or ()))
    except ValueError:
        expected = "numbers of dB with commas between, such as 50,40,30"
        raise SettingError("snr", option, expected) from None


def _loaded(command: Audit) -> tuple[System, AuditSettings]:
    """Return the model that is audited, and with what."""
    if command.sounds < 0:
        raise SettingError("sounds", command.sounds, "a whole number of at least 0")
    knowledge = known(command.knowledge)
    if command.knowledge != "all" and "transfer" in knowledge and not command.surrogates:
        expected = "NAME=FOLDER for the transfer attacks"
        raise SettingError("surrogates", command.surrogates, expected)
    compute = Compute(device=command.device)
    system = load_system(
        command.model,
        labels=names(command.labels),
        sample_rate=command.sample_rate,
        inputs=command.inputs,
        seconds=command.seconds,
        init=arguments(command.init),
    )
    system = replace(system, model=compute.placed(system.model))
    selection = part(Selection, command)
    short = command.tier == "smoke" and system.inputs == "waveform"
    if short and selection.utterances is None:
        selection = replace(selection, utterances=SMOKE_UTTERANCES)
    settings = _settings(
        command,
        system,
        selection=selection,
        tier=command.tier,
        knowledge=knowledge,
        seed=command.seed,
        batch_size=command.batch_size,
        gradients=command.gradients,
        speech=command.speech,
    )
    return system, settings


def _prepared(command: Audit, system: System, settings: AuditSettings) -> Prepared:
    """Return what is audited, with everything loaded that it takes."""
    with bar("features") as update:
        return Prepared.of(
            settings,
            system,
            defences=names(command.defences) or (),
            surrogates=names(command.surrogates) or (),
            attacks=names(command.attacks) or (),
            folder=_folder(command, system),
            origin=provenance(command_line()),
            progress=update,
        )


def _folder(command: Audit, system: System) -> Path:
    """Return the folder of an audit."""
    return Path(command.out) if command.out else Path("runs") / f"audit-{system.name}"


def _in_numbers(command: Audit, system: System, settings: AuditSettings) -> int:
    """Audit a model that answers in numbers."""
    numbers = f"{system.name} answers in numbers"
    no_classes = f"nothing: {numbers}, which have no classes"
    refused = {
        "fail_under": no_classes,
        "attacks": no_classes,
        "gradients": f"float32: {numbers}, and its audit has no fast mode",
        "sounds": f"0 or nothing: {numbers}, and its report plays no sound",
        "speech": f"0 or nothing: {numbers}, and its audit compares no sound",
    }
    for name, expected in refused.items():
        if (given := getattr(command, name)) not in (getattr(Audit, name), 0):
            raise SettingError(name, given, expected)
    with bar("features") as update:
        prepared = RegressionAudit.of(
            settings,
            system,
            defences=names(command.defences) or (),
            surrogates=names(command.surrogates) or (),
            folder=_folder(command, system),
            origin=provenance(command_line()),
            progress=update,
        )
    tasks = prepared.plan()
    if command.dry_run:
        found = [Estimate(e.stage.name, e.cost, done=bool(e.stage.done())) for e in tasks]
        return _show_estimates(command, prepared, found)
    with run_bars() as bars:
        result, paths = prepared.run(tasks, bars)
    if command.json:
        print_json(result.document())
    else:
        show_numbers(result)
    note(f"report: {paths.html}")
    return UNTRUSTED if result.errors else 0


def _show_estimates(
    command: Audit, audit: Prepared | RegressionAudit, found: list[Estimate]
) -> int:
    if command.json:
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


def _show(command: Audit, audited: Audited) -> int:
    result = audited.result
    if command.json:
        print_json(document(result))
    else:
        table = main_table(result)
        print_table(table.title, table.columns, table.texts)
        for sentence in (*summary(result), *verdict(result)):
            note(sentence)
    note(f"report: {audited.paths.html}")
    if result.untrusted:
        return UNTRUSTED
    return BELOW if result.below else 0


def _say_estimate(audit: Prepared | RegressionAudit, found: list[Estimate]) -> None:
    rest = sum(each.seconds for each in found if not each.done)
    done = sum(each.done for each in found)
    note(
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
