"""Nothing about one file ends the others, and the summary holds every file that was seen."""

from __future__ import annotations

import csv
import io
import json
import os
import resource
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from servax import audio
from servax.bulk import Order, purify_file
from servax.cli import main
from servax.errors import PathError
from servax.pretrained import folder
from servax.purifier import Purifier

PACKAGED = "ssad-plus-synthetic"
NOT_UTF8 = os.fsdecode(b"caf\xe9.wav")


@pytest.fixture(scope="module")
def cleaner() -> Purifier:
    return Purifier.from_pretrained(folder(PACKAGED)).frozen()


def speak(path: Path, seconds: float = 0.2) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    sound = io.BytesIO()
    noise = 0.1 * np.random.default_rng(0).normal(size=round(16_000 * seconds))
    soundfile.write(sound, noise, 16_000, format="WAV")
    path.write_bytes(sound.getvalue())
    return path


def purify(source: Path, out: Path, *options: str) -> int:
    command = ["purify", str(source), "-o", str(out), "--purifier", PACKAGED]
    return main([*command, *options])


def odd(source: Path) -> list[str]:
    """Make a folder of odd files among two good ones; return the names of the failures."""
    for name in (
        "good.wav",
        NOT_UTF8,
        "[bold].wav",
        "new\nline.wav",
        "-o.wav",
        "good.wav.d/in.wav",
    ):
        speak(source / name)
    speak(source / ("x" * 247 + ".wav"))
    speak(source / ("y" * 251 + ".wav"))  # as long as a name may be
    speak(source / ("z" * 251 + ".mp3"))  # what it becomes is longer
    os.mkfifo(source / "pipe.wav")
    os.mkfifo(source / "pipe.npy")
    (source / "dangling.wav").symlink_to("nowhere")
    (source / "circle.flac").symlink_to("circle.flac")
    (source / "cut.ogg").write_bytes(b"OggS")
    (source / "empty.npy").write_bytes(b"")
    (source / "meeting.m4a").write_bytes(b"ftyp")
    (source / os.fsdecode(b"\xff.txt")).write_text("no sound")
    return ["circle.flac", "cut.ogg", "dangling.wav", "empty.npy", "pipe.npy", "pipe.wav", "z"]


RAY = pytest.param(
    ("--engine", "ray"),
    # Ray Data warns of its own defaults when it sets them.
    marks=[pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")],
)


@pytest.mark.parametrize("options", [(), ("--json",), RAY])
def test_a_folder_of_odd_files_is_done_and_accounted_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...]
) -> None:
    if "ray" in options:
        pytest.importorskip("ray")
    source, out = tmp_path / "in", tmp_path / "in" / "out"
    failures = odd(source)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(source / "socket.wav"))
        failures.insert(-1, "socket.wav")
        files = sum(len(names) for _, _, names in os.walk(source))
        assert purify(source, out, *options) == 1
    said = capsys.readouterr()
    assert f"8 done, 0 skipped, {len(failures)} failed, 2 not sound: " in said.err
    assert 8 + len(failures) + 2 == files
    assert "not sound, by ending: 1 .m4a (meeting.m4a), 1 .txt (\\udcff.txt)" in said.err
    told = [line for line in said.err.splitlines() if line.startswith("failed: ")]
    assert [name for name, line in zip(failures, told, strict=True) if f"/{name}" not in line] == []
    assert "Traceback" not in said.err
    assert (out / NOT_UTF8).is_file()
    if "--json" in options:
        read = json.loads(said.out)
        counts = {name: read[name] for name in ("done", "skipped", "failed", "not_sound")}
        assert counts == {"done": 8, "skipped": 0, "failed": len(failures), "not_sound": 2}
        assert len(read["files"]) == files
        assert str(source / r"caf\udce9.wav") in [each["source"] for each in read["files"]]


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_names_are_printed_to_a_stream_that_cannot_encode_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    source = tmp_path / os.fsdecode(b"\xff\xc3\xa9")
    speak(source / NOT_UTF8)
    (source / "ü.wav").write_bytes(b"no sound")
    written = {name: io.BytesIO() for name in ("stdout", "stderr")}
    for name, stream in written.items():
        monkeypatch.setattr(sys, name, io.TextIOWrapper(stream, "ascii", write_through=True))
    assert purify(source, source / "out", *options) == 1
    assert b"1 done, 0 skipped, 1 failed" in written["stderr"].getvalue()
    if options:
        assert json.loads(written["stdout"].getvalue())["done"] == 1
    else:
        assert rb"Purified into" in written["stdout"].getvalue()


def test_a_manifest_goes_on_behind_bad_rows_and_lists_only_what_lies_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.wav", "b.wav", "c.wav"):
        speak(tmp_path / name)
    rows = [
        ["path", "label", "speaker", "utterance"],
        *(["a.wav", "sad", "s", "a"], ["gone.wav", "sad", "s", "gone"]),
        *(["nul\0.wav", "sad", "s", "nul"], ["b.wav", "sad", "s", "b\0"]),
        *(["c.wav", "sad", "s", "x/y"], ["b.wav", "sad", "s", "x_y"]),
    ]
    rows[-1] = ["d.wav", "sad", "s", "x_y"]
    speak(tmp_path / "d.wav")
    with (tmp_path / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    out = tmp_path / "out"

    def listed() -> list[str]:
        with (out / "manifest.csv").open(newline="") as file:
            return [row["utterance"] for row in csv.DictReader(file)]

    assert purify(tmp_path / "list.csv", out) == 1
    said = capsys.readouterr().err
    assert "1 done, 0 skipped, 5 failed" in said
    assert said.count("2 utterances would become it; name them differently.") == 2
    assert listed() == ["a"]
    assert purify(tmp_path / "list.csv", out) == 1
    assert listed() == ["a"]
    # Its source fails now: the file of an earlier run is there, and is not what was asked for.
    (tmp_path / "a.wav").write_bytes(b"no sound")
    assert purify(tmp_path / "list.csv", out, "--overwrite") == 1
    assert (out / "a.wav").is_file()
    assert listed() == []


def test_two_runs_on_one_file_do_not_disturb_each_other(
    cleaner: Purifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second run begins and ends while the first one writes."""
    order = Order(str(speak(tmp_path / "a.wav")), str(tmp_path / "out" / "a.wav"))
    blocks, others = audio.blocks, []

    def meanwhile(*arguments: Any, **settings: Any) -> Iterator[np.ndarray]:
        if not others:
            others.append(None)
            others.append(purify_file(cleaner, order))
        return blocks(*arguments, **settings)

    monkeypatch.setattr(audio, "blocks", meanwhile)
    first = purify_file(cleaner, order)
    assert [each.sentence for each in (first, others[1])] == ["", ""]
    assert [each.status for each in (first, others[1])] == ["done", "done"]
    assert soundfile.info(order.target).frames == 3_200
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.wav"]
    assert purify_file(cleaner, order).status == "skipped"


def test_a_target_that_is_no_file_fails_at_once(cleaner: Purifier, tmp_path: Path) -> None:
    source = speak(tmp_path / "a.wav")
    (tmp_path / "folder.wav").mkdir()
    os.mkfifo(tmp_path / "pipe.wav")
    for name in ("folder.wav", "pipe.wav"):
        for overwrite in (False, True):
            order = Order(str(source), str(tmp_path / name))
            outcome = purify_file(cleaner, order, overwrite=overwrite)
            expected = (
                f"{tmp_path / name}: is there, and is no file that could be replaced; move it."
            )
            assert (outcome.status, outcome.sentence) == ("failed", expected)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.npy"])
def test_a_full_disk_is_told_in_the_words_of_the_system(
    cleaner: Purifier, tmp_path: Path, name: str
) -> None:
    source = speak(tmp_path / "in.wav", 2.0)
    if name.endswith(".npy"):
        source = tmp_path / "in.npy"
        np.save(source, np.full((64, 200), 0.5, dtype=np.float32))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        outcome = purify_file(cleaner, Order(str(source), str(tmp_path / "out" / name)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert outcome.sentence == (
        f"{tmp_path / 'out' / name}: cannot be written (File too large); free some space and run "
        "it again: what is done is kept."
    )
    assert list((tmp_path / "out").iterdir()) == []


def test_no_order_writes_over_its_own_sound(cleaner: Purifier, tmp_path: Path) -> None:
    source = speak(tmp_path / "a.wav")
    before = source.read_bytes()
    (tmp_path / "soft.wav").symlink_to("a.wav")
    (tmp_path / "hard.wav").hardlink_to(source)
    for name in ("a.wav", "soft.wav", "hard.wav"):
        outcome = purify_file(cleaner, Order(str(source), str(tmp_path / name)), overwrite=True)
        assert outcome.sentence == (
            f"{tmp_path / name}: is the sound itself; give another place to write."
        )
    assert source.read_bytes() == before


def test_a_link_is_written_through(cleaner: Purifier, tmp_path: Path) -> None:
    source = speak(tmp_path / "a.wav")
    (tmp_path / "disk.wav").write_text("old")
    (tmp_path / "link.wav").symlink_to("disk.wav")
    assert purify(source, tmp_path / "link.wav") == 2
    assert purify(source, tmp_path / "link.wav", "--overwrite") == 0
    assert (tmp_path / "link.wav").is_symlink()
    assert soundfile.info(tmp_path / "disk.wav").frames == 3_200


def test_whatever_one_file_raises_is_told(
    cleaner: Purifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = speak(tmp_path / "a.wav")
    order = Order(str(source), str(tmp_path / "o.wav"))
    for error, said in (
        (OSError(5, "Input/output error"), "[Errno 5] Input/output error"),
        (ValueError("odd"), "odd"),
        (MemoryError(), "MemoryError"),
        (PathError("elsewhere", "is odd"), "elsewhere: is odd."),
    ):

        def fail(*_: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr("servax.bulk.files._purify_sound", fail)
        outcome = purify_file(cleaner, order)
        assert outcome.status == "failed"
        assert said in outcome.sentence
