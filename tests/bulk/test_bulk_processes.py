"""Several processes of this machine write what one writes, and a lost one is told."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from servax.cli import main
from servax.errors import ServaxError, SettingError
from servax.purifier import bulk
from servax.purifier.bulk import purify_here
from servax.purifier.plans import FileJob, plan_purification

PACKAGED = "ssad-plus-synthetic"


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for i in range(6):
        sound = 0.1 * np.random.default_rng(i).normal(size=8_000 + 1_500 * i)
        soundfile.write(tmp_path / "in" / f"{i}.wav", sound, 16_000 if i % 2 else 22_050)
    return tmp_path / "in"


@pytest.mark.slow
def test_two_processes_write_the_bytes_of_one_and_a_bad_file_stops_none(
    sounds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (sounds / "bad.wav").write_bytes(b"no sound")
    command = ["purify", str(sounds), "--purifier", PACKAGED]
    for workers in ("1", "2"):
        assert main([*command, "-o", str(tmp_path / workers), "--workers", workers]) == 1
        said = capsys.readouterr().err
        assert "6 done, 0 skipped, 1 failed" in said
        assert f"failed: {sounds / 'bad.wav'}: is not sound" in said
    for i in range(6):
        one, two = (tmp_path / workers / f"{i}.wav" for workers in ("1", "2"))
        assert one.read_bytes() == two.read_bytes()


@pytest.mark.slow
def test_a_lost_process_is_told_in_one_sentence_and_what_is_done_is_kept(
    sounds: Path, tmp_path: Path
) -> None:
    jobs = plan_purification(sounds, tmp_path / "out").jobs
    outcomes = purify_here(PACKAGED, jobs, workers=2)
    first = next(outcomes)
    for child in multiprocessing.active_children():
        child.kill()
    with pytest.raises(ServaxError, match=r"a worker process was lost .* what is done is kept"):
        list(outcomes)
    assert soundfile.info(first.target).frames == soundfile.info(first.source).frames


def test_threads_are_as_before_when_a_file_is_done(sounds: Path, tmp_path: Path) -> None:
    jobs = plan_purification(sounds, tmp_path / "out").jobs[:1]
    threads = torch.get_num_threads()
    for outcome in purify_here(PACKAGED, jobs, workers=1):
        assert (outcome.status, torch.get_num_threads()) == ("done", threads)


def test_workers_begin_only_where_there_is_work_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "cpus", lambda: 4)
    monkeypatch.setattr(bulk, "BYTES_WORTH_A_WORKER", 1_000)
    for bytes_, workers in ((0, 1), (999, 1), (1_000, 2), (3_500, 4), (90_000, 4)):
        (tmp_path / "a.wav").write_bytes(bytes(bytes_))
        jobs = [FileJob(str(tmp_path / name), "") for name in ("a.wav", "gone.wav")]
        assert bulk.workers_for(jobs) == workers


def test_workers_are_refused_in_one_sentence(
    sounds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SettingError, match="workers is 0, expected a whole number of at least 1"):
        list(purify_here(PACKAGED, [], workers=0))
    one = ["purify", str(sounds / "0.wav"), "-o", str(tmp_path / "o.wav"), "--workers", "2"]
    assert main(one) == 2
    assert "workers is 2, expected none for one sound" in capsys.readouterr().err
