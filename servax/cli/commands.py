"""The commands, as functions whose signatures are the options and whose docstrings are the help.

Nothing here loads torch: the work stands in the module that each command imports. No function is
named like something in ``servax`` itself: the parser would look there and load it.
"""

from __future__ import annotations

from typing import Any, Literal

from servax.cli.options import Groups, Scheme
from servax.cli.training_commands import (
    train_adversarial,
    train_denoiser,
    train_purifier,
    train_recogniser,
)
from servax.errors import SettingError
from servax.pretrained import PURIFIER


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


def corpus_list(json: bool = False) -> int:
    """List the corpora servax knows, and whether they are on this machine.

    Args:
        json: Print JSON.
    """
    from servax.cli.corpora import show_all

    return show_all(as_json=json)


def corpus_info(name: str, json: bool = False) -> int:
    """Tell the story of a corpus: source, licence, speakers, counts.

    Args:
        name: Name of a corpus.
        json: Print JSON.
    """
    from servax.cli.corpora import show_one

    return show_one(name, as_json=json)


def corpus_verify(
    name: str, root: str | None = None, scheme: Scheme = "native", json: bool = False
) -> int:
    """Check counts, readability and duplicates of a corpus against what is known of it.

    Args:
        name: Name of a corpus, or the path of a CSV or Parquet manifest.
        root: Folder of the corpus; default $SERVAX_DATA/<name>.
        scheme: Label scheme.
        json: Print JSON.
    """
    from servax.cli.corpora import verify

    return verify(name, root=root, scheme=scheme, as_json=json)


def corpus_folds(
    name: str,
    groups: Groups = 6,
    root: str | None = None,
    scheme: Scheme = "four",
    out: str | None = None,
    json: bool = False,
) -> int:
    """Show the folds of a corpus.

    Args:
        name: Name of a corpus, or the path of a CSV or Parquet manifest.
        groups: Number of groups of speakers; or speaker (leaves each out), text (leaves each text
            out; speakers on both sides) or official (the published split).
        root: Folder of the corpus; default $SERVAX_DATA/<name>.
        scheme: Label scheme.
        out: Folder to store each fold in, as JSON with its hash.
        json: Print JSON.
    """
    from servax.cli.corpora import show_folds

    return show_folds(name, groups, root=root, scheme=scheme, out=out, as_json=json)


def corpus_fetch(
    name: str, root: str | None = None, url: str | None = None, sha256: str | None = None
) -> int:
    """Load a corpus from its public home, with a checksum; an interrupted download goes on.

    Args:
        name: Name of a corpus.
        root: Folder to make; default $SERVAX_DATA/<name>.
        url: Another address of the archive; needs sha256.
        sha256: Checksum of what url serves, in hex.
    """
    from servax.cli.corpora import fetch_corpus

    return fetch_corpus(name, root=root, url=url, sha256=sha256)


def attack(
    sounds: str,
    model: str,
    label: str,
    out: str = "adversarial",
    on: Literal["logmel", "waveform"] = "logmel",
    method: Literal["fgsm", "pgd"] = "pgd",
    epsilon: float = 0.003,
    snr: float | None = None,
    step: float = 0.003,
    radius: float = 0.02,
    steps: int = 15,
    purifier: str | None = None,
    masking: bool = False,
    json: bool = False,
) -> int:
    """Attack a recogniser: adversarial log-Mel or sound, with predictions and distortion.

    Args:
        sounds: A sound file, or a folder of them.
        model: Folder of a recogniser, or a packaged one (crnn-ravdess, CC BY-NC-SA 4.0).
        label: True label of the sounds, one of the recogniser's.
        out: Folder for what comes out, one file for each sound: a log-Mel .npy (64, 373) on [0, 1],
            or a 16-bit .wav.
        on: logmel or waveform: what the attack may change.
        method: fgsm or pgd.
        epsilon: Size of FGSM, on the [0, 1] scale (.003 is .24 dB); on the waveform the budget of
            both methods, as a share of full scale (.003 is -50 dBFS).
        snr: Lowest signal-to-noise ratio in dB, in place of epsilon; only on the waveform.
        step: Step of PGD, on the [0, 1] scale; on the waveform it is a quarter of the budget.
        radius: Radius of PGD, on the [0, 1] scale (.02 is 1.6 dB); not used on the waveform.
        steps: Steps of PGD.
        purifier: Folder of a purifier to attack through (adaptive), or a packaged one
            (ssad-plus-ravdess, CC BY-NC-SA 4.0), or a Hugging Face hub id; default attacks the bare
            model.
        masking: Keep the change of a waveform below the masking threshold of the clean sound, as
            far as frames and 16 bits allow.
        json: Print JSON.
    """
    from servax.cli.sound import attack_sounds, choose_attack

    chosen = choose_attack(
        on, method, epsilon=epsilon, snr=snr, step=step, radius=radius, steps=steps
    )
    return attack_sounds(
        sounds,
        model,
        label,
        out,
        chosen=chosen,
        title=f"{method} of the {on}",
        purifier=purifier,
        masking=masking,
        as_json=json,
    )


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


def purify(
    sounds: str,
    out: str | None = None,
    purifier: str = PURIFIER,
    overwrite: bool = False,
    engine: Literal["local", "ray"] = "local",
    address: str | None = None,
    workers: int | None = None,
    json: bool = False,
) -> int:
    """Purify a sound, a folder or a manifest: audio to audio, same length, rate and level.

    Sound of any length, in memory that does not grow with it; each channel on its own. A log-Mel
    (.npy, as servax attack writes it) becomes a log-Mel. Of a folder or a manifest, what is there
    already is skipped, so an interrupted run goes on; a bad file never stops the others.

    Args:
        sounds: A sound file, a folder of them (its structure is kept), or a CSV or Parquet manifest
            (columns path, label, speaker; the output has a manifest.csv).
        out: File (.wav or .flac) or folder to write, 16 bits (needed; -o for short).
        purifier: Folder of a purifier, or a packaged one, or a Hugging Face hub id. The default
            comes with servax; it was trained on RAVDESS and is CC BY-NC-SA 4.0: not for commercial
            use.
        overwrite: Replace files that are there already.
        engine: local purifies one file after another in this process; ray purifies on all cores or
            on a cluster through Ray Data (pip install 'servax[ray]').
        address: HOST:PORT of the head of a Ray cluster to join, or auto for that of this machine;
            default starts Ray here. Every machine must see the files under the same paths.
        workers: Workers of engine ray, of one CPU each; default as many as there are CPUs.
        json: Print JSON.
    """
    from servax.cli.purifying import purify_sounds

    if out is None:
        raise SettingError("out", None, "a file or folder to write, given as -o OUT")
    return purify_sounds(
        sounds,
        purifier,
        out,
        overwrite=overwrite,
        engine=engine,
        address=address,
        workers=workers,
        as_json=json,
    )


def audit(
    model: str,
    corpus: str = "ravdess",
    tier: Literal["smoke", "standard", "full"] = "standard",
    knowledge: str = "all",
    defences: str | None = None,
    surrogates: str | None = None,
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
    seed: int = 0,
    batch_size: int = 16,
    out: str | None = None,
    fail_under: float | None = None,
    sounds: int = 2,
    dry_run: bool = False,
    json: bool = False,
) -> int:
    """Audit any model: attacks by attackers of all kinds, sanity checks, one report.

    Stages already done are not repeated. A class path runs the code it names.

    Args:
        model: Folder of a recogniser of servax, or a packaged one (crnn-ravdess, CC BY-NC-SA 4.0);
            package.module:Class of your own (B, 1, M, F) or (B, T) to logits (B, C); folder of a
            Hugging Face audio classifier, or hf://owner/name; an .onnx file (black box only).
        corpus: Name of a corpus, or the path of a CSV or Parquet manifest.
        tier: smoke (a minute), standard, or full (AutoAttack's steps and queries); an estimate
            comes first.
        knowledge: What attackers know: all, or some of oblivious, transfer, black_box, bpda and
            adaptive with commas between. Attackers who do not know the defence are never alone.
        defences: What is audited beside the bare model, NAME=WHAT with commas between: the folder
            of a purifier (before the model) or of a recogniser (in its place), a packaged one
            (ssad-plus-ravdess, CC BY-NC-SA 4.0), or a transform such as mean-filter:3,
            gaussian-noise:0.02, quantise:4; for models of waveforms low-pass:4000, resample:8000,
            mp3:0.5.
        surrogates: Recognisers whose gradients a transfer attack takes, NAME=FOLDER with commas
            between: trained with seeds of their own, of other architectures.
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
        seed: Draws utterances, starts and queries.
        batch_size: Utterances attacked together.
        out: Folder of the audit; default runs/audit-<model>.
        fail_under: Leave with exit code 1 when a defence (the model, where there is none) keeps
            less UAR than this, in percent, in the worst case over all attacks, or when a sanity
            check found an error.
        sounds: Utterances that the report plays, clean, attacked and purified; 0 for a report that
            holds no recordings, whose licence may not allow to pass them on.
        dry_run: Show the stages and how long they may take; attack nothing.
        json: Print JSON.
    """
    from servax.audit.selection import Selection
    from servax.cli.auditing import audit_model

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
        radius=radius,
        norm=norm,
        snr=snr,
        labels=labels,
        sample_rate=sample_rate,
        inputs=inputs,
        seed=seed,
        batch_size=batch_size,
        out=out,
        fail_under=fail_under,
        sounds=sounds,
        dry_run=dry_run,
        as_json=json,
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
    "run": run,
    "report": report_again,
}
