"""Files to files: what is written, what is refused, and that one bad file stops no other."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from servax.cli import main
from servax.errors import AudioError, PathError
from servax.pretrained import folder
from servax.purifier import Purifier
from servax.purifier.files import BLOCK_SECONDS, purify_file
from servax.purifier.plans import FileJob, plan_purification

PACKAGED = "ssad-plus-synthetic"


@pytest.fixture(scope="module")
def cleaner() -> Purifier:
    return Purifier.from_pretrained(folder(PACKAGED)).frozen()


def speak(path: Path, seconds: float = 0.4, rate: int = 16_000, channels: int = 1) -> np.ndarray:
    random = np.random.default_rng(len(path.name))
    sound = 0.1 * random.normal(size=(round(seconds * rate), channels))
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, sound, rate)
    heard, _ = soundfile.read(path, dtype="float32", always_2d=True)
    return heard


def stored(path: Path) -> np.ndarray:
    return soundfile.read(path, dtype="int16", always_2d=True)[0]


def as_16_bits(samples: np.ndarray) -> np.ndarray:
    return np.clip(np.round(samples * 32768), -32768, 32767).astype(np.int16)


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_file_is_each_channel_purified(
    cleaner: Purifier, tmp_path: Path, rate: int, channels: int
) -> None:
    heard = speak(tmp_path / "in.wav", 1.3, rate, channels)
    outcome = purify_file(cleaner, FileJob(str(tmp_path / "in.wav"), str(tmp_path / "out.wav")))
    assert (outcome.status, outcome.seconds) == ("done", 1.3)
    expected = np.stack([cleaner.purify(heard[:, i], rate) for i in range(channels)], axis=1)
    found = stored(tmp_path / "out.wav")
    assert found.shape == heard.shape
    assert soundfile.info(tmp_path / "out.wav").samplerate == rate
    assert np.abs(found.astype(int) - as_16_bits(expected)).max() <= 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.wav", "out.wav"]


def test_a_sound_longer_than_a_block_is_the_sound_at_once(
    cleaner: Purifier, tmp_path: Path
) -> None:
    heard = speak(tmp_path / "in.wav", BLOCK_SECONDS + 7.7)
    purify_file(cleaner, FileJob(str(tmp_path / "in.wav"), str(tmp_path / "out.flac")))
    expected = as_16_bits(cleaner.purify(heard[:, 0], 16_000))
    assert np.abs(stored(tmp_path / "out.flac")[:, 0].astype(int) - expected).max() <= 1


MEMORY = """
import resource, sys
from servax.purifier.plans import FileJob
from servax.purifier.files import purify_file
from servax.purifier import Purifier
import torch
class Same(torch.nn.Module):
    def forward(self, x): return x
p = Purifier.from_pretrained({name!r}); p.network = Same()
print(purify_file(p, FileJob({source!r}, {target!r})).status)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length(tmp_path: Path) -> None:
    peaks = []
    for minutes in (1, 12):
        source = tmp_path / f"{minutes}.wav"
        with soundfile.SoundFile(source, "w", 16_000, 1) as file:
            for _ in range(minutes):
                file.write(0.1 * np.random.default_rng(0).normal(size=60 * 16_000))
        code = MEMORY.format(name=PACKAGED, source=str(source), target=str(tmp_path / "out.wav"))
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        (tmp_path / "out.wav").unlink()
        status, kib = done.stdout.split()
        assert status == "done"
        peaks.append(int(kib))
    # 11 minutes more are 42 MB of float samples.
    assert peaks[1] - peaks[0] < 20_000


def loud(path: Path, peak: float, seconds: float = 1.3, subtype: str = "PCM_16") -> np.ndarray:
    """Write noise that is clipped at its peak, as loud recordings are."""
    draws = np.random.default_rng(7).normal(0, 0.8, (round(seconds * 16_000), 2))
    soundfile.write(path, peak * np.clip(draws, -1.0, 1.0), 16_000, subtype)
    return soundfile.read(path, dtype="float32", always_2d=True)[0]


@pytest.mark.parametrize("ending", [".wav", ".flac"])
def test_a_full_sound_is_limited_and_not_clipped(
    cleaner: Purifier, tmp_path: Path, ending: str
) -> None:
    heard = loud(tmp_path / "in.wav", 0.99)
    job = FileJob(str(tmp_path / "in.wav"), str(tmp_path / f"out{ending}"))
    outcome = purify_file(cleaner, job)
    assert (outcome.status, outcome.subtype) == ("done", "PCM_16")
    assert 0 < outcome.limited_samples <= heard.size
    assert outcome.limited_db > 0.3
    found = stored(tmp_path / f"out{ending}")
    assert np.abs(found.astype(int)).max() < 32_767
    expected = [cleaner.purify(heard[:, i], 16_000) for i in range(2)]
    assert np.abs(found.astype(int) - as_16_bits(np.stack(expected, axis=1))).max() <= 1


@pytest.mark.parametrize("peak", [1.4, 32_767.0])
@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
def test_what_is_beyond_full_scale_stays_in_floats(
    cleaner: Purifier, tmp_path: Path, peak: float, subtype: str
) -> None:
    heard = loud(tmp_path / "in.wav", peak, subtype=subtype)
    job = FileJob(str(tmp_path / "in.wav"), str(tmp_path / "out.wav"))
    outcome = purify_file(cleaner, job)
    assert (outcome.status, outcome.subtype) == ("done", "FLOAT")
    found = soundfile.read(tmp_path / "out.wav", dtype="float32", always_2d=True)[0]
    expected = np.stack([cleaner.purify(heard[:, i], 16_000) for i in range(2)], axis=1)
    np.testing.assert_array_equal(found, expected)
    assert 0.5 * peak < np.abs(found).max() <= peak * (1 + 1e-6)
    head = (tmp_path / "out.wav").read_bytes()
    assert head[head.index(b"PEAK") + 12 :][:4] == bytes(4)  # no hour
    outcome = purify_file(cleaner, FileJob(str(tmp_path / "in.wav"), str(tmp_path / "out.flac")))
    assert outcome.status == "failed"
    assert (
        "in.wav: goes beyond full scale, which FLAC cannot hold; write a .wav" in outcome.sentence
    )
    assert not (tmp_path / "out.flac").exists()


def test_floats_within_full_scale_become_24_bits_in_flac(cleaner: Purifier, tmp_path: Path) -> None:
    loud(tmp_path / "in.wav", 1.0, subtype="FLOAT")
    job = FileJob(str(tmp_path / "in.wav"), str(tmp_path / "out.flac"))
    assert purify_file(cleaner, job).subtype == "PCM_24"


def test_what_was_limited_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    loud(tmp_path / "in" / "full.wav", 0.99)
    loud(tmp_path / "in" / "floats.wav", 3.0, subtype="FLOAT")
    speak(tmp_path / "in" / "quiet.wav")
    command = ["purify", str(tmp_path / "in"), "--purifier", PACKAGED, "--overwrite"]
    assert main([*command, "-o", str(tmp_path / "out"), "--json"]) == 0
    said = capsys.readouterr()
    told = json.loads(said.out)
    assert (told["limited"], told["floats"]) == (2, 1)
    of = {Path(each["source"]).name: each for each in told["files"]}
    assert of["quiet.wav"]["limited_samples"] == 0
    assert of["full.wav"]["limited_db"] > 0.3
    lowered = sum(each["limited_samples"] for each in told["files"])
    most = max(each["limited_db"] for each in told["files"])
    sentence = f"limited: {lowered} samples by at most {most:.1f} dB, to stay within full scale"
    assert sentence in said.err
    assert main([*command, "-o", str(tmp_path / "out")]) == 0
    said = capsys.readouterr()
    assert "limited (lowered in places, to stay within full scale)" in said.out
    one = ["purify", str(tmp_path / "in" / "floats.wav"), "--purifier", PACKAGED]
    assert main([*one, "-o", str(tmp_path / "one.wav")]) == 0
    assert "written as 32-bit floats\n" in capsys.readouterr().err


def test_a_logmel_goes_through_the_network(cleaner: Purifier, tmp_path: Path) -> None:
    x = np.random.default_rng(0).random((64, 100), dtype=np.float32)
    np.save(tmp_path / "x.npy", x)
    job = plan_purification(tmp_path / "x.npy", tmp_path / "y.npy").jobs[0]
    assert purify_file(cleaner, job).status == "done"
    with torch.inference_mode():
        expected = cleaner(torch.from_numpy(x)[None, None])[0, 0].numpy()
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), expected)


def test_a_logmel_goes_where_the_network_is(tmp_path: Path) -> None:
    elsewhere = Purifier.from_pretrained(folder(PACKAGED)).frozen().to("meta")
    heard: list[str] = []
    elsewhere.network.register_forward_pre_hook(lambda _, given: heard.append(given[0].device.type))
    np.save(tmp_path / "x.npy", np.zeros((64, 100), dtype=np.float32))
    told = purify_file(elsewhere, FileJob(str(tmp_path / "x.npy"), str(tmp_path / "y.npy")))
    assert heard == ["meta"]
    assert "Cannot copy out of meta tensor" in told.sentence  # there it has no values


@pytest.mark.parametrize(
    "option", [("--mix", "0.5"), ("--limit-db", "20"), ("--format", "float")], ids=lambda o: o[0]
)
def test_what_is_of_sound_alone_is_refused_for_a_logmel(
    option: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "x.npy", np.zeros((64, 100), dtype=np.float32))
    given = [str(tmp_path / "x.npy"), "-o", str(tmp_path / "y.npy"), "--purifier", PACKAGED]
    assert main(["purify", *given, *option]) == 1
    said = "x.npy: is a log-Mel; --mix, --limit-db and --format are of sound alone."
    assert said in capsys.readouterr().err
    assert not (tmp_path / "y.npy").exists()


def test_a_folder_keeps_its_structure_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "in", tmp_path / "in" / "out"
    for name in ("a.wav", "deep/er/b.flac", "twin.wav", "twin.flac"):
        speak(source / name)
    (source / "broken.wav").write_bytes(b"RIFF nothing")
    (source / "read me.txt").write_text("no sound")
    command = ["purify", str(source), "-o", str(out), "--purifier", PACKAGED]
    assert main(command) == 1
    written = ["a.wav", "deep/er/b.flac.wav", "twin.flac.wav", "twin.wav"]
    found = sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file())
    assert found == written
    said = capsys.readouterr().err
    assert "4 done, 0 skipped, 1 failed" in said
    assert f"failed: {source / 'broken.wav'}: " in said
    before = {name: (out / name).stat().st_mtime_ns for name in written}
    (out / "a.wav").unlink()
    assert main(command) == 1
    assert "1 done, 3 skipped, 1 failed" in capsys.readouterr().err
    for name in written[1:]:
        assert (out / name).stat().st_mtime_ns == before[name]
    assert main([*command, "--overwrite", "--json"]) == 1
    said = capsys.readouterr()
    assert "4 done, 0 skipped, 1 failed" in said.err
    assert '"done": 4' in said.out


def test_a_manifest_becomes_one_of_purified_stretches(tmp_path: Path) -> None:
    heard = speak(tmp_path / "long.wav", 3.0)
    rows = [
        ["path", "label", "speaker", "start", "end"],
        ["long.wav", "angry", "ann", "0", "1.0"],
        ["broken.wav", "happy", "bob", "", ""],
        ["long.wav", "sad", "ann", "1.5", ""],
    ]
    (tmp_path / "broken.wav").write_bytes(b"no sound")
    with (tmp_path / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    out = tmp_path / "out"
    assert main(["purify", str(tmp_path / "list.csv"), "-o", str(out), "--purifier", PACKAGED]) == 1
    with (out / "manifest.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [(row["label"], row["speaker"]) for row in table] == [("angry", "ann"), ("sad", "ann")]
    cleaner = Purifier.from_pretrained(folder(PACKAGED)).frozen()
    for row, piece in zip(table, (heard[:16_000, 0], heard[24_000:, 0]), strict=True):
        expected = as_16_bits(cleaner.purify(piece, 16_000))
        assert np.abs(stored(out / row["path"])[:, 0].astype(int) - expected).max() <= 1


def test_a_wave_file_that_was_never_closed(cleaner: Purifier, tmp_path: Path) -> None:
    heard = speak(tmp_path / "whole.wav", 0.7)
    written = (tmp_path / "whole.wav").read_bytes()
    place = written.index(b"data") + 4
    (tmp_path / "open.wav").write_bytes(written[:place] + bytes(4) + written[place + 4 :])
    outcome = purify_file(cleaner, FileJob(str(tmp_path / "open.wav"), str(tmp_path / "out.wav")))
    assert (outcome.status, outcome.sentence) == ("done", "")
    expected = as_16_bits(cleaner.purify(heard[:, 0], 16_000))
    assert np.abs(stored(tmp_path / "out.wav")[:, 0].astype(int) - expected).max() <= 1


def test_names_of_a_manifest_stay_below_the_output(tmp_path: Path) -> None:
    speak(tmp_path / "a.wav")
    with (tmp_path / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [
                ["path", "label", "speaker", "utterance"],
                ["a.wav", "sad", "s", "../../outside"],
            ]
        )
    (job,) = plan_purification(tmp_path / "list.csv", tmp_path / "out").jobs
    assert Path(job.target).resolve().parent == (tmp_path / "out").resolve()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty"),
        (b"fLaC" + bytes(50), "is not sound|damaged"),
        (b"RIFF" + bytes(60), "is not sound|damaged"),
    ],
)
def test_a_bad_file_is_told_and_leaves_nothing(
    cleaner: Purifier, tmp_path: Path, content: bytes, sentence: str
) -> None:
    (tmp_path / "bad.wav").write_bytes(content)
    outcome = purify_file(
        cleaner, FileJob(str(tmp_path / "bad.wav"), str(tmp_path / "o" / "x.wav"))
    )
    assert outcome.status == "failed"
    assert outcome.sentence.startswith(f"{tmp_path / 'bad.wav'}: ")
    assert any(part in outcome.sentence for part in sentence.split("|"))
    assert list((tmp_path / "o").iterdir()) == []


def test_nan_short_cut_and_wrong_arrays_are_told(cleaner: Purifier, tmp_path: Path) -> None:
    samples = np.full(16_000, 0.1, dtype=np.float32)
    samples[9_000] = np.nan
    soundfile.write(tmp_path / "nan.wav", samples, 16_000, subtype="FLOAT")
    speak(tmp_path / "short.wav", 0.02)
    np.save(tmp_path / "shape.npy", np.zeros((3, 3)))
    np.save(tmp_path / "range.npy", np.full((64, 3), 2.0))
    np.save(tmp_path / "pickled.npy", np.array([{"a": 1}], dtype=object))
    for name, sentence in {
        "nan.wav": "holds NaN or infinite samples.",
        "short.wav": "is 0.020 s long, expected at least 0.05 s.",
        "shape.npy": "log-Mel has shape (3, 3), expected (64, F).",
        "range.npy": "expected finite numbers in [0, 1]",
        "pickled.npy": "is no array that numpy.save wrote",
    }.items():
        ending = ".npy" if name.endswith("npy") else ".wav"
        outcome = purify_file(
            cleaner, FileJob(str(tmp_path / name), str(tmp_path / "out" / f"x{ending}"))
        )
        assert outcome.status == "failed"
        assert sentence in outcome.sentence
        assert list((tmp_path / "out").iterdir()) == []


def test_what_is_refused_at_once(tmp_path: Path) -> None:
    speak(tmp_path / "a.wav")
    with pytest.raises(AudioError, match="no such file or folder"):
        plan_purification(tmp_path / "none.wav", tmp_path / "o.wav")
    with pytest.raises(PathError, match=r"ends in \.mp3, expected \.wav or \.flac"):
        plan_purification(tmp_path / "a.wav", tmp_path / "o.mp3")
    with pytest.raises(PathError, match="is the sound itself"):
        plan_purification(tmp_path / "a.wav", tmp_path / "a.wav")
    with pytest.raises(PathError, match="is the folder of the sounds itself"):
        plan_purification(tmp_path, tmp_path)
    with pytest.raises(PathError, match="is a folder; give a file, such as"):
        plan_purification(tmp_path / "a.wav", tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(AudioError, match="holds no sound file"):
        plan_purification(tmp_path / "empty", tmp_path / "o")


def test_no_recording_of_a_manifest_is_ever_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    speak(tmp_path / "sounds" / "a.wav")
    with (tmp_path / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "label", "speaker"], ["sounds/a.wav", "sad", "s"]])
    with (tmp_path / "named.csv").open("w", newline="") as file:
        rows = [["path", "label", "speaker", "utterance"], ["sounds/a.wav", "sad", "s", "a"]]
        csv.writer(file).writerows(rows)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    for manifest, out, sentence, code in (
        ("manifest.csv", tmp_path, "is the folder of the manifest itself; give another one", 2),
        ("named.csv", tmp_path / "sounds", "a.wav: is the sound itself; give another place", 1),
    ):
        command = ["purify", str(tmp_path / manifest), "-o", str(out), "--purifier", PACKAGED]
        assert main([*command, "--overwrite"]) == code
        assert sentence in capsys.readouterr().err
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_an_existing_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    speak(tmp_path / "a.wav")
    (tmp_path / "b.wav").write_text("mine")
    command = ["purify", str(tmp_path / "a.wav"), "-o", str(tmp_path / "b.wav")]
    assert main([*command, "--purifier", PACKAGED]) == 2
    assert "b.wav: is there already; add --overwrite to replace it." in capsys.readouterr().err
    assert (tmp_path / "b.wav").read_text() == "mine"
    assert main([*command, "--purifier", PACKAGED, "--workers", "2"]) == 2
    assert "it belongs to --engine ray" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_told(cleaner: Purifier, tmp_path: Path) -> None:
    speak(tmp_path / "a.wav")
    (tmp_path / "file").write_text("in the way")
    outcome = purify_file(
        cleaner, FileJob(str(tmp_path / "a.wav"), str(tmp_path / "file" / "o.wav"))
    )
    assert outcome.status == "failed"
    assert "cannot be written" in outcome.sentence
    assert (tmp_path / "file").read_text() == "in the way"
