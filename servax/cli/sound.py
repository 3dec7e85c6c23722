"""``servax attack | purify``: sounds in; adversarial log-Mel or sound, or purified sound, out.

What computes is loaded when it does: help comes at once.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from servax.cli.commands import loaded
from servax.cli.output import bar, note, print_json, print_table, say
from servax.errors import AudioError, SettingError
from servax.files import expanded, remove_unfinished
from servax.pretrained import PURIFIER
from servax.purifier.folders import MOST_NAMES
from servax.purifier.plans import (
    LOGMEL,
    MANIFESTS,
    Outcome,
    Plan,
    SampleFormat,
    check_manifest,
    plan_attack,
    plan_purification,
    write_manifest,
)
from servax.runtime.stream import Mixture

PIPE = "-"
"""In place of a file: stdin or stdout."""
STATUSES = ("done", "skipped", "failed", "not_sound")


@dataclass(frozen=True)
class AttackSounds:
    """Attack a recogniser: adversarial log-Mel or sound, with predictions and distortion."""

    sounds: str
    """A sound file, or a folder of them."""
    model: str
    """Folder of a recogniser, or a packaged one (crnn-ravdess, CC BY-NC-SA 4.0)."""
    label: str
    """True label of the sounds, one of the recogniser's."""
    _: KW_ONLY
    out: str = "adversarial"
    """Folder for what comes out, one file for each sound: of a.wav the log-Mel a.wav.npy (64, 373)
    on [0, 1], or the 16-bit a.wav; of a.mp3, a.mp3.npy or a.mp3.wav. A folder keeps its structure,
    and what is there already is skipped."""
    on: Literal["logmel", "waveform"] = "logmel"
    """logmel or waveform: what the attack may change."""
    method: Literal["fgsm", "pgd"] = "pgd"
    """fgsm or pgd."""
    epsilon: float = 0.003
    """Size of FGSM, on the [0, 1] scale (.003 is .24 dB); on the waveform the budget of both
    methods, as a share of full scale (.003 is -50 dBFS)."""
    snr: float | None = None
    """Lowest signal-to-noise ratio in dB, in place of epsilon; only on the waveform."""
    step: float = 0.003
    """Step of PGD, on the [0, 1] scale; on the waveform it is a quarter of the budget."""
    radius: float = 0.02
    """Radius of PGD, on the [0, 1] scale (.02 is 1.6 dB); not used on the waveform."""
    steps: int = 15
    """Steps of PGD."""
    purifier: str | None = None
    """Folder of a purifier to attack through (adaptive), or a packaged one (ssad-plus-ravdess, CC
    BY-NC-SA 4.0), or a Hugging Face hub id; default attacks the bare model."""
    masking: bool = False
    """Keep the change of a waveform below the masking threshold of the clean sound, as far as
    frames and 16 bits allow."""
    device: str = "cpu"
    """cpu, cuda, cuda:N, or auto for CUDA where there is one."""
    overwrite: bool = False
    """Replace files that are there already."""
    json: bool = False
    """Print JSON."""

    def __call__(self) -> int:
        """Attack each sound; one bad file never stops the others."""
        attacked = loaded("attacking:Attacked").of(self)
        source, folder = expanded(self.sounds), expanded(self.out)
        plan = plan_attack(source, folder, ending=".wav" if attacked.heard else LOGMEL)
        _refuse_existing(plan, source, overwrite=self.overwrite)
        remove_unfinished(folder)
        rows: list[dict[str, object]] = []
        with _watched("attacking", plan) as (told, tell):
            for outcome in attacked.outcomes(plan, source, rows, overwrite=self.overwrite):
                tell(outcome)
        if self.json:
            print_json({"attacked": rows, **_as_data(plan, told)})
        elif rows:
            through = "through the purifier (adaptive)" if self.purifier else "on the bare model"
            title = f"{self.method} of the {self.on} {through}"
            print_table(title, list(rows[0]), [list(r.values()) for r in rows])
        return _end(plan, told, folder)


@dataclass(frozen=True)
class Purify:
    """Purify a sound, a folder or a manifest: audio to audio, same length, rate and level.

    What is within full scale stays so: where needed a limiter lowers it, and says so. Sound of any
    length, in memory that does not grow with it; each channel on its own. A log-Mel (.npy, as
    servax attack writes it) becomes a log-Mel; mix, limit_db and format are of sound alone. Of a
    folder or a manifest, what is there already is skipped, so an interrupted run goes on; a bad
    file never stops the others.
    """

    sounds: str
    """A sound file, a folder of them (its structure is kept), a CSV or Parquet manifest (columns
    path, label, speaker; the output has a manifest.csv), or - for a sound on stdin."""
    _: KW_ONLY
    out: str | None = None
    """File (.wav or .flac) or folder to write, or - for a WAV on stdout (needed; -o for short). In
    a folder a.wav stays a.wav, a.mp3 becomes a.mp3.wav."""
    purifier: str = PURIFIER
    """Folder of a purifier, or a packaged one, or a Hugging Face hub id; or what begins at once,
    without torch: a .onnx file of servax export, or noise-wiener:20, white noise 20 dB below the
    sound, drawn anew each time, and a filter that knows it. The default comes with servax; it was
    trained on RAVDESS and is CC BY-NC-SA 4.0: not for commercial use."""
    mix: float = Mixture.mix
    """Share of the change that is let through, from 0 to 1; less is heard less and protects less
    (docs/sound.md)."""
    limit_db: float | None = Mixture.limit_db
    """Keep the change at least so many dB below the sound; default does not."""
    format: SampleFormat = "keep"
    """Samples of 16 or 24 bits, or floats (.wav); keep writes those of the source, 16 bits for MP3
    and the like. What goes beyond full scale is written as floats always."""
    device: str = "cpu"
    """cpu, cuda, cuda:N, or auto for CUDA where there is one; an ONNX file runs on the cpu."""
    overwrite: bool = False
    """Replace files that are there already."""
    engine: Literal["local", "ray"] = "local"
    """local purifies on the CPUs of this machine; ray there or on a cluster through Ray (the
    extra ray)."""
    address: str | None = None
    """HOST:PORT of the head of a Ray cluster to join, or auto for that of this machine; default
    starts Ray here. Every machine must see the files under the same paths."""
    workers: int | None = None
    """Processes of one CPU each, for a folder or a manifest; default as many as there are CPUs, of
    engine local fewer where beginning them takes longer than the work. The bytes written are the
    same for any number."""
    json: bool = False
    """Print JSON."""

    def __call__(self) -> int:
        """Purify each sound; one bad file never stops the others."""
        if self.out is None:
            raise SettingError("out", None, "a file or folder to write, given as -o OUT")
        if self.engine == "local" and self.address is not None:
            raise SettingError("address", self.address, "none: it belongs to --engine ray")
        mixture = Mixture(mix=self.mix, limit_db=self.limit_db)
        with _piped(self.sounds, self.out, as_json=self.json) as (source, target):
            return self._purified(source, target, mixture)

    def _purified(self, source: Path, target: Path, mixture: Mixture) -> int:
        from servax.purifier import bulk

        one = source.is_file() and source.suffix.lower() not in MANIFESTS
        if self.engine == "local" and self.workers is not None and one:
            expected = "none for one sound: it belongs to --engine ray, or to many sounds"
            raise SettingError("workers", self.workers, expected)
        plan = plan_purification(source, target)
        plan = replace(plan, jobs=tuple(replace(job, format=self.format) for job in plan.jobs))
        _refuse_existing(plan, source, overwrite=self.overwrite)
        if plan.rows and not self.overwrite:
            check_manifest(plan, target)
        remove_unfinished(target)
        # Several processes would share one GPU.
        workers = self.workers if self.device == "cpu" else self.workers or 1
        given: dict[str, Any] = {"overwrite": self.overwrite, "workers": workers}
        given |= {"mixture": mixture, "device": self.device}
        purify: Callable[..., Iterable[Outcome]] = bulk.purify_here
        if self.engine == "ray":
            purify, given = bulk.purify_on_ray, given | {"address": self.address}
        with _watched("purifying", plan) as (told, tell):
            for outcome in purify(self.purifier, plan.jobs, **given):
                tell(self._named(outcome, source))
        self._show(plan, told, target)
        code = _end(plan, told, Path("stdout") if self.out == PIPE else target)
        if plan.rows:
            write_manifest(plan, told, target)  # last: the rest is told, whether it can be
        return code

    def _named(self, outcome: Outcome, source: Path) -> Outcome:
        """Return an outcome that says stdin where its file stands for that."""
        if self.sounds != PIPE:
            return outcome
        said = outcome.sentence.replace(str(source), "stdin")
        return replace(outcome, source="stdin", sentence=said)

    def _show(self, plan: Plan, told: Sequence[Outcome], target: Path) -> None:
        limited = [each for each in told if each.limited_samples]
        floats = sum(each.subtype == "FLOAT" for each in told)
        count = _counts(told)
        seconds = sum(each.seconds for each in told)
        if self.json:
            print_json({"limited": len(limited), "floats": floats, **_as_data(plan, told)})
        elif len(told) > 1:
            rows: list[list[object]] = [
                ["done", count["done"], f"{seconds / 60:.1f}"],
                ["skipped (there already; --overwrite replaces)", count["skipped"], ""],
                ["failed", count["failed"], ""],
                ["not sound, by their ending", count["not_sound"], ""],
                ["limited (lowered in places, to stay within full scale)", len(limited), ""],
                ["written as floats", floats, ""],
            ]
            print_table(f"Purified into {target}", ["what", "files", "minutes of sound"], rows)
        elif floats:
            note("written as 32-bit floats")
        if limited:
            most = max(each.limited_db for each in limited)
            lowered = sum(each.limited_samples for each in limited)
            note(f"limited: {lowered} samples by at most {most:.1f} dB, to stay within full scale")


@contextmanager
def _piped(sounds: str, out: str, *, as_json: bool) -> Iterator[tuple[Path, Path]]:
    """Yield the files that are read and written; those for - are there meanwhile.

    A WAV says first how long it is, so nothing of it leaves before all is known.

    Raises:
        SettingError: stdout is to hold JSON too, more than one sound, or a log-Mel.
    """
    if out == PIPE and as_json:
        raise SettingError("json", True, "false where the sound goes to stdout")
    if out == PIPE and sounds != PIPE:
        given = expanded(sounds)
        ending = given.suffix.lower()
        if given.is_dir() or ending in MANIFESTS:
            raise SettingError("out", out, f"a folder for {sounds}: stdout holds one sound")
        if ending == LOGMEL:
            raise SettingError("out", out, f"a {LOGMEL} file for {sounds}: stdout holds a WAV")
    with TemporaryDirectory(prefix="servax-") as folder:
        source, target = expanded(sounds), expanded(out)
        if sounds == PIPE:
            source = Path(folder, "stdin.wav")
            with source.open("wb") as file:
                shutil.copyfileobj(sys.stdin.buffer, file)
        if out == PIPE:
            target = Path(folder, "stdout.wav")
        yield source, target
        if out == PIPE and target.is_file():
            with target.open("rb") as file:
                shutil.copyfileobj(file, sys.stdout.buffer)
            sys.stdout.buffer.flush()


def _refuse_existing(plan: Plan, source: Path, *, overwrite: bool) -> None:
    """Refuse to replace what is there, where one file was asked for: none would be done."""
    if source.is_file() and not plan.rows and not overwrite:
        for job in plan.jobs:
            if Path(job.target).exists():
                raise AudioError(job.target, "is there already; add --overwrite to replace it")


@contextmanager
def _watched(title: str, plan: Plan) -> Iterator[tuple[list[Outcome], Callable[[Outcome], None]]]:
    """Yield what becomes of every file of a plan, and what tells it; show how far it is meanwhile.

    At the end the files are in the order of their names.
    """
    told: list[Outcome] = []
    with bar(title) as update:
        update(0, len(plan.jobs))

        def tell(outcome: Outcome) -> None:
            told.append(outcome)
            update(len(told), len(plan.jobs))

        yield told, tell
    told[:] = sorted([*plan.told, *told], key=lambda each: each.source)


def _counts(told: Sequence[Outcome]) -> dict[str, int]:
    """Return how many files came to each end; together they are all that were seen."""
    return {status: sum(each.status == status for each in told) for status in STATUSES}


def _as_data(plan: Plan, told: Sequence[Outcome]) -> dict[str, Any]:
    """Return the counts, what was not read, and what became of each file, for JSON."""
    return {**_counts(told), "notes": plan.notes, "files": [asdict(each) for each in told]}


def _end(plan: Plan, told: Sequence[Outcome], target: Path) -> int:
    """Say what failed, what was no sound and how many files there were; return the exit code."""
    for each in told:
        if each.status == "failed":
            say(f"failed: {each.sentence}")
    count, endings = _counts(told), dict[str, list[str]]()
    for each in told:
        if each.status == "not_sound":
            path = Path(each.source)
            endings.setdefault(path.suffix.lower() or "without one", []).append(path.name)
    if endings:
        listed = ", ".join(
            f"{len(names)} {ending} ({', '.join(names[:MOST_NAMES])}"
            f"{', …' if len(names) > MOST_NAMES else ''})"
            for ending, names in sorted(endings.items())
        )
        note(f"not sound, by ending: {listed}")
    for told_of_plan in plan.notes:
        note(told_of_plan)
    more = f", {count['not_sound']} not sound" if endings else ""
    done = f"{count['done']} done, {count['skipped']} skipped, {count['failed']} failed"
    note(f"{done}{more}: {target}")
    return 1 if count["failed"] else 0
