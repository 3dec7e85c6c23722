"""Ray gives the same bytes as this process, goes on, and outlives a lost worker."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from servax.cli import main
from servax.errors import SettingError

pytest.importorskip("ray")
# Ray warns of its own defaults when it sets them.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")

PACKAGED = "ssad-plus-synthetic"
LOSING = """
import json, os, pathlib, sys
from servax.purifier import bulk
from servax.purifier.plans import FileJob
from servax.purifier.bulk import purify_on_ray
from servax.purifier.files import purify_file

def mortal(purifier, how, overwrite, job):
    # The first worker that meets sound 3, and each that meets sound 4, dies as if it were killed.
    cleaner = bulk.kept_cleaner(purifier, **how)
    clean = type(cleaner).forward
    def deadly(x):
        mark = pathlib.Path(os.environ["MARK"])
        if job.source.endswith("4.wav") or (job.source.endswith("3.wav") and not mark.exists()):
            mark.write_text("lost")
            os.kill(os.getpid(), 9)
        return clean(cleaner, x)
    cleaner.forward = deadly
    return purify_file(cleaner, job, overwrite=overwrite)

bulk.purify_one = mortal
folder, out = sys.argv[1:]
jobs = [FileJob(f"{folder}/{i}.wav", f"{out}/{i}.wav") for i in range(6)]
told = {
    outcome.source[-5:]: [outcome.status, outcome.sentence]
    for outcome in purify_on_ray("ssad-plus-synthetic", jobs, workers=1)
}
pathlib.Path(f"{out}.json").write_text(json.dumps(told))  # Ray prints between the lines printed
"""


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    for i in range(6):
        sound = 0.1 * np.random.default_rng(i).normal(size=4_000 + 1_500 * i)
        (tmp_path / "in").mkdir(exist_ok=True)
        soundfile.write(tmp_path / "in" / f"{i}.wav", sound, 16_000 if i % 2 else 22_050)
    (tmp_path / "in" / "bad.wav").write_bytes(b"no sound")
    return tmp_path / "in"


@pytest.mark.slow
def test_ray_gives_the_same_bytes_and_goes_on(
    sounds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["purify", str(sounds), "--purifier", PACKAGED]
    assert main([*command, "-o", str(tmp_path / "local")]) == 1
    by_ray = [*command, "-o", str(tmp_path / "ray"), "--engine", "ray", "--workers", "2"]
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "2.wav").write_bytes((tmp_path / "local" / "2.wav").read_bytes())
    capsys.readouterr()
    assert main(by_ray) == 1
    assert "5 done, 1 skipped, 1 failed" in capsys.readouterr().err
    for i in range(6):
        local, other = (tmp_path / way / f"{i}.wav" for way in ("local", "ray"))
        assert local.read_bytes() == other.read_bytes()


@pytest.mark.slow
def test_a_lost_worker_is_begun_again(
    sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MARK", str(tmp_path / "mark"))
    done = subprocess.run(
        [sys.executable, "-c", LOSING, str(sounds), str(tmp_path / "out")],
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert (tmp_path / "mark").exists()
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "out.json").read_text())
    lost = f"{sounds}/4.wav: 3 workers were lost over it, one after another."
    expected = {f"{i}.wav": ["done", ""] for i in range(6)}
    assert told == {**expected, "4.wav": ["failed", lost]}
    written = [path.name for path in (tmp_path / "out").iterdir() if path.suffix != ".part"]
    assert sorted(written) == ["0.wav", "1.wav", "2.wav", "3.wav", "5.wav"]


def test_workers_are_refused_in_one_sentence(tmp_path: Path) -> None:
    from servax.purifier.bulk import purify_on_ray

    with pytest.raises(SettingError, match="workers is 0, expected a whole number of at least 1"):
        list(purify_on_ray(PACKAGED, [], workers=0))
