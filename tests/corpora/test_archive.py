from __future__ import annotations

import io
import re
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from servax.corpora.download import unpack
from servax.errors import CorpusError


def make_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, content in members.items():
            zipped.writestr(name, content)
    return path


def make_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tarred:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tarred.addfile(info, io.BytesIO(content))
    return path


Make = Callable[[Path, dict[str, bytes]], Path]
BOTH = pytest.mark.parametrize("make", [make_zip, make_tar])


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def refused(archive: Path, out: Path, sentence: str, **settings: int) -> None:
    with pytest.raises(CorpusError, match=f"^{re.escape(f'{archive.name}: {sentence}')}$"):
        unpack(archive, out, **settings)
    inside = {path for path in archive.parent.rglob("*") if path.is_file()} - {archive}
    assert all(out in path.parents for path in inside)


@BOTH
def test_plain_files_come_out(tmp_path: Path, out: Path, make: Make) -> None:
    unpack(make(tmp_path / "a", {"x/y/a.wav": b"1", "./b.wav": b"22", "c": b""}), out)
    found = {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert found == {"x/y/a.wav": b"1", "b.wav": b"22", "c": b""}


def test_folders_come_out(tmp_path: Path, out: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as zipped:
        zipped.mkdir("empty")
    unpack(tmp_path / "a.zip", out)
    assert (out / "empty").is_dir()


@BOTH
@pytest.mark.parametrize(
    "name", ["../evil", "a/../../evil", "/tmp/evil", "..", "C:\\evil", "a\\..\\..\\evil", "\\evil"]
)
def test_nothing_leaves_the_folder(tmp_path: Path, out: Path, make: Make, name: str) -> None:
    archive = make(tmp_path / "a", {name: b"evil"})
    refused(archive, out, f"{name!r} would be written outside its folder.")
    assert not (tmp_path / "evil").exists()


def test_a_link_in_a_zip(tmp_path: Path, out: Path) -> None:
    info = zipfile.ZipInfo("link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as zipped:
        zipped.writestr(info, "/etc/passwd")
    refused(tmp_path / "a.zip", out, "'link' is a link, expected plain files and folders.")


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (tarfile.SYMTYPE, "a link"),
        (tarfile.LNKTYPE, "a link"),
        (tarfile.FIFOTYPE, "a special file"),
        (tarfile.CHRTYPE, "a special file"),
    ],
)
def test_a_link_or_device_in_a_tar(tmp_path: Path, out: Path, kind: bytes, said: str) -> None:
    info = tarfile.TarInfo("member")
    info.type, info.linkname = kind, "/etc/passwd"
    with tarfile.open(tmp_path / "a.tar", "w") as tarred:
        tarred.addfile(info)
    refused(tmp_path / "a.tar", out, f"'member' is {said}, expected plain files and folders.")


def test_an_encrypted_member(tmp_path: Path, out: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"x": b"secret"})
    content = bytearray(archive.read_bytes())
    content[6] |= 1  # general purpose flag of the local header
    content[content.index(b"PK\x01\x02") + 8] |= 1  # and of the central directory
    archive.write_bytes(content)
    refused(archive, out, "'x' is an encrypted file, expected plain files and folders.")


@BOTH
def test_an_archive_that_grows(tmp_path: Path, out: Path, make: Make) -> None:
    archive = make(tmp_path / "a", {"zeros": bytes(10_000), "more": bytes(10)})
    sentence = "would unpack to more than 10009 bytes or 1000000 files."
    refused(archive, out, sentence, largest_bytes=10_009)
    unpack(archive, out, largest_bytes=10_010)


def test_an_archive_that_states_too_little(tmp_path: Path, out: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"zeros": bytes(10_000)})
    content = bytearray(archive.read_bytes())
    at = content.index(b"PK\x01\x02") + 24
    content[at : at + 4] = (5).to_bytes(4, "little")
    archive.write_bytes(content)
    with pytest.raises(CorpusError, match=r"^a\.zip: "):
        unpack(archive, out, largest_bytes=100)
    assert sum(path.stat().st_size for path in out.iterdir()) <= 100


@BOTH
def test_a_name_that_stands_twice(tmp_path: Path, out: Path, make: Make) -> None:
    archive = make(tmp_path / "a", {"x": b"1", "./x": b"2"})
    refused(archive, out, "'x' stands in it twice.")


def test_what_is_no_archive(tmp_path: Path, out: Path) -> None:
    (tmp_path / "page").write_text("<html>404</html>")
    refused(tmp_path / "page", out, "is neither a zip nor a tar archive.")


def test_a_damaged_zip(tmp_path: Path, out: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"x": bytes(range(256)) * 20})
    content = bytearray(archive.read_bytes())
    content[40] ^= 0xFF
    archive.write_bytes(content)
    with pytest.raises(CorpusError, match=r"^a\.zip: is damaged \(.+\)\.$"):
        unpack(archive, out)


def test_a_cut_tar(tmp_path: Path, out: Path) -> None:
    noise = b"".join(i.to_bytes(4, "little") for i in range(0, 10**9, 99_991))
    archive = make_tar(tmp_path / "a.tar.gz", {"x": noise})
    archive.write_bytes(archive.read_bytes()[:5_000])
    with pytest.raises(CorpusError, match=r"^a\.tar\.gz: is damaged \(.+\)\.$"):
        unpack(archive, out)
