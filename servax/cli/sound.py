"""``servax attack``: sound files in; adversarial log-Mel or sound out."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from servax import audio
from servax.attacks import FGSM, PGD, Attack, WaveformPGD
from servax.attacks.base import evaluating
from servax.attacks.problem import logits_of
from servax.bulk.files import carry_out, write_array
from servax.bulk.orders import LOGMEL, Order, Outcome, plan_attack
from servax.cli.output import print_json, print_table
from servax.cli.summary import as_data, end, refuse_existing, watched
from servax.defences import Defended
from servax.errors import SettingError
from servax.evaluation.distortion import signal_to_noise_ratio
from servax.features import FrontEnd, waveform_batch
from servax.features.full_scale import read_in_range
from servax.files import expanded, remove_unfinished
from servax.models import WaveformClassifier, classes_of
from servax.perturbation import PsychoacousticMask
from servax.purifier import Purifier
from servax.recognition import Recogniser


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
    overwrite: bool,
    as_json: bool,
) -> int:
    """Attack each sound; one bad file never stops the others."""
    recogniser = Recogniser.from_pretrained(model)
    if label not in recogniser.labels:
        raise SettingError.choice("label", label, recogniser.labels)
    y = torch.tensor([recogniser.labels.index(label)])
    defence = Purifier.from_pretrained(purifier) if purifier else None
    target = Defended(recogniser.network, defence) if defence else recogniser.network
    on_waveform = isinstance(chosen, WaveformPGD)
    attacked = _on_waveform if on_waveform else _on_logmel
    rate = recogniser.front_end.logmel.sample_rate
    if masking:
        if not isinstance(chosen, WaveformPGD):
            raise SettingError("masking", masking, "false: it belongs to --on waveform")
        chosen = replace(chosen, masking=PsychoacousticMask(sample_rate=rate))
    source, folder = expanded(sounds), expanded(out)
    plan = plan_attack(source, folder, ending=".wav" if on_waveform else LOGMEL)
    refuse_existing(plan, source, overwrite=overwrite)
    remove_unfinished(folder)
    rows = []
    read = read_in_range if on_waveform else audio.read

    def work(order: Order) -> Outcome:
        path = Path(order.source)
        samples = waveform_batch(read(path, sample_rate=rate))
        row = attacked(recogniser, target, chosen, samples, y, Path(order.target))
        name = path.name if path == source else path.relative_to(source)
        rows.append({"sound": str(name), **row})
        return Outcome(order.source, order.target, "done", samples.shape[-1] / rate)

    outcomes = (carry_out(order, work, overwrite=overwrite) for order in plan.orders)
    told = watched("attacking", plan, outcomes)
    if as_json:
        print_json({"attacked": rows, **as_data(plan, told)})
    elif rows:
        through = "through the purifier (adaptive)" if defence else "on the bare model"
        print_table(f"{title} {through}", list(rows[0]), [list(r.values()) for r in rows])
    return end(plan, told, folder)


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
        return PGD(step=step, epsilon=radius, steps=steps)
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
    write_array(place, adversarial[0, 0].numpy())
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
    adversarial = attack(model, samples, y)
    audio.write(place, adversarial[0].numpy(), recogniser.front_end.logmel.sample_rate)
    return {
        **_outcome(recogniser, model, samples, adversarial),
        "largest change dBFS": round(_dbfs(float((adversarial - samples).abs().max())), 1),
        "SNR dB": _snr_db(samples, adversarial),
    }


def _outcome(
    recogniser: Recogniser, model: nn.Module, x: Tensor, adversarial: Tensor
) -> dict[str, object]:
    with evaluating(model), torch.no_grad():
        before, after = (int(classes_of(logits_of(model, v))) for v in (x, adversarial))
    return {"before": recogniser.labels[before], "after": recogniser.labels[after]}


def _snr_db(x: Tensor, moved: Tensor) -> float:
    return round(float(signal_to_noise_ratio(x, moved)), 1)


def _dbfs(amplitude: float) -> float:
    return 20.0 * math.log10(amplitude) if amplitude > 0 else -math.inf
