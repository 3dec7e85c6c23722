"""What becomes what: names that depend on nothing else, no recording in the way, all accounted."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from servax.bulk.folders import files_below
from servax.bulk.orders import Plan, plan_attack, plan_purification
from servax.errors import AudioError, PathError

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
        os.path.relpath(order.source, source): os.path.relpath(order.target, out)
        for order in plan.orders
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
    sounds = {os.path.relpath(order.source, source) for order in plan.orders}
    assert sounds == {
        *("a.wav", "x.wav/inner.flac", "linked/far.wav", "annexed.wav", "gone", "self.wav"),
        "pipe.wav",
    }
    others = {os.path.relpath(each.source, source): each.status for each in plan.told}
    assert others == dict.fromkeys(["b.m4a", "notes.txt", "README", "linked/far.webm"], "not_sound")
    seen = {order.source for order in plan.orders} | {each.source for each in plan.told}
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
    assert [Path(order.source).name for order in plan.orders] == ["a.wav"]
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
    assert [Path(order.source).name for order in plan.orders] == ["c.wav"]
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


def test_two_links_that_lead_into_each_other_end(tmp_path: Path) -> None:
    made(tmp_path, "one/a.wav", "two/b.wav")
    (tmp_path / "one" / "link").symlink_to("../two")
    (tmp_path / "two" / "link").symlink_to("../one")
    files, closed = files_below(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in files] == [
        *("one/a.wav", "one/link/b.wav", "two/b.wav", "two/link/a.wav")
    ]
    assert closed == []
