"""``servax attack`` and ``purify``: sound files in, adversarial log-Mel or purified sound out."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch

from servax import audio
from servax.attacks import FGSM, PGD, Attack
from servax.cli.output import bar, print_json, print_table, say
from servax.defences import Defended
from servax.errors import AudioError, ServaxError, SettingError
from servax.experiments.training import load_recogniser
from servax.features import FrontEnd, waveform_batch
from servax.purifier import Purifier

ENDINGS = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".au", ".caf", ".w64")


def attack_sounds(
    sounds: str,
    model: str,
    label: str,
    out: str,
    *,
    method: str,
    epsilon: float,
    step: float,
    radius: float,
    steps: int,
    purifier: str | None,
    as_json: bool,
) -> int:
    """Attack each sound; one bad file never stops the others."""
    chosen: Attack = FGSM(epsilon=epsilon)
    if method == "pgd":
        chosen = PGD(step=step, radius=radius, steps=steps)
    recogniser = load_recogniser(Path(model))
    if label not in recogniser.labels:
        raise SettingError.choice("label", label, recogniser.labels)
    y = torch.tensor([recogniser.labels.index(label)])
    defence = Purifier.from_pretrained(purifier) if purifier else None
    target = Defended(recogniser.network, defence) if defence else recogniser.network
    front_end = FrontEnd(recogniser.front_end)
    rate = recogniser.front_end.logmel.sample_rate
    rows, bad = [], []
    files = _files(Path(sounds))
    folder = Path(out)
    with bar("attacking") as update:
        for done, path in enumerate(files, start=1):
            update(done - 1, len(files))
            try:
                samples = waveform_batch(audio.read(path, sample_rate=rate))
            except AudioError as error:
                bad.append(str(error))
                continue
            with torch.no_grad():
                x = recogniser.scale(front_end(samples))
            adversarial = chosen(target, x, y)
            with torch.no_grad():
                before, after = (int(target(v).argmax()) for v in (x, adversarial))
            _write_array(folder / f"{_name(path, Path(sounds))}.npy", adversarial[0, 0].numpy())
            rows.append(
                {
                    "sound": path.name,
                    "before": recogniser.labels[before],
                    "after": recogniser.labels[after],
                    "largest change dB": round(
                        recogniser.scale.epsilon_db(float((adversarial - x).abs().max())), 3
                    ),
                    "log-Mel SNR dB": round(_snr_db(x, adversarial), 1),
                }
            )
            update(done, len(files))
    if as_json:
        print_json({"attacked": rows, "failed": bad})
    elif rows:
        through = "through the purifier (adaptive)" if defence else "on the bare model"
        print_table(f"{method} {through}", list(rows[0]), [list(r.values()) for r in rows])
    return _end(len(rows), bad, folder)


def purify_sounds(sounds: str, purifier: str, out: str, *, overwrite: bool) -> int:
    """Purify each sound; one bad file never stops the others."""
    source, target = Path(sounds), Path(out)
    files = _files(source)
    cleaner = Purifier.from_pretrained(purifier).frozen()
    done, bad = 0, []
    with bar("purifying") as update:
        for count, path in enumerate(files, start=1):
            place = target if source.is_file() else target / f"{_name(path, source)}.wav"
            try:
                if place.exists() and not overwrite:
                    raise AudioError(place, "is there already; add --overwrite to replace it")
                rate = audio.inspect(path).sample_rate
                samples = audio.read(path, sample_rate=rate)
                place.parent.mkdir(parents=True, exist_ok=True)
                cleaned = np.clip(cleaner.purify(samples, rate), -1.0, 1.0 - 2.0**-15)
                audio.write(place, cleaned, rate)
                done += 1
            except (ServaxError, OSError) as error:
                bad.append(str(error))
            update(count, len(files))
    return _end(done, bad, target)


def _files(source: Path) -> list[Path]:
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise AudioError(source, "no such file or folder")
    files = sorted(p for p in source.rglob("*") if p.is_file() and p.suffix.lower() in ENDINGS)
    if not files:
        raise AudioError(source, f"holds no sound file ({', '.join(ENDINGS)})")
    return files


def _name(path: Path, source: Path) -> Path:
    """Return the path of a sound below its source, without its ending."""
    return Path(path.stem) if source.is_file() else path.relative_to(source).with_suffix("")


def _write_array(path: Path, array: np.ndarray) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp.npy")
        np.save(temporary, array, allow_pickle=False)
        temporary.replace(path)
    except OSError as error:
        raise ServaxError(f"{path}: cannot be written ({error.strerror}).") from None


def _snr_db(x: torch.Tensor, moved: torch.Tensor) -> float:
    noise = float((moved - x).pow(2).sum())
    return math.inf if noise == 0 else 10 * math.log10(float(x.pow(2).sum()) / noise)


def _end(done: int, bad: list[str], folder: Path) -> int:
    for sentence in bad:
        say(f"failed: {sentence}")
    say(f"{done} done, {len(bad)} failed: {folder}")
    return 1 if bad else 0
