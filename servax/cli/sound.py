"""``servax attack``: sound files in; adversarial log-Mel or sound out."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from servax import audio
from servax.attacks import FGSM, PGD, Attack, WaveformPGD
from servax.attacks.base import evaluating
from servax.attacks.problem import logits_of
from servax.bulk.files import whole_file
from servax.bulk.orders import sounds_below
from servax.cli.output import bar, print_json, print_table, say
from servax.defences import Defended
from servax.errors import AudioError, PathError, SettingError, unwritable
from servax.evaluation.distortion import signal_to_noise_ratio
from servax.experiments.training import Recogniser, load_recogniser
from servax.features import FrontEnd, waveform_batch
from servax.models import WaveformClassifier
from servax.perturbation import PsychoacousticMask
from servax.purifier import Purifier


def attack_sounds(
    sounds: str,
    model: str,
    label: str,
    out: str,
    *,
    chosen: Attack,
    title: str,
    purifier: str | None,
    masking: bool,
    as_json: bool,
) -> int:
    """Attack each sound; one bad file never stops the others."""
    recogniser = load_recogniser(model)
    if label not in recogniser.labels:
        raise SettingError.choice("label", label, recogniser.labels)
    y = torch.tensor([recogniser.labels.index(label)])
    defence = Purifier.from_pretrained(purifier) if purifier else None
    target = Defended(recogniser.network, defence) if defence else recogniser.network
    attacked = _on_waveform if isinstance(chosen, WaveformPGD) else _on_logmel
    rate = recogniser.front_end.logmel.sample_rate
    if masking:
        if not isinstance(chosen, WaveformPGD):
            raise SettingError("masking", masking, "false: it belongs to --on waveform")
        chosen = replace(chosen, masking=PsychoacousticMask(sample_rate=rate))
    rows, bad = [], []
    files = _files(Path(sounds))
    folder = Path(out)
    with bar("attacking") as update:
        for done, path in enumerate(files, start=1):
            update(done - 1, len(files))
            place = folder / _name(path, Path(sounds))
            try:
                samples = waveform_batch(audio.read(path, sample_rate=rate))
                row = attacked(recogniser, target, chosen, samples, y, place)
            except (AudioError, SettingError) as error:
                bad.append(str(error) if isinstance(error, AudioError) else f"{path}: {error}")
                continue
            rows.append({"sound": path.name, **row})
            update(done, len(files))
    if as_json:
        print_json({"attacked": rows, "failed": bad})
    elif rows:
        through = "through the purifier (adaptive)" if defence else "on the bare model"
        print_table(f"{title} {through}", list(rows[0]), [list(r.values()) for r in rows])
    return _end(len(rows), bad, folder)


def choose_attack(
    on: str,
    method: str,
    *,
    epsilon: float,
    snr: float | None,
    step: float,
    radius: float,
    steps: int,
) -> Attack:
    """Return the attack that the options of ``servax attack`` name."""
    if on == "waveform":
        whole = method == "fgsm"
        return WaveformPGD(
            epsilon=epsilon if snr is None else None,
            snr_db=snr,
            step=1.0 if whole else WaveformPGD.step,
            steps=1 if whole else steps,
        )
    if snr is not None:
        raise SettingError("snr", snr, "none: it is a budget of --on waveform")
    if method == "pgd":
        return PGD(step=step, radius=radius, steps=steps)
    return FGSM(epsilon=epsilon)


def _on_logmel(
    recogniser: Recogniser,
    target: nn.Module,
    attack: Attack,
    samples: Tensor,
    y: Tensor,
    place: Path,
) -> dict[str, object]:
    """Attack the log-Mel of samples (1, T), write it, and return what happened."""
    scale = recogniser.scale
    with torch.no_grad():
        x = scale(FrontEnd(recogniser.front_end)(samples))
    adversarial = attack(target, x, y)
    _write_array(place.with_name(f"{place.name}.npy"), adversarial[0, 0].numpy())
    return {
        **_outcome(recogniser, target, x, adversarial),
        "largest change dB": round(scale.epsilon_db(float((adversarial - x).abs().max())), 3),
        "log-Mel SNR dB": _snr_db(x, adversarial),
    }


def _on_waveform(
    recogniser: Recogniser,
    target: nn.Module,
    attack: Attack,
    samples: Tensor,
    y: Tensor,
    place: Path,
) -> dict[str, object]:
    """Attack samples (1, T), write them as a 16-bit WAV, and return what happened."""
    logmel = nn.Sequential(FrontEnd(recogniser.front_end), recogniser.scale)
    model = WaveformClassifier(logmel, target)
    x = samples.clamp(-1.0, 1.0)  # resampling overshoots
    adversarial = attack(model, x, y)
    path = place.with_name(f"{place.name}.wav")
    path.parent.mkdir(parents=True, exist_ok=True)
    audio.write(path, adversarial[0].numpy(), recogniser.front_end.logmel.sample_rate)
    return {
        **_outcome(recogniser, model, x, adversarial),
        "largest change dBFS": round(_dbfs(float((adversarial - x).abs().max())), 1),
        "SNR dB": _snr_db(x, adversarial),
    }


def _outcome(
    recogniser: Recogniser, model: nn.Module, x: Tensor, adversarial: Tensor
) -> dict[str, object]:
    with evaluating(model), torch.no_grad():
        before, after = (int(logits_of(model, v).argmax()) for v in (x, adversarial))
    return {"before": recogniser.labels[before], "after": recogniser.labels[after]}


def _files(source: Path) -> list[Path]:
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise AudioError(source, "no such file or folder")
    return sounds_below(source)


def _name(path: Path, source: Path) -> Path:
    """Return the path of a sound below its source, without its ending."""
    return Path(path.stem) if source.is_file() else path.relative_to(source).with_suffix("")


def _write_array(path: Path, array: np.ndarray) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as part, part.open("wb") as file:
            np.save(file, array, allow_pickle=False)
    except OSError as error:
        raise PathError(path, unwritable(error)) from None


def _snr_db(x: Tensor, moved: Tensor) -> float:
    return round(float(signal_to_noise_ratio(x, moved)), 1)


def _dbfs(amplitude: float) -> float:
    return 20.0 * math.log10(amplitude) if amplitude > 0 else -math.inf


def _end(done: int, bad: list[str], folder: Path) -> int:
    for sentence in bad:
        say(f"failed: {sentence}")
    say(f"{done} done, {len(bad)} failed: {folder}")
    return 1 if bad else 0
