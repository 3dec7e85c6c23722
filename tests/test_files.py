"""Files appear whole or not at all, whoever else writes them; JSON is what RFC 8259 says."""

from __future__ import annotations

import json
import os
import re
import resource
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from servax.errors import PathError
from servax.files import json_text, remove_unfinished, whole_file, write_whole

WRITER = """
import sys, time
from pathlib import Path
from servax.files import whole_file
target, content = Path(sys.argv[1]), sys.argv[2].encode() * 100_000
for _ in range(30):
    with whole_file(target) as part, part.open("wb") as file:
        file.write(content)
        time.sleep(0.001)
"""
KILLED = """
import os, sys
from pathlib import Path
from servax.files import whole_file
with whole_file(Path(sys.argv[1])) as part:
    part.write_bytes(b"half")
    os.kill(os.getpid(), 9)
"""


def write(target: Path, text: str) -> None:
    with whole_file(target) as part:
        part.write_text(text)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a"
    write(target, "old")
    with pytest.raises(TypeError), whole_file(target) as part:  # noqa: PT012
        part.write_text("new")
        part.write_text(None)  # type: ignore[arg-type]
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_two_processes_that_write_one_file_leave_it_whole(tmp_path: Path) -> None:
    target = tmp_path / "a"
    both = [subprocess.Popen([sys.executable, "-c", WRITER, target, each]) for each in "xy"]
    assert [process.wait(60) for process in both] == [0, 0]
    assert target.read_text() in ("x" * 100_000, "y" * 100_000)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_link_stays_and_the_file_behind_it_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "a").write_text("old")
    link = tmp_path / "link"
    link.symlink_to("disk/a")
    write(link, "new")
    assert link.is_symlink()
    assert (tmp_path / "disk" / "a").read_text() == "new"
    ahead = tmp_path / "ahead"
    ahead.symlink_to("disk/b")
    write(ahead, "first")
    assert ahead.is_symlink()
    assert (tmp_path / "disk" / "b").read_text() == "first"


def test_permissions_are_handed_down_or_those_of_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write(tmp_path / "new", "")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640
    (tmp_path / "new").chmod(0o604)
    write(tmp_path / "new", "again")
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o604


def test_only_files_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "circle").symlink_to("circle")
    for name, reason in {
        "folder": "Is a directory",
        "pipe": "it is there, and is no regular file",
        "circle": "Too many levels of symbolic links",
        "none/a": "No such file or directory",
        "x" * 256: "File name too long",
    }.items():
        with pytest.raises(OSError, match=reason):
            write(tmp_path / name, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["circle", "folder", "pipe"]
    write(tmp_path / ("x" * 255), "as long as a name may be")


def test_a_full_disk_is_told_and_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a"
    write_whole(path, b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, hard))
    sentence = f"{path}: cannot be written (File too large); free some space and run it again"
    try:
        with pytest.raises(PathError, match=f"^{re.escape(sentence)}"):
            write_whole(path, bytes(5_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == b"old"
    assert len(list(path.parent.iterdir())) == 1


def test_what_a_killed_process_left_goes_and_what_a_living_one_writes_stays(
    tmp_path: Path,
) -> None:
    subprocess.run([sys.executable, "-c", KILLED, tmp_path / "a"], check=False)
    (left,) = tmp_path.iterdir()
    (tmp_path / ".mine.part").write_text("not written by servax")
    with whole_file(tmp_path / "b") as living:
        remove_unfinished(tmp_path)
        assert not left.exists()
        assert living.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mine.part", "b"]
    remove_unfinished(tmp_path, alone=True)
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


@pytest.mark.parametrize("ascii_only", [True, False])
def test_json_is_strict(ascii_only: bool) -> None:
    value = {
        "numbers": [1.5, float("nan"), float("inf"), -float("inf"), np.float32("nan"), np.int64(3)],
        "array": np.array([1.0, np.inf]),
        "nested": ({"deep": float("nan")},),
        "name": os.fsdecode(b"caf\xe9.wav"),
        os.fsdecode(b"\xff"): "é",
        "path": Path(os.fsdecode(b"/tmp/\xe9")),
        "rest": [None, True, 2],
    }
    text = json_text(value, ascii_only=ascii_only)
    assert text.encode("utf-8").isascii() == ascii_only
    read = json.loads(text, parse_constant=refuse)
    assert read["numbers"] == [1.5, None, None, None, None, 3]
    assert (read["array"], read["nested"]) == ([1.0, None], [{"deep": None}])
    assert read["name"] == r"caf\udce9.wav"
    assert (read[r"\udcff"], read["path"]) == ("é", r"/tmp/\udce9")
    assert read["rest"] == [None, True, 2]
