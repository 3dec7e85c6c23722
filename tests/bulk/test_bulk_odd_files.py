"""Nothing about one file ends the others, and the summary holds every file that was seen."""

from __future__ import annotations

import csv
import io
import json
import os
import pwd
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
from servax.cli import main
from servax.corpora import cache_folder
from servax.errors import PathError, SettingError
from servax.pretrained import folder
from servax.purifier import Purifier
from servax.purifier.files import purify_file
from servax.purifier.plans import FileJob

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
    # Ray warns of its own defaults when it sets them.
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
    for utterance in ("nul", r"b\x00"):
        row = f"{tmp_path / 'list.csv'}: utterance '{utterance}'"
        assert f"failed: {row} has a zero byte in its path or name; take it out.\n" in said
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
    job = FileJob(str(speak(tmp_path / "a.wav")), str(tmp_path / "out" / "a.wav"))
    blocks, others = audio.blocks, []

    def meanwhile(*arguments: Any, **settings: Any) -> Iterator[np.ndarray]:
        if not others:
            others.append(None)
            others.append(purify_file(cleaner, job))
        return blocks(*arguments, **settings)

    monkeypatch.setattr(audio, "blocks", meanwhile)
    first = purify_file(cleaner, job)
    assert [each.sentence for each in (first, others[1])] == ["", ""]
    assert [each.status for each in (first, others[1])] == ["done", "done"]
    assert soundfile.info(job.target).frames == 3_200
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.wav"]
    assert purify_file(cleaner, job).status == "skipped"


def test_a_target_that_is_no_file_fails_at_once(cleaner: Purifier, tmp_path: Path) -> None:
    source = speak(tmp_path / "a.wav")
    (tmp_path / "folder.wav").mkdir()
    os.mkfifo(tmp_path / "pipe.wav")
    for name in ("folder.wav", "pipe.wav"):
        for overwrite in (False, True):
            job = FileJob(str(source), str(tmp_path / name))
            outcome = purify_file(cleaner, job, overwrite=overwrite)
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
        outcome = purify_file(cleaner, FileJob(str(source), str(tmp_path / "out" / name)))
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
        outcome = purify_file(cleaner, FileJob(str(source), str(tmp_path / name)), overwrite=True)
        assert outcome.sentence == (
            f"{tmp_path / name}: is the sound itself; give another place to write."
        )
    assert source.read_bytes() == before


def written_manifest(place: Path, *names: str) -> Path:
    rows = [["path", "label", "speaker"], *([f"{name}.wav", "sad", "s"] for name in names)]
    for name in names:
        speak(place.parent / f"{name}.wav")
    place.write_text("".join(f"{','.join(row)}\n" for row in rows))
    return place


@pytest.mark.parametrize(
    "there", [b"mine\n", b"", b"path,label,speaker\na.wav,sad,s\n", b"\xff\xfe", b"the first run"]
)
def test_a_table_of_others_is_replaced_only_when_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], there: bytes
) -> None:
    source, out = written_manifest(tmp_path / "two.csv", "b", "c"), tmp_path / "out"
    table = out / "manifest.csv"
    if there == b"the first run":
        assert purify(written_manifest(tmp_path / "one.csv", "a", "b"), out) == 0
        there = table.read_bytes()
    out.mkdir(exist_ok=True)
    table.write_bytes(there)
    capsys.readouterr()
    assert purify(source, out) == 2
    assert capsys.readouterr().err == (
        f"servax: {table}: is there, and is no table of these utterances; give another folder, or "
        "add --overwrite to replace it.\n"
    )
    assert table.read_bytes() == there
    assert not (out / "c.wav").exists()
    for options in (["--overwrite"], []):  # then it is the table of these
        assert purify(source, out, *options) == 0
        with table.open(newline="") as file:
            assert [row["path"] for row in csv.DictReader(file)] == ["b.wav", "c.wav"]


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_table_that_cannot_be_written_is_told_behind_the_summary(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...]
) -> None:
    source, out = written_manifest(tmp_path / "list.csv", "a"), tmp_path / "out"
    (out / "manifest.csv").mkdir(parents=True)
    assert purify(source, out, *options) == 1
    said = capsys.readouterr()
    assert said.err.splitlines()[-2:] == [
        f"1 done, 0 skipped, 0 failed: {out}",
        f"servax: {out / 'manifest.csv'}: cannot be written (Is a directory).",
    ]
    if options:
        assert json.loads(said.out)["done"] == 1


def test_no_name_rules_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "in\x1b[2J"
    for name in ("\x1b[31mred.wav", "turned\u202e.wav", "line\nfailed: not this.wav", "\x9b1A.wav"):
        source.mkdir(exist_ok=True)
        (source / name).write_bytes(b"no sound")
    (source / "\x1b]0;title\x07.m4a").write_bytes(b"ftyp")
    assert purify(source, source / "out") == 1
    said = capsys.readouterr()
    for sign in "\x1b\x07\x9b\u202e":
        assert sign not in said.err + said.out
    assert sum(line.startswith("failed: ") for line in said.err.splitlines()) == 4
    for shown in (
        r"\x1b[31mred.wav",
        r"\u202e",
        r"line\nfailed",
        r"\x9b1A",
        r"\x1b]0;title\x07.m4a",
    ):
        assert shown in said.err
    assert "Purified into" in said.out
    assert r"in\x1b[2J" in said.out
    assert purify(source / "gone\x1b[0m.wav", tmp_path / "o.wav") == 2
    assert capsys.readouterr().err.startswith(f"servax: {tmp_path}/in\\x1b[2J/gone\\x1b[0m.wav: ")


def test_what_was_not_read_stands_in_the_summary(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.wav", "sub/b.wav"):
        speak(tmp_path / "in" / name)
    note = "not read in the output folder: 1 file"
    for _ in range(2):
        assert purify(tmp_path / "in", tmp_path / "in" / "sub", "--json") == 0
        said = capsys.readouterr()
        assert note in said.err.splitlines()
        assert json.loads(said.out)["notes"] == [note]


def test_the_home_of_nobody_is_a_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sound = speak(tmp_path / "a.wav")
    assert purify(sound, Path("~no-such-user/out.wav")) == 0
    assert (tmp_path / "~no-such-user" / "out.wav").is_file()
    assert purify(Path("~no-such-user/gone.wav"), tmp_path / "b.wav") == 2
    assert "~no-such-user/gone.wav: no such file or folder." in capsys.readouterr().err
    model = ["purify", "a.wav", "-o", "c.wav", "--purifier", "~no-such-user/model"]
    assert main(model) == 2
    assert main(["export", "~no-such-user/model", "-o", "~no-such-user/x.onnx"]) == 2
    monkeypatch.setenv("SERVAX_CACHE", "~no-such-user")
    assert cache_folder() == Path("~no-such-user")
    assert capsys.readouterr().err.count("~no-such-user/model") == 2


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container whose user no table holds."""

    def unknown(number: int) -> None:
        raise KeyError(number)

    for name in ("SERVAX_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.raises(SettingError, match=r"^SERVAX_CACHE is None, expected a folder to write to"):
        cache_folder()


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
    job = FileJob(str(source), str(tmp_path / "o.wav"))
    for error, said in (
        (OSError(5, "Input/output error"), "[Errno 5] Input/output error"),
        (ValueError("odd"), "odd"),
        (MemoryError(), "MemoryError"),
        (PathError("elsewhere", "is odd"), "elsewhere: is odd."),
    ):

        def fail(*_: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr("servax.purifier.files._purify_sound", fail)
        outcome = purify_file(cleaner, job)
        assert outcome.status == "failed"
        assert said in outcome.sentence
