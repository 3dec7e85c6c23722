"""What ``servax calibrate`` does: it loads what computes, which its options do not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from servax.cli.calibrate import Calibrate
from servax.cli.commands import part
from servax.cli.output import bar, command_line, note, print_json, print_table
from servax.corpora import Fold, cache_folder, load
from servax.errors import SettingError
from servax.evaluation.calibration import PAPER_FLAT, PAPER_RISK, RULE, risks, spread, summary
from servax.evaluation.settings import CalibrationGrid
from servax.experiments.provenance import provenance
from servax.features import Dataset, Features, FrontEnd, Scale, ZScoreSettings, extract, fit_scale
from servax.files import json_text, write_whole
from servax.models import frozen
from servax.recognition import Recogniser
from servax.report import png, risk_curves
from servax.training import Compute

SAME_DB = 1e-3
"""Two machines may differ by this much in the level of a training speaker, in dB."""


def calibrate(command: Calibrate) -> int:
    """Sweep the pairs, keep curves, table and picture, show the table."""
    compute = Compute(device=command.device)
    compute.resolve()  # a wrong device is refused before any work is done
    if command.batch_size < 1:
        raise SettingError("batch_size", command.batch_size, "a whole number of at least 1")
    recogniser = Recogniser.from_pretrained(Path(command.model))
    fold, features = _heard(command, recogniser)
    units = _units(recogniser, command.model, fold, features)
    chosen = spread(fold.test, command.utterances)
    grid = part(CalibrationGrid, command)
    with bar("calibrating") as update:
        frame = risks(
            frozen(recogniser.network),
            Dataset(chosen, features, recogniser.scale),
            grid,
            batch_size=command.batch_size,
            compute=compute,
            progress=update,
        )
    pairs = summary(frame)
    for name, per_unit in units.items():
        pairs[f"radius_{name}"] = pairs["radius"] * per_unit
    found = {
        **provenance(command_line()),
        "corpus": command.corpus,
        "fold": command.held_out,
        "fold_hash": fold.hash[:16],
        "model": str(command.model),
        "width": recogniser.network.settings.width,
        "utterances": len(chosen),
        "right": int(frame["right"].iloc[0]),
        "grid": asdict(grid),
        "paper": {"mean_risk": PAPER_RISK, "flat_k": PAPER_FLAT},
        "rule": RULE,
        "pairs": pairs.to_dict("records"),
    }
    _keep(Path(command.out), frame, pairs, found)
    if command.json:
        print_json(found)
    else:
        _show(pairs, found)
    note(f"curves, table and picture: {command.out}")
    return 0


def _heard(command: Calibrate, recogniser: Recogniser) -> tuple[Fold, Features]:
    """Return the fold and the features of the whole corpus, once the labels are the model's."""
    whole = load(command.corpus, command.root, scheme=command.scheme)
    if recogniser.labels != whole.labels:
        raise SettingError(
            "model",
            command.model,
            f"one with the labels of the corpus ({', '.join(whole.labels)}); this one tells "
            f"apart {', '.join(recogniser.labels)}, try another --scheme",
        )
    fold = command.fold_of(whole)
    heard = sorted(set(recogniser.speakers) & set(fold.test.speakers))
    if heard:
        expected = f"a group that {command.model} was not trained on; it was on {heard[0]}"
        raise SettingError("held_out", command.held_out, expected)
    with bar("features") as update:
        features = extract(
            whole,
            FrontEnd(recogniser.front_end),
            folder=cache_folder() / "features",
            progress=update,
        )
    return fold, features


def _units(
    recogniser: Recogniser, model: str, fold: Fold, features: Features
) -> Mapping[str, float]:
    """Return dB and standard deviations for 1 on the model's scale; it must be this fold's.

    The standard deviation is the mean over Mel bins, of the frames of the training speakers.
    Folds whose loudest training speaker is one have one dB window: those are not told apart.
    """
    z_score = fit_scale(fold.train, features, kind="z-score")
    if isinstance(recogniser.scale, Scale):
        window_db = recogniser.scale.settings.window_db
        fitted = fit_scale(fold.train, features, window_db=window_db)
    else:
        fitted = z_score
    if not _alike(asdict(fitted.settings), asdict(recogniser.scale.settings)):
        raise SettingError(
            "model",
            model,
            "one trained on the training speakers of this fold; its scale is another, try another "
            "--groups or --held-out",
        )
    sd_db = z_score.epsilon_db(1.0) / ZScoreSettings.width_sd
    whole_db = recogniser.scale.epsilon_db(1.0)
    return {"db": whole_db, "sd": whole_db / sd_db}


def _alike(fitted: Mapping[str, Any], stored: Mapping[str, Any]) -> bool:
    """Return whether two scales are one, but for rounding."""
    if fitted.keys() != stored.keys():
        return False
    pairs = ((pd.Series(fitted[name]), pd.Series(stored[name])) for name in fitted)
    return all(
        len(a) == len(b)
        and all(math.isclose(x, y, abs_tol=SAME_DB) for x, y in zip(a, b, strict=True))
        for a, b in pairs
    )


def _keep(folder: Path, frame: pd.DataFrame, pairs: pd.DataFrame, found: Mapping[str, Any]) -> None:
    text = frame.to_csv(index=False, lineterminator="\n")
    write_whole(folder / "risks.csv", text.encode())
    write_whole(folder / "risks.png", png(risk_curves(frame, pairs)))
    write_whole(folder / "calibration.json", f"{json_text(found, indent=1)}\n".encode())


def _show(pairs: pd.DataFrame, found: Mapping[str, Any]) -> None:
    risks_at = [name for name in pairs.columns if name.startswith("risk_")]
    columns = [
        "step",
        "radius",
        "dB",
        "sd",
        "steps wide",
        "mean R %",
        *(f"k={name.removeprefix('risk_')}" for name in risks_at),
        "flat at k",
        "to 89",
        "",
    ]
    rows = [
        [
            f"{pair['step']:g}",
            f"{pair['radius']:g}",
            f"{pair['radius_db']:.2f}",
            f"{pair['radius_sd']:.3f}",
            f"{pair['width_steps']:.1f}",
            *(f"{100 * pair[name]:.1f}" for name in ("mean_risk", *risks_at)),
            pair["flat_k"],
            f"{100 * pair['distance']:.1f}",
            " ".join(mark for mark in ("nearest", "chosen") if pair[mark]),
        ]
        for pair in pairs.to_dict("records")
    ]
    title = (
        f"R without defence of {found['right']} utterances read rightly, of {found['utterances']}: "
        f"{found['corpus']}, group {found['fold']}"
    )
    print_table(title, columns, rows)
    note(f"chosen: {RULE}.")
