"""What becomes what: names that depend on nothing else, no recording in the way, all accounted."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from servax.errors import AudioError, PathError
from servax.purifier.folders import files_below
from servax.purifier.plans import Plan, plan_attack, plan_purification

NAMES = [
    *("a.wav", "a.mp3", "a.flac", "a.mp3.wav", "a.wav.wav", "a.WAV", "a.npy", "a.npy.wav", "b.ogg"),
    *("deep/a.wav", "deep/a.mp3", "no.dots.wav", "x.mp3.flac", "x.mp3.flac.wav"),
]


def made(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"no sound")
    return folder


def targets(plan: Plan, source: Path, out: Path) -> dict[str, str]:
    return {
        os.path.relpath(job.source, source): os.path.relpath(job.target, out) for job in plan.jobs
    }


def every_file(folder: Path) -> set[str]:
    return {str(Path(top) / name) for top, _, names in os.walk(folder) for name in names}


@pytest.mark.parametrize("kind", ["purify", "attack to sound", "attack to log-Mel"])
def test_no_two_become_one_and_no_name_depends_on_what_lies_beside(
    tmp_path: Path, kind: str
) -> None:
    def plan(source: Path, out: Path) -> Plan:
        if kind == "purify":
            return plan_purification(source, out)
        return plan_attack(source, out, ending=".wav" if kind.endswith("sound") else ".npy")

    names = [name for name in NAMES if kind == "purify" or not name.endswith(".npy")]
    together = targets(
        plan(made(tmp_path / "all", *names), tmp_path / "o"), tmp_path / "all", tmp_path / "o"
    )
    assert set(together) == set(names)
    assert len(set(together.values())) == len(names)
    for number, name in enumerate(names):
        source = made(tmp_path / str(number), name)
        assert targets(plan(source, tmp_path / "o"), source, tmp_path / "o") == {
            name: together[name]
        }
    if kind != "attack to log-Mel":
        assert (together["a.wav"], together["a.mp3"]) == ("a.wav", "a.mp3.wav")


def test_links_are_followed_but_not_round_in_circles_and_every_file_is_accounted_for(
    tmp_path: Path,
) -> None:
    source = made(tmp_path / "in", "a.wav", "b.m4a", "notes.txt", "x.wav/inner.flac", "README")
    made(tmp_path / "disk", "far.wav", "far.webm")
    (source / "linked").symlink_to(tmp_path / "disk")
    (source / "circle").symlink_to(source)
    (source / "deep").mkdir()
    (source / "deep" / "up").symlink_to("..")
    (source / "annexed.wav").symlink_to("../.git/annex/objects/x.wav")
    (source / "gone").symlink_to("../nowhere")
    (source / "self.wav").symlink_to("self.wav")
    os.mkfifo(source / "pipe.wav")
    made(source / "out", "a.wav", "old.txt")
    plan = plan_purification(source, source / "out")
    sounds = {os.path.relpath(job.source, source) for job in plan.jobs}
    assert sounds == {
        *("a.wav", "x.wav/inner.flac", "linked/far.wav", "annexed.wav", "self.wav", "pipe.wav"),
    }
    others = {os.path.relpath(each.source, source): each.status for each in plan.told}
    assert others == {
        **dict.fromkeys(["b.m4a", "notes.txt", "README", "linked/far.webm"], "not_sound"),
        "gone": "failed",
    }
    assert plan.notes == ("folders read under another name, not through 2 links (circle, deep/up)",)
    seen = {job.source for job in plan.jobs} | {each.source for each in plan.told}
    linked = {str(source / "linked" / name) for name in ("far.wav", "far.webm")}
    assert seen == (every_file(source) - every_file(source / "out")) | linked | {
        str(source / "gone")
    }


def test_a_folder_that_may_not_be_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = made(tmp_path / "in", "a.wav", "shut/b.wav")
    whole = Path.iterdir

    def refusing(path: Path) -> object:
        if path.name == "shut":
            raise PermissionError(13, "Permission denied")
        return whole(path)

    monkeypatch.setattr(Path, "iterdir", refusing)
    plan = plan_purification(source, tmp_path / "out")
    assert [Path(job.source).name for job in plan.jobs] == ["a.wav"]
    (told,) = plan.told
    assert (told.status, told.source) == ("failed", str(source / "shut"))
    assert told.sentence == f"{source / 'shut'}: cannot be read (Permission denied)."


@pytest.mark.parametrize("link", ["symlink_to", "hardlink_to"])
@pytest.mark.parametrize("attack", [True, False])
def test_no_target_is_a_sound_by_any_name(tmp_path: Path, link: str, attack: bool) -> None:
    source, out = made(tmp_path / "in", "a.wav", "b.wav", "c.wav"), tmp_path / "out"
    out.mkdir()
    getattr(out / "a.wav", link)(source / "a.wav")
    getattr(out / "b.wav", link)(source / "c.wav")
    plan = plan_attack(source, out, ending=".wav") if attack else plan_purification(source, out)
    assert [Path(job.source).name for job in plan.jobs] == ["c.wav"]
    assert [each.sentence for each in plan.told] == [
        f"{out / name}: is the sound itself; give another place to write."
        for name in ("a.wav", "b.wav")
    ]
    with pytest.raises(PathError, match=r"out/a\.wav: is the sound itself"):
        _ = (
            plan_attack(source / "a.wav", out, ending=".wav")
            if attack
            else plan_purification(source / "a.wav", out / "a.wav")
        )


def test_places_that_cannot_hold_anything_are_refused(tmp_path: Path) -> None:
    source = made(tmp_path / "in", "a.wav")
    made(tmp_path, "file", "only/b.m4a")
    for plan in (
        plan_purification,
        lambda source, out: plan_attack(source, out, ending=".wav"),
    ):
        with pytest.raises(PathError, match="file: is a file, expected a folder to write"):
            plan(source, tmp_path / "file")
        with pytest.raises(PathError, match="is the folder of the sounds itself"):
            plan(source, tmp_path / "in" / ".." / "in")
        with pytest.raises(AudioError, match=r"holds no sound file .*; its 1 files .*\(\.m4a\)\.$"):
            plan(tmp_path / "only", tmp_path / "out")
        with pytest.raises(AudioError, match="no such file or folder"):
            plan(tmp_path / ("x" * 300), tmp_path / "out")
        os.mkfifo(tmp_path / "pipe.wav")
        with pytest.raises(AudioError, match="is not a regular file"):
            plan(tmp_path / "pipe.wav", tmp_path / "out")
        (tmp_path / "pipe.wav").unlink()


def test_a_manifest_is_never_written_through_a_link_to_itself(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in" / "a.wav", np.zeros(800), 16_000)
    (tmp_path / "in" / "list.csv").write_text("path,label,speaker\na.wav,sad,s\n")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "manifest.csv").symlink_to(tmp_path / "in" / "list.csv")
    with pytest.raises(PathError, match=r"manifest\.csv: is the manifest itself"):
        plan_purification(tmp_path / "in" / "list.csv", tmp_path / "out")


def test_folders_that_are_linked_to_one_another_are_read_once(tmp_path: Path) -> None:
    """Each way through them would be 1957 for six."""
    source, names = tmp_path / "in", "abcdef"
    made(source, *(f"{name}/{name}.wav" for name in names))
    made(tmp_path, "far/x.wav", "far/deep/y.wav")
    for name in names:
        for other in set(names) - {name}:
            (source / name / f"to-{other}").symlink_to(f"../{other}")
    (source / "0").symlink_to("../far/deep")  # before the link to the folder above it
    (source / "1").symlink_to("../far")
    found = files_below(source)
    expected = ["0/y.wav", "1/x.wav", *(f"{name}/{name}.wav" for name in names)]
    assert [path.relative_to(source).as_posix() for path in found.files] == expected
    assert (len(found.again), found.closed) == (31, [])
    (note,) = plan_purification(source, tmp_path / "out").notes
    assert note.startswith("folders read under another name, not through 31 links (1/deep, a/")


def test_what_cannot_be_reached_is_told_and_ends_nothing() -> None:
    """A folder that may be listed and not entered, which root alone would enter."""
    with tempfile.TemporaryDirectory() as made_here:
        place = Path(made_here)
        place.chmod(0o755)
        source = made(place / "in", "a.wav", "shut/b", "shut/c.wav", "shut/d.txt")
        (source / "shut").chmod(0o444)
        before = os.geteuid()
        os.seteuid(before or 65_534)
        try:
            plan = plan_purification(source, place / "out")
        finally:
            os.seteuid(before)
            (source / "shut").chmod(0o755)
    assert [Path(job.source).name for job in plan.jobs] == ["a.wav"]
    assert [(each.status, each.sentence) for each in plan.told] == [
        ("failed", f"{source / 'shut' / name}: cannot be reached (Permission denied).")
        for name in ("b", "c.wav", "d.txt")
    ]


def test_folders_deeper_than_a_path_may_be_end_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = made(tmp_path / "in", "a.wav")
    monkeypatch.chdir(source)
    for _ in range(21):
        os.mkdir("d" * 200)  # noqa: PTH102
        os.chdir("d" * 200)
    monkeypatch.chdir(tmp_path)
    plan = plan_purification(source, tmp_path / "out")
    shutil.rmtree(source)
    assert [Path(job.source).name for job in plan.jobs] == ["a.wav"]
    (told,) = plan.told
    assert (told.status, told.sentence.endswith("cannot be reached (File name too long).")) == (
        *("failed", True),
    )


def test_a_link_to_nothing_does_not_stand_in_the_way_of_a_sound(tmp_path: Path) -> None:
    source = made(tmp_path / "in", "a.wav")
    (source / "a").symlink_to("nowhere")
    for plan in (
        plan_purification(source, tmp_path / "out"),
        plan_attack(source, tmp_path / "out", ending=".wav"),
    ):
        assert [job.source for job in plan.jobs] == [str(source / "a.wav")]
        (told,) = plan.told
        assert told.sentence == (
            f"{source / 'a'}: is a link to nowhere, which is not there; fetch what it stands for "
            "(git annex get, dvc pull), or remove the link."
        )


@pytest.mark.parametrize("there", [True, False])
def test_no_two_sounds_become_one_by_links_in_the_output(tmp_path: Path, there: bool) -> None:
    source = made(tmp_path / "in", "a.wav", "b.wav", "x/c.wav", "y/c.wav", "z.wav")
    out = made(tmp_path / "out", "x/other.txt", *(["a.wav", "x/c.wav"] if there else []))
    (out / "b.wav").symlink_to("a.wav")
    (out / "y").symlink_to("x")
    plan = plan_purification(source, out)
    assert [Path(job.source).name for job in plan.jobs] == ["z.wav"]
    assert [each.sentence for each in plan.told] == [
        f"{out / name}: leads to {out / place}, which another sound would become too; "
        "remove the link."
        for name, place in (
            *(("a.wav", "a.wav"), ("b.wav", "a.wav")),
            *(("x/c.wav", "x/c.wav"), ("y/c.wav", "x/c.wav")),
        )
    ]


def test_originals_in_the_output_folder_are_told(tmp_path: Path) -> None:
    source = made(tmp_path / "in", "a.wav", "sub/b.wav", "sub/c.mp3", "sub/notes.txt")
    said = "not read in the output folder: 2 files"
    assert plan_purification(source, source / "sub").notes == (said,)
    made(source / "sub", "a.wav")  # written by a first run
    assert plan_purification(source, source / "sub").notes == (said,)
    made(source / "out", "a.wav", "sub/b.wav", "sub/c.mp3.wav")
    assert plan_purification(source, source / "out").notes == ()
    assert plan_purification(source, tmp_path / "out").notes == ()
    made(tmp_path / "only", "out/a.wav")
    with pytest.raises(AudioError, match="; not read in the output folder: 1 file"):
        plan_purification(tmp_path / "only", tmp_path / "only" / "out")


@pytest.mark.parametrize("to", ["../in/a.wav", "a.wav"])
def test_no_table_is_written_through_a_link_to_a_sound(tmp_path: Path, to: str) -> None:
    source = made(tmp_path / "in", "a.wav")
    (source / "list.csv").write_text("path,label,speaker\na.wav,sad,s\n")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "manifest.csv").symlink_to(to)
    with pytest.raises(PathError, match=r"manifest\.csv: leads to one of the sounds"):
        plan_purification(source / "list.csv", tmp_path / "out")
