"""The commands, as functions whose signatures are the options and whose docstrings are the help.

Nothing here loads torch: the work stands in the module that each command imports. No function is
named like something in ``servax`` itself: the parser would look there and load it.
"""

from __future__ import annotations

import time
from typing import Any, Literal

from servax.cli.corpus_commands import (
    corpus_fetch,
    corpus_folds,
    corpus_info,
    corpus_list,
    corpus_verify,
)
from servax.cli.export_commands import export_onnx
from servax.cli.options import Scheme
from servax.cli.serve_commands import serve
from servax.cli.sound_commands import attack, purify
from servax.cli.training_commands import (
    train_adversarial,
    train_denoiser,
    train_purifier,
    train_recogniser,
)
from servax.errors import SettingError


def demo(out: str = "runs/demo", json: bool = False) -> int:
    """Tell the whole story on the embedded synthetic corpus, in minutes, ending in a report.

    Args:
        out: Folder of the run; an interrupted demo goes on where it stopped.
        json: Print the table as JSON.
    """
    from servax.cli.running import run_demo

    return run_demo(out=out, as_json=json)


def run(
    recipe: str,
    out: str | None = None,
    engine: Literal["local", "ray"] = "local",
    address: str | None = None,
    dry_run: bool = False,
    status: bool = False,
    json: bool = False,
) -> int:
    """Run a recipe: train, purify, attack, score, report. Stages already done are not repeated.

    Args:
        recipe: YAML file, e.g. recipes/ravdess_quick.yaml.
        out: Folder of the run, or a URL that fsspec can write (s3://bucket/run, sftp://host/run);
            default runs/<name of the recipe>.
        engine: local performs one stage after another in this process; ray performs all that are
            ready at once, on this machine or on a cluster (pip install 'servax[ray]').
        address: HOST:PORT of the head of a Ray cluster to join, or auto for that of this machine;
            default starts Ray here. Every machine needs servax and the recordings.
        dry_run: Show the stages, what is done already and how long the rest may take; run nothing.
        status: Show how far a run in progress or a past one is; run nothing, touch nothing.
        json: Print the table as JSON.
    """
    if dry_run and status:
        raise SettingError("status", status, "one of --dry-run and --status, not both")
    if dry_run or status:
        from servax.cli.overview import show_overview

        return show_overview(recipe, out=out, status=status, as_json=json)
    from servax.cli.running import run_recipe

    return run_recipe(recipe, out=out, engine=engine, address=address, as_json=json)


def report_again(
    run: str, versus: str | None = None, out: str | None = None, json: bool = False
) -> int:
    """Write the report of a finished run again, or compare two runs: `servax report RUN_A RUN_B`.

    Args:
        run: Folder of the run, or one Parquet file of records.
        versus: Another run, to compare with; the same as a second RUN.
        out: Folder of the report; default <run>/report, or <run>/report-versus-<other run>.
        json: Print the table as JSON.
    """
    if versus is not None:
        from servax.cli.comparing import compare_runs

        return compare_runs(run, versus, out=out, as_json=json)

    from servax.cli.running import write_again

    return write_again(run, out=out, as_json=json)


def calibrate(
    corpus: str,
    model: str,
    out: str = "runs/calibration",
    root: str | None = None,
    scheme: Scheme = "four",
    groups: int = 6,
    held_out: int = 1,
    step_sizes: tuple[float, ...] | None = None,
    radii: tuple[float, ...] | None = None,
    steps: int = 30,
    utterances: int | None = None,
    batch_size: int = 16,
    device: str = "auto",
    json: bool = False,
) -> int:
    """Measure what PGD of many steps and radii takes from a recogniser, and choose a pair.

    Args:
        corpus: Name of a corpus, or the path of a CSV or Parquet manifest.
        model: Folder of a recogniser trained on the same fold.
        out: Folder for the curves (CSV), the table (JSON) and the picture (PNG).
        root: Folder of the corpus; default $SERVAX_DATA/<name>.
        scheme: Label scheme.
        groups: Into how many groups the speakers are divided.
        held_out: Which group is held out and attacked, from 1.
        step_sizes: Steps of PGD on the [0, 1] scale, as a list; default [.003,.005,.0078,.01].
        radii: Radii of PGD, likewise (.02 is 1.6 dB); default [.015,.02,.03,.06].
        steps: Largest k; every k from 1 is scored.
        utterances: How many of the group are attacked, spread evenly; default all.
        batch_size: Utterances attacked together.
        device: auto, cpu, cuda or cuda:N.
        json: Print JSON.
    """
    from servax.cli.calibrate import calibrate_pgd
    from servax.evaluation.calibration import CalibrationGrid

    chosen = {"step_sizes": step_sizes, "radii": radii}
    sizes = {name: values for name, values in chosen.items() if values is not None}
    return calibrate_pgd(
        corpus,
        model,
        out,
        root=root,
        scheme=scheme,
        groups=groups,
        held_out=held_out,
        grid=CalibrationGrid(steps=steps, **sizes),
        utterances=utterances,
        batch_size=batch_size,
        device=device,
        as_json=json,
    )


def audit(
    model: str,
    corpus: str = "ravdess",
    tier: Literal["smoke", "standard", "full"] = "standard",
    knowledge: str = "all",
    defences: str | None = None,
    surrogates: str | None = None,
    attacks: str | None = None,
    radius: float | None = None,
    norm: Literal["linf", "l2"] = "linf",
    snr: float = 30.0,
    root: str | None = None,
    scheme: Scheme = "four",
    groups: int = 6,
    held_out: int = 1,
    utterances: int | None = None,
    labels: str | None = None,
    sample_rate: int | None = None,
    inputs: Literal["logmel", "waveform"] | None = None,
    seconds: float | None = None,
    seed: int = 0,
    batch_size: int = 16,
    gradients: Literal["float32", "bfloat16"] = "float32",
    out: str | None = None,
    init: str | None = None,
    fail_under: str | None = None,
    sounds: int = 2,
    dry_run: bool = False,
    json: bool = False,
) -> int:
    """Audit any model: attacks by attackers of all kinds, sanity checks, one report.

    Stages already done are not repeated. A class path runs the code it names. Lists are written
    with commas (a,b) or with spaces (a b).

    Args:
        model: Folder of a recogniser of servax, or a packaged one (crnn-ravdess, CC BY-NC-SA 4.0);
            package.module:Class of your own (B, 1, M, F) or (B, T) to logits (B, C); folder of a
            Hugging Face audio classifier, or hf://owner/name; a TorchScript file (.pt of
            torch.jit.save), whose code is run; an .onnx file (black box only).
        corpus: Name of a corpus, or the path of a CSV or Parquet manifest.
        tier: smoke (a minute), standard, or full (AutoAttack's steps and queries); an estimate
            comes first.
        knowledge: What attackers know: all, or some of oblivious, transfer, black_box, bpda and
            adaptive with commas between. Attackers who do not know the defence are never alone.
        defences: What is audited beside the bare model, NAME=WHAT with commas between: the folder
            of a purifier (before the model) or of a recogniser (in its place), a packaged one
            (ssad-plus-ravdess, CC BY-NC-SA 4.0), or a transform such as mean-filter:3,
            gaussian-noise:0.02, quantise:4; for models of waveforms low-pass:4000, resample:8000,
            mp3:0.5; or a class path of your own (my_module:MyDefence), whose code is run.
        surrogates: Recognisers whose gradients a transfer attack takes, NAME=FOLDER with commas
            between: trained with seeds of their own, of other architectures.
        attacks: Attacks of your own that join those of the tier, NAME=my_module:MyAttack with
            commas between; their code is run, and they know the whole system.
        radius: Size of the attacks, in units of the input; default .02 on the log-Mel of [0, 1]
            (1.6 dB; 1 for l2), .002 on waveforms (-54 dBFS; .1 for l2).
        norm: linf (per element) or l2 (per utterance).
        snr: Least signal-to-noise ratio of attacks on the sound before a front-end, in dB.
        root: Folder of the corpus; default $SERVAX_DATA/<name>.
        scheme: Label scheme.
        groups: Into how many groups the speakers are divided.
        held_out: Which group is heard, from 1; the model must not have been trained on it.
        utterances: How many of the group, classes and speakers in equal shares; default all.
        labels: The model's classes in the order of its logits, with commas between, where it does
            not say them itself or calls them otherwise than the corpus.
        sample_rate: In Hz, where the model does not say it.
        inputs: logmel or waveform, where the model does not say it.
        seconds: Length of the sounds that a model of waveforms hears; default what it says, else 3.
        seed: Draws utterances, starts and queries.
        batch_size: Utterances attacked together.
        gradients: bfloat16 is the fast mode: the attacks' gradients are rough, what is predicted
            stays in float32, and records and report name it.
        out: Folder of the audit; default runs/audit-<model>.
        init: Arguments of the class of a class path, NAME=VALUE (width=16,deep=true) or a JSON
            object.
        fail_under: Leave with exit code 3 when a defence (the model, where there is none) keeps
            less UAR than this, in percent, in the worst case over all attacks; lower:40 asks it of
            the lower end of the interval, lost:10 that no more points than these are lost. With
            it or without, the exit code is 4 when a sanity check found an error.
        sounds: Utterances that the report plays, clean, attacked and purified; 0 for a report that
            holds no recordings, whose licence may not allow to pass them on.
        dry_run: Show the stages and how long they may take; attack nothing.
        json: Print JSON.
    """
    began = time.perf_counter()
    from servax.cli.auditing import audit_model
    from servax.evaluation.dataset import Selection

    return audit_model(
        model,
        selection=Selection(
            corpus=corpus,
            root=root,
            scheme=scheme,
            groups=groups,
            held_out=held_out,
            utterances=utterances,
            seed=seed,
        ),
        tier=tier,
        knowledge=knowledge,
        defences=defences,
        surrogates=surrogates,
        attacks=attacks,
        radius=radius,
        norm=norm,
        snr=snr,
        labels=labels,
        sample_rate=sample_rate,
        inputs=inputs,
        seconds=seconds,
        seed=seed,
        batch_size=batch_size,
        gradients=gradients,
        out=out,
        init=init,
        fail_under=fail_under,
        sounds=sounds,
        dry_run=dry_run,
        as_json=json,
        began=began,
    )


COMMANDS: dict[str, Any] = {
    "demo": demo,
    "corpus": {
        "_help": "Corpora: what is known, what is here, folds, download.",
        "list": corpus_list,
        "info": corpus_info,
        "verify": corpus_verify,
        "folds": corpus_folds,
        "fetch": corpus_fetch,
    },
    "train": {
        "_help": "Train a recogniser, plainly or on adversarial inputs, a purifier or a denoiser.",
        "recogniser": train_recogniser,
        "purifier": train_purifier,
        "denoiser": train_denoiser,
        "adversarial": train_adversarial,
    },
    "attack": attack,
    "audit": audit,
    "calibrate": calibrate,
    "purify": purify,
    "export": export_onnx,
    "run": run,
    "serve": serve,
    "report": report_again,
}
