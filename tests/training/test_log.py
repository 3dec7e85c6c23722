from __future__ import annotations

import json
import math
import struct
from contextlib import closing
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from servax.report import training_curves_of as curves
from servax.training import TrainingLog, read_log

# Six digits that a float32 holds exactly: TensorBoard stores no more.
TERMS = [{"train/loss": 1.5, "validation/uar": 0.25}, {"train/loss": 0.75, "validation/uar": 0.5}]


def write(folder: Path, epochs: range, *, shift: float = 0.0) -> None:
    with closing(TrainingLog(folder, first_epoch=epochs.start)) as log:
        for epoch in epochs:
            log.write(epoch, {"train/loss": epoch + shift})


def test_a_log_is_json_lines(tmp_path: Path) -> None:
    with closing(TrainingLog(tmp_path / "deep", first_epoch=0)) as log:
        for epoch, terms in enumerate(TERMS):
            log.write(epoch, terms)
    lines = (tmp_path / "deep" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [
        {"epoch": 0, **TERMS[0]},
        {"epoch": 1, **TERMS[1]},
    ]
    assert read_log(tmp_path / "deep" / "log.jsonl") == [json.loads(line) for line in lines]
    # The report reads what the training wrote.
    assert curves(tmp_path / "deep" / "log.jsonl")["loss"] == {"train": {0.0: 1.5, 1.0: 0.75}}


def test_a_term_that_is_no_number_is_null_and_reads_back(tmp_path: Path) -> None:
    for epoch in range(2):
        with closing(TrainingLog(tmp_path, first_epoch=epoch)) as log:
            log.write(epoch, {"train/loss": math.nan, "validation/uar": 0.5})
    for line in (tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines():
        assert json.loads(line, parse_constant=pytest.fail)["train/loss"] is None
    read = read_log(tmp_path / "log.jsonl")
    assert [math.isnan(line["train/loss"]) for line in read] == [True, True]
    assert curves(tmp_path / "log.jsonl").keys() == {"uar"}


def test_a_resumed_log_has_each_epoch_once(tmp_path: Path) -> None:
    write(tmp_path, range(5))
    write(tmp_path, range(3, 6), shift=100.0)
    kept = [(line["epoch"], line["train/loss"]) for line in read_log(tmp_path / "log.jsonl")]
    assert kept == [(0, 0.0), (1, 1.0), (2, 2.0), (3, 103.0), (4, 104.0), (5, 105.0)]


def test_a_new_run_starts_an_empty_log(tmp_path: Path) -> None:
    write(tmp_path, range(3))
    write(tmp_path, range(0))
    assert read_log(tmp_path / "log.jsonl") == []


def test_a_last_line_cut_by_a_kill_is_left_out(tmp_path: Path) -> None:
    write(tmp_path, range(3))
    path = tmp_path / "log.jsonl"
    whole = path.read_bytes()
    for cut in range(1, len(b'{"epoch": 2, "train/loss": 2.0}\n')):
        path.write_bytes(whole[:-cut])
        epochs = [line["epoch"] for line in read_log(path)]
        assert epochs == ([0, 1, 2] if cut == 1 else [0, 1])
        write(tmp_path, range(2, 3))
        assert path.read_bytes() == whole


def test_lines_that_are_no_epoch_end_a_log(tmp_path: Path) -> None:
    for foreign in (b"7\n", b"[]\n", b"{}\n", b'{"epoch": "x"}\n', b"\xff\xfe\n"):
        (tmp_path / "log.jsonl").write_bytes(b'{"epoch": 0}\n' + foreign + b'{"epoch": 1}\n')
        assert read_log(tmp_path / "log.jsonl") == [{"epoch": 0}]


def test_no_log_is_an_empty_log(tmp_path: Path) -> None:
    assert read_log(tmp_path / "log.jsonl") == []


def events(folder: Path) -> list[Event]:
    """Return the events of a folder: records of length (8 bytes), checksum (4), data, checksum."""
    found = []
    for path in sorted((folder / "tensorboard").iterdir()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            found.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return found


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return what TensorBoard would draw: a new session drops the steps from its own on."""
    drawn: dict[str, dict[int, float]] = {}
    for event in events(folder):
        if event.session_log.status == SessionLog.START:
            for points in drawn.values():
                for step in [step for step in points if step >= event.step]:
                    del points[step]
        for value in event.summary.value:
            drawn.setdefault(value.tag, {})[event.step] = value.simple_value
    return {name: sorted(points.items()) for name, points in drawn.items()}


def test_tensorboard_holds_the_same_terms(tmp_path: Path) -> None:
    with closing(TrainingLog(tmp_path, first_epoch=0)) as log:
        for epoch, terms in enumerate(TERMS):
            log.write(epoch, terms)
    assert scalars(tmp_path) == {
        "train/loss": [(0, 1.5), (1, 0.75)],
        "validation/uar": [(0, 0.25), (1, 0.5)],
    }


def test_tensorboard_drops_later_epochs_too(tmp_path: Path) -> None:
    write(tmp_path, range(4))
    write(tmp_path, range(2, 5), shift=0.5)
    assert scalars(tmp_path)["train/loss"] == [(0, 0.0), (1, 1.0), (2, 2.5), (3, 3.5), (4, 4.5)]
