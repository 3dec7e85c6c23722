"""One sound for everybody, fitted on training speakers and added to those that are held out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from servax.audit import Audit, AuditSettings
from servax.audit.plan import plan
from servax.corpora import Selection
from servax.evaluation.dataset import training_waveforms
from servax.evaluation.loading import load_system
from servax.stages import Watcher


@pytest.fixture
def selection(voices: Path) -> Selection:
    return Selection(corpus=str(voices), groups=3, utterances=8)


def test_training_speakers_are_heard_and_nobody_else(own: str, voices: Path, selection: Selection):
    system = load_system(f"{own}:Sound", seconds=0.4)
    x, y = training_waveforms(system, selection, 16)
    held_out = set(selection.fold().test.speakers)
    files = {
        soundfile.read(path, dtype="int16")[0].tobytes(): path.stem.split("-")
        for path in voices.parent.glob("*.wav")
    }
    heard = [files[(row * 32768).astype(np.int16).tobytes()] for row in x.numpy()]
    assert len(heard) == 16
    assert not {speaker for speaker, *_ in heard} & held_out
    assert [system.labels[int(each)] for each in y] == [label for _, label, _ in heard]


def test_a_standard_audit_fits_it_and_adds_it_at_each_ratio(
    own: str, selection: Selection, tmp_path: Path
):
    settings = AuditSettings.on_sound(
        [20, 1], bounds=(-1.0, 1.0), selection=selection, tier="standard"
    )
    audit = Audit.of(
        settings,
        load_system(f"{own}:Sound", seconds=0.4),
        defences=(),
        surrogates=(),
        folder=tmp_path,
        origin={},
    )
    planned = plan(audit)
    names: list[str] = ["universal", "noise"]
    chosen = [each for each in planned if each.threat and each.threat.name in names]
    watcher = Watcher()
    for each in (planned[0], *chosen):
        each.task.perform(watcher)
    wrong = {
        each.threat.name: (each.frame["prediction"] != each.frame["label"])
        .groupby(each.frame["strength"])
        .mean()
        for each in chosen
        if each.threat
    }
    assert list(wrong["universal"].index) == pytest.approx([0.1, 10**-0.05])
    assert wrong["universal"].iloc[1] > wrong["noise"].iloc[1]
