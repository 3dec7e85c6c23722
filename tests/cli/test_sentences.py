"""Every command's help, and how it refuses: all sentences and exit codes in one file.

``python tests/cli/test_sentences.py`` writes the file anew; the difference says what changed.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import tempfile
from pathlib import Path
from unittest import mock

import pytest

from servax.cli import main

FILE = Path(__file__).with_name("sentences.txt")
HELP = [
    "",
    *(["demo", "run", "report", "calibrate", "certify", "audit", "attack", "purify", "export"]),
    "serve",
    *(f"corpus {name}" for name in ("", "list", "info", "verify", "folds", "fetch")),
    *(f"train {name}" for name in ("", "recogniser", "purifier", "adversarial", "denoiser")),
    *(f"export {name}" for name in ("onnx",)),
]
REFUSED = """
nothing
audit
audit crnn-synthetic --tier huge
audit crnn-synthetic --corpus nowhere
audit crnn-synthetic --corpus synthetic --tier smoke --knowledge oblivious
audit crnn-synthetic --corpus synthetic --tier smoke --knowledge psychic
audit crnn-synthetic --corpus synthetic --tier smoke --radius -1
audit crnn-synthetic --corpus synthetic --tier smoke --radius 0
audit crnn-synthetic --corpus synthetic --tier smoke --norm l3
audit crnn-synthetic --corpus synthetic --tier smoke --held-out 9
audit crnn-synthetic --corpus synthetic --tier smoke --defences magic
audit crnn-synthetic --corpus synthetic --tier smoke --defences mean-filter
audit crnn-synthetic --corpus synthetic --tier smoke --defences mean-filter:x
audit crnn-synthetic --corpus synthetic --tier smoke --defences low-pass:4000
audit crnn-synthetic --corpus synthetic --tier smoke --surrogates crnn-synthetic
audit crnn-synthetic --corpus synthetic --tier smoke --attacks nothing
audit crnn-synthetic --corpus synthetic --tier smoke --fail-under 101
audit crnn-synthetic --corpus synthetic --tier smoke --fail-under most:3
audit crnn-synthetic --corpus synthetic --tier smoke --batch-size 0
audit crnn-synthetic --corpus synthetic --tier smoke --snr 100
audit crnn-synthetic --corpus synthetic --tier smoke --utterances 0
audit crnn-synthetic --corpus synthetic --tier smoke --gradients float16
audit no.such:Thing --corpus synthetic
audit nofolder --corpus synthetic
audit nofile.onnx --corpus synthetic
calibrate synthetic nofolder
calibrate synthetic crnn-synthetic --steps 0
calibrate synthetic crnn-synthetic --radii [0]
calibrate synthetic crnn-synthetic --utterances 0
certify crnn-synthetic --corpus synthetic
certify crnn-synthetic --noise [] --corpus synthetic
certify crnn-synthetic --noise 20 100
certify crnn-synthetic --draws 0
certify nofolder
attack
attack synthetic nofolder
attack nofile.wav --model crnn-synthetic
attack synthetic --model crnn-synthetic --method magic
purify
purify nofile.wav
purify nofile.wav --purifier nothing
purify in.wav
purify in.wav --out in.wav
purify in.wav --snr x
export onnx nofolder
export onnx ssad-plus-synthetic --precision int4
corpus info nowhere
corpus verify nowhere
corpus folds synthetic --groups 1
corpus folds synthetic --groups 99
corpus fetch nowhere
corpus fetch iemocap
corpus nothing
train
train recogniser nowhere
train recogniser synthetic --width 0
train recogniser synthetic --architecture lenet
train recogniser synthetic --epochs -1
train purifier synthetic --epochs x
train purifier synthetic --objective none
train adversarial synthetic --objective none
train denoiser synthetic --sd -1
run nofile.yaml
run broken.yaml
run recipe.yaml --dry-run --status
run recipe.yaml --engine slurm
run recipe.yaml --status
report nofolder
report in.wav
report nofolder nofolder
serve --port 99999
serve --host
serve --tokens nofile
serve --purifier nothing
demo --out in.wav
""".strip().splitlines()


def told(arguments: list[str]) -> str:
    """Return what a command says and its exit code."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(arguments)
    said = re.sub(r"0x[0-9a-f]+", "0x…", out.getvalue() + err.getvalue())
    said = re.sub(r"(?m)^.*━.*\n|, \"time\": \"[^\"]*\"", "", said)  # bars and moments
    return f"exit code {code}\n{said.strip()}\n"


def prepared(folder: Path) -> None:
    """Put what the commands name into their folder."""
    (folder / "in.wav").write_bytes(b"RIFF no sound")
    (folder / "broken.yaml").write_text("corpus: {name: synthetic, colour: blue}\n")
    (folder / "recipe.yaml").write_text("name: tiny\ncorpus: {name: synthetic}\n")


def everything() -> str:
    """Return all calls with what they say, run in a folder of their own."""
    calls = [[*call.split(), "--help"] for call in HELP] + [call.split() for call in REFUSED]
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        prepared(Path(name))
        plain = {"COLUMNS": "100", "NO_COLOR": "1", "SERVAX_CACHE": f"{name}/cache"}
        hidden = {key: value for key, value in os.environ.items() if key != "SERVAX_DATA"}
        with mock.patch.dict(os.environ, hidden | plain, clear=True):
            parts = [f"$ servax {' '.join(call)}\n{told(call)}" for call in calls]
        return "\n".join(parts).replace(str(Path(name).resolve()), "HERE").replace(name, "HERE")


@pytest.mark.slow
def test_every_sentence_and_exit_code_is_as_written_down() -> None:
    assert everything().splitlines() == FILE.read_text(encoding="utf-8").splitlines()


if __name__ == "__main__":
    FILE.write_text(everything(), encoding="utf-8")
