"""``servax audit``: any model, the attack suite, the sanity checks, one report."""

from __future__ import annotations

from pathlib import Path

from servax.audit.run import Audited, Estimate, estimates, run_audit
from servax.audit.scene import Scene
from servax.audit.selection import Selection
from servax.audit.settings import AuditSettings
from servax.audit.stages import Stages
from servax.audit.subjects import load_subject
from servax.audit.threats import known
from servax.audit.tiers import Budget, Tier
from servax.cli.output import RunBars, bar, print_json, print_table, say
from servax.cli.running import command_line
from servax.errors import SettingError
from servax.experiments.provenance import provenance
from servax.report.audit.document import document
from servax.report.audit.scores import scores
from servax.report.audit.sentences import verdict
from servax.report.audit.tables import main_table
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
    seed: int,
    batch_size: int,
    gradients: Precision,
    out: str | None,
    fail_under: float | None,
    sounds: int,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Audit a model; the options are those of the command.

    Returns:
        0, or 1 when `fail_under` was not kept or a sanity check found an error with it.
    """
    if fail_under is not None and not 0 <= fail_under <= 100:
        raise SettingError("fail_under", fail_under, "a UAR in percent, from 0 to 100")
    if sounds < 0:
        raise SettingError("sounds", sounds, "a whole number of at least 0")
    who = known(knowledge)
    if knowledge != "all" and "transfer" in who and not surrogates:
        raise SettingError("surrogates", surrogates, "NAME=FOLDER for the transfer attacks")
    given = load_subject(model, labels=names(labels), sample_rate=sample_rate, inputs=inputs)  # type: ignore[arg-type]
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
    planned = Stages(scene).plan()
    found = estimates(planned)
    if dry_run:
        return _show_estimates(scene, found, as_json=as_json)
    _say_estimate(scene, found)
    with RunBars() as bars:
        audited = run_audit(
            scene, fail_under=fail_under, sounds=sounds, planned=planned, watcher=bars
        )
    return _show(audited, fail_under, as_json=as_json)


DEFAULT_RADIUS = {
    ("logmel", "linf"): 0.02,
    ("logmel", "l2"): 1.0,
    ("waveform", "linf"): 0.002,
    ("waveform", "l2"): 0.1,
}
"""Radius by what the model takes and the norm, where none is given."""


def names(option: str | None) -> tuple[str, ...] | None:
    """Return the parts of an option with commas between, or none where it is not given."""
    if option is None:
        return None
    return tuple(part.strip() for part in option.split(",") if part.strip())


def _say_estimate(scene: Scene, found: list[Estimate]) -> None:
    rest = sum(each.seconds for each in found if not each.done)
    done = sum(each.done for each in found)
    say(
        f"{len(scene.material)} utterances, {len(scene.systems)} systems, {len(found)} stages "
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
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:.1f} h"


def _show(audited: Audited, fail_under: float | None, *, as_json: bool) -> int:
    result = audited.result
    found = scores(result)
    if as_json:
        print_json(document(result, found))
    else:
        table = main_table(result, found)
        rows = [[cell.text for cell in row] for row in table.rows]
        print_table(table.title, [head.text for head in table.head], rows)
        for sentence in verdict(result, found):
            say(sentence)
    say(f"report: {audited.paths.html}")
    return 0 if fail_under is None or audited.passed else 1
