"""A recogniser that servax trained, as a subject."""

from __future__ import annotations

from pathlib import Path

from servax.audit.subjects.fingerprint import of_files
from servax.audit.subjects.probing import settled
from servax.audit.subjects.statements import Statements, agree, class_names
from servax.audit.subjects.subject import BOUNDS, Inputs, Subject
from servax.experiments.training import MODEL, load_recogniser
from servax.models.storage import SETTINGS, WEIGHTS

INPUTS: Inputs = "logmel"


def load_checkpoint_subject(folder: Path, said: Statements) -> Subject:
    """Return the recogniser in a folder with ``settings.json`` and ``weights.safetensors``.

    Raises:
        CheckpointError: The folder holds no recogniser, or a broken one.
        SettingError: What is said contradicts what was saved.
    """
    recogniser = load_recogniser(folder)
    whose = f"the checkpoint {folder}"
    rate = recogniser.front_end.logmel.sample_rate
    agree("inputs", said.inputs, INPUTS, whose, "logmel")
    labels = class_names(
        said.labels,
        recogniser.labels,
        classes=recogniser.network.settings.classes,
        whose=whose,
    )
    place = folder.resolve()
    return Subject(
        # A training leaves its weights in a folder called model; its parent tells them apart.
        name=place.parent.name if place.name == MODEL else place.name,
        model=settled(recogniser.network),
        inputs=INPUTS,
        labels=labels,
        sample_rate=agree("sample_rate", said.sample_rate, rate, whose, "16000"),
        gradients=True,
        bounds=BOUNDS[INPUTS],
        front_end=recogniser.front_end,
        scale=recogniser.scale,
        source=f"servax checkpoint {folder}",
        fingerprint=of_files([folder / WEIGHTS, folder / SETTINGS]),
    )
