"""A recogniser that servax trained, as a subject."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from servax.audit.subjects.fingerprint import of_files
from servax.audit.subjects.probing import settled
from servax.audit.subjects.statements import Statements, agree, class_names
from servax.evaluation.systems import Inputs, System
from servax.features import FrontEnd
from servax.models import WaveformClassifier, frozen
from servax.models.storage import SETTINGS, WEIGHTS
from servax.recognition import MODEL, Recogniser


def load_checkpoint_system(folder: Path, said: Statements) -> System:
    """Return the recogniser in a folder with ``settings.json`` and ``weights.safetensors``.

    It takes log-Mels; where `said` asks for waveforms, its front-end and scale are part of it.

    Raises:
        CheckpointError: The folder holds no recogniser, or a broken one.
        SettingError: What is said contradicts what was saved.
    """
    recogniser = Recogniser.from_pretrained(folder)
    whose = f"the checkpoint {folder}"
    rate = recogniser.front_end.logmel.sample_rate
    labels = class_names(
        said.labels,
        recogniser.labels,
        classes=recogniser.network.settings.classes,
        whose=whose,
    )
    place = folder.resolve()
    inputs: Inputs = said.inputs or "logmel"
    on_sound = inputs == "waveform"
    # With batch norms folded: the same answers up to rounding, and cheaper gradients.
    network: nn.Module = frozen(recogniser.network)
    chain = nn.Sequential(FrontEnd(recogniser.front_end), recogniser.scale)
    model = WaveformClassifier(chain, network) if on_sound else network
    return System(
        # A training leaves its weights in a folder called model; its parent tells them apart.
        name=place.parent.name if place.name == MODEL else place.name,
        model=settled(model),
        inputs=inputs,
        labels=labels,
        sample_rate=agree("sample_rate", said.sample_rate, rate, whose, "16000"),
        front_end=None if on_sound else recogniser.front_end,
        seconds=said.length(inputs, None, whose),
        scale=None if on_sound else recogniser.scale,
        source=f"servax checkpoint {folder}",
        fingerprint=of_files([folder / WEIGHTS, folder / SETTINGS]),
    )
