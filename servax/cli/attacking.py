"""What ``servax attack`` computes; loaded when it does."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from servax import audio
from servax.attacks import FGSM, PGD, Attack, WaveformPGD, logits_of
from servax.cli.sound import AttackSounds
from servax.defences import Defended
from servax.errors import SettingError
from servax.evaluation.distortion import signal_to_noise_ratio
from servax.features import waveform_batch
from servax.models import WaveformClassifier, classes_of, evaluating
from servax.perturbation import PsychoacousticMask
from servax.purifier import Purifier
from servax.purifier.files import carry_out, write_array
from servax.purifier.plans import FileJob, Outcome, Plan
from servax.recognition import Recogniser
from servax.training import Compute


def attack_of(command: AttackSounds, sample_rate: int) -> Attack:
    """Return the attack that the options of a command name.

    Raises:
        SettingError: Options do not go together, or one is outside its rule.
    """
    if command.on == "waveform":
        whole = command.method == "fgsm"
        return WaveformPGD(
            epsilon=command.epsilon if command.snr is None else None,
            snr_db=command.snr,
            step=1.0 if whole else WaveformPGD.step,
            steps=1 if whole else command.steps,
            masking=PsychoacousticMask(sample_rate=sample_rate) if command.masking else None,
        )
    if command.snr is not None:
        raise SettingError("snr", command.snr, "none: it is a budget of --on waveform")
    if command.masking:
        raise SettingError("masking", command.masking, "false: it belongs to --on waveform")
    if command.method == "pgd":
        return PGD(step=command.step, epsilon=command.radius, steps=command.steps)
    return FGSM(epsilon=command.epsilon)


@dataclass(frozen=True)
class Attacked:
    """Who is attacked how, with the true label y (1,) of every sound."""

    recogniser: Recogniser
    target: nn.Module
    attack: Attack
    y: Tensor
    heard: bool
    """Whether the waveform is attacked, else the log-Mel."""

    @classmethod
    def of(cls, command: AttackSounds) -> Attacked:
        """Return what the options of a command say.

        Raises:
            SettingError, CheckpointError: An option is outside its rule, or a network is not there.
        """
        attack_of(command, 16_000)  # options that do not go together are refused first
        recogniser = Recogniser.from_pretrained(command.model)
        if command.label not in recogniser.labels:
            raise SettingError.choice("label", command.label, recogniser.labels)
        target: nn.Module = recogniser.network
        if command.purifier:
            target = Defended(target, Purifier.from_pretrained(command.purifier))
        return cls(
            recogniser,
            Compute(device=command.device).placed(target),
            attack_of(command, recogniser.sample_rate),
            torch.tensor([recogniser.labels.index(command.label)]),
            command.on == "waveform",
        )

    def outcomes(
        self, plan: Plan, source: Path, rows: list[dict[str, object]], *, overwrite: bool
    ) -> Iterator[Outcome]:
        """Yield what became of each sound; what happened to it joins `rows`."""

        def work(job: FileJob) -> Outcome:
            path, rate = Path(job.source), self.recogniser.sample_rate
            read = audio.read_in_range if self.heard else audio.read
            samples = waveform_batch(read(path, sample_rate=rate))
            row = (self._waveform if self.heard else self._logmel)(samples, Path(job.target))
            name = path.name if path == source else path.relative_to(source)
            rows.append({"sound": str(name), **row})
            return Outcome(job.source, job.target, "done", samples.shape[-1] / rate)

        return (carry_out(job, work, overwrite=overwrite) for job in plan.jobs)

    def _logmel(self, samples: Tensor, place: Path) -> dict[str, object]:
        """Attack the log-Mel of samples (1, T), write it, and return what happened."""
        scale = self.recogniser.scale
        with torch.no_grad():
            x = self.recogniser.logmel(samples)
        adversarial = self.attack(self.target, x, self.y)
        write_array(place, adversarial[0, 0].numpy())
        return {
            **self._read_as(self.target, x, adversarial),
            "largest change dB": round(scale.epsilon_db(float((adversarial - x).abs().max())), 3),
            "log-Mel SNR dB": _snr_db(x, adversarial),
        }

    def _waveform(self, samples: Tensor, place: Path) -> dict[str, object]:
        """Attack samples (1, T), write them as a 16-bit WAV, and return what happened."""
        model = WaveformClassifier(self.recogniser.logmel, self.target)
        adversarial = self.attack(model, samples, self.y)
        audio.write(place, adversarial[0].numpy(), self.recogniser.sample_rate)
        largest = float((adversarial - samples).abs().max())
        dbfs = 20.0 * math.log10(largest) if largest > 0 else -math.inf
        return {
            **self._read_as(model, samples, adversarial),
            "largest change dBFS": round(dbfs, 1),
            "SNR dB": _snr_db(samples, adversarial),
        }

    def _read_as(self, model: nn.Module, x: Tensor, adversarial: Tensor) -> dict[str, object]:
        with evaluating(model), torch.no_grad():
            before, after = (int(classes_of(logits_of(model, v))) for v in (x, adversarial))
        return {"before": self.recogniser.labels[before], "after": self.recogniser.labels[after]}


def _snr_db(x: Tensor, moved: Tensor) -> float:
    return round(float(signal_to_noise_ratio(x, moved)), 1)
