"""Fetching, against a server on this machine."""

from __future__ import annotations

import hashlib
import io
import re
import threading
import urllib.request
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from servax.corpora import Download, describe, fetch, load
from servax.corpora.download import _SafeRedirects, download
from servax.errors import CorpusError, SettingError


def archive(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zipped:
        for name, content in members.items():
            zipped.writestr(name, content)
    return buffer.getvalue()


class Server(ThreadingHTTPServer):
    """Serves one body; can cut answers short, ignore ranges, redirect or fail."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.body = archive({"wav/03a01Wa.wav": bytes(5_000), "wav/03a01Na.wav": b"x" * 700_000})
        self.cut_after: int | None = None
        self.ranges = True
        self.status = 200
        self.location = ""
        self.asked: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/corpus.zip"

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.body).hexdigest()


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        given = self.headers.get("Range")
        server.asked.append(given)
        if server.status != 200:
            self.send_response(server.status)
            self.send_header("Location", server.location)
            self.end_headers()
            return
        start = (
            int(given.removeprefix("bytes=").removesuffix("-")) if given and server.ranges else 0
        )
        if start >= len(server.body) > 0:
            self.send_response(416)
            self.end_headers()
            return
        body = server.body[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        if start:
            total = len(server.body)
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        self.end_headers()
        if server.cut_after is not None:
            body = body[: server.cut_after]
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def everything(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_a_corpus_arrives(server: Server, tmp_path: Path) -> None:
    ticks: list[tuple[int, int]] = []
    root = fetch(
        "emodb",
        tmp_path / "emodb",
        url=server.url,
        sha256=server.sha256.upper(),
        progress=lambda done, all_: ticks.append((done, all_)),
    )
    assert root == tmp_path / "emodb"
    assert everything(tmp_path) == [
        "emodb",
        "emodb/wav",
        "emodb/wav/03a01Na.wav",
        "emodb/wav/03a01Wa.wav",
    ]
    assert len(load("emodb", root)) == 2
    assert ticks[-1] == (len(server.body), len(server.body))
    assert ticks == sorted(ticks)
    assert server.asked == [None]


def test_an_empty_folder_is_filled(server: Server, tmp_path: Path) -> None:
    (tmp_path / "emodb").mkdir()
    fetch("emodb", tmp_path / "emodb", url=server.url, sha256=server.sha256)
    assert (tmp_path / "emodb" / "wav").is_dir()


def test_the_default_folder(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVAX_DATA", str(tmp_path / "new"))
    assert fetch("emodb", url=server.url, sha256=server.sha256) == tmp_path / "new" / "emodb"


@pytest.mark.parametrize("ranges", [True, False], ids=["resumes", "starts again"])
def test_an_interrupted_download_goes_on(server: Server, tmp_path: Path, ranges: bool) -> None:
    server.cut_after = 400_000
    total = len(server.body)
    sentence = (
        f"{server.url}: cannot be loaded (it stopped at 400000 of {total} bytes): "
        "400000 bytes are kept, run the command again to go on."
    )
    with pytest.raises(CorpusError, match=f"^{re.escape(sentence)}$"):
        fetch("emodb", tmp_path / "emodb", url=server.url, sha256=server.sha256)
    assert everything(tmp_path) == [f".emodb-{server.sha256[:12]}.part"]
    server.cut_after, server.ranges = None, ranges
    fetch("emodb", tmp_path / "emodb", url=server.url, sha256=server.sha256)
    assert server.asked == [None, "bytes=400000-"]
    assert everything(tmp_path)[0] == "emodb"
    assert (tmp_path / "emodb" / "wav" / "03a01Na.wav").read_bytes() == b"x" * 700_000


def test_a_finished_part_is_not_loaded_again(server: Server, tmp_path: Path) -> None:
    part = tmp_path / f".emodb-{server.sha256[:12]}.part"
    part.write_bytes(server.body)
    fetch("emodb", tmp_path / "emodb", url=server.url, sha256=server.sha256)
    assert server.asked == [f"bytes={len(server.body)}-"]
    assert not part.exists()


def test_a_part_of_something_else_is_thrown_away(server: Server, tmp_path: Path) -> None:
    part = tmp_path / f".emodb-{server.sha256[:12]}.part"
    part.write_bytes(b"other")
    with pytest.raises(CorpusError, match=r"The file was removed; try again"):
        fetch("emodb", tmp_path / "emodb", url=server.url, sha256=server.sha256)
    assert everything(tmp_path) == []
    fetch("emodb", tmp_path / "emodb", url=server.url, sha256=server.sha256)


def test_a_wrong_checksum_leaves_nothing_behind(server: Server, tmp_path: Path) -> None:
    sentence = (
        f"{server.url}: has sha256 {server.sha256}, expected {'0' * 64}. "
        "The file was removed; try again, or fetch the corpus by hand."
    )
    with pytest.raises(CorpusError, match=f"^{re.escape(sentence)}$"):
        fetch("emodb", tmp_path / "emodb", url=server.url, sha256="0" * 64)
    assert everything(tmp_path) == []


@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        ({"../evil.wav": b"x"}, "'../evil.wav' would be written outside its folder."),
        ({"wav/a.wav": b"x", "/evil": b"x"}, "'/evil' would be written outside its folder."),
    ],
)
def test_an_archive_that_escapes_leaves_nothing_behind(
    server: Server, tmp_path: Path, members: dict[str, bytes], sentence: str
) -> None:
    server.body = archive(members)
    with pytest.raises(CorpusError, match=f"{re.escape(sentence)}$"):
        fetch("emodb", tmp_path / "in" / "emodb", url=server.url, sha256=server.sha256)
    assert everything(tmp_path) == ["in"]


def test_a_page_instead_of_an_archive(server: Server, tmp_path: Path) -> None:
    server.body = b"<html>Log in, please.</html>"
    with pytest.raises(CorpusError, match=r"is neither a zip nor a tar archive\.$"):
        fetch("emodb", tmp_path / "emodb", url=server.url, sha256=server.sha256)
    assert everything(tmp_path) == []


def test_md5_where_the_publisher_has_nothing_else(server: Server, tmp_path: Path) -> None:
    digest = hashlib.md5(server.body, usedforsecurity=False).hexdigest()
    part = tmp_path / "x.part"
    download(Download(server.url, "md5", digest), part)
    assert part.read_bytes() == server.body


def test_a_server_that_refuses(server: Server, tmp_path: Path) -> None:
    server.status = 404
    with pytest.raises(CorpusError, match=r"corpus\.zip: the server answers 404 Not Found\.$"):
        fetch("emodb", tmp_path / "emodb", url=server.url, sha256=server.sha256)


def test_nobody_listens(server: Server, tmp_path: Path) -> None:
    server.shutdown()
    server.server_close()
    with pytest.raises(CorpusError, match=r"cannot be loaded \(.*refused.*\): try again later\.$"):
        fetch("emodb", tmp_path / "emodb", url=server.url, sha256="0" * 64)


def test_a_redirect_is_followed_on_this_machine(server: Server, tmp_path: Path) -> None:
    with Server() as first:
        first.status, first.location = 302, server.url
        thread = threading.Thread(target=first.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        fetch("emodb", tmp_path / "emodb", url=first.url, sha256=server.sha256)
        first.shutdown()
        thread.join()


def test_a_redirect_away_is_refused(server: Server, tmp_path: Path) -> None:
    server.status, server.location = 302, "http://example.org/x.zip"
    sentence = (
        f"{server.url}: cannot be loaded (it redirects to http://example.org/x.zip, which is not "
        "https): try again later."
    )
    with pytest.raises(CorpusError, match=f"^{re.escape(sentence)}$"):
        fetch("emodb", tmp_path / "emodb", url=server.url, sha256=server.sha256)


def test_a_redirect_to_a_local_file_is_refused(server: Server, tmp_path: Path) -> None:
    server.status, server.location = 302, "file:///etc/passwd"
    with pytest.raises(CorpusError, match=r"Redirection to url 'file:///etc/passwd' is not allow"):
        fetch("emodb", tmp_path / "emodb", url=server.url, sha256=server.sha256)
    assert everything(tmp_path) == []


def test_https_is_never_left() -> None:
    request = urllib.request.Request("https://example.org/a.zip")
    with pytest.raises(urllib.error.URLError, match=r"redirects to http://127\.0\.0\.1/a\.zip"):
        _SafeRedirects().redirect_request(
            request, io.BytesIO(), 302, "Found", None, "http://127.0.0.1/a.zip"
        )


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/a.zip",
        "ftp://example.org/a.zip",
        "file:///etc/passwd",
        "http://127.0.0.1.example.org/a.zip",
        "a.zip",
        "https:///a.zip",
    ],
)
def test_refuses_an_address(tmp_path: Path, url: str) -> None:
    sentence = f"url is {url!r}, expected an https address (http only on this machine)."
    with pytest.raises(SettingError, match=f"^{re.escape(sentence)}$"):
        fetch("emodb", tmp_path / "emodb", url=url, sha256="0" * 64)


def test_refuses_a_malformed_checksum(tmp_path: Path) -> None:
    sentence = "sha256 is 'abc', expected 64 hexadecimal digits."
    with pytest.raises(SettingError, match=f"^{re.escape(sentence)}$"):
        fetch("emodb", tmp_path / "emodb", url="https://example.org/a.zip", sha256="abc")


def test_refuses_an_address_without_checksum(tmp_path: Path) -> None:
    sentence = "sha256 is None, expected the checksum of what url serves: give both or none."
    with pytest.raises(SettingError, match=f"^{re.escape(sentence)}$"):
        fetch("emodb", tmp_path / "emodb", url="https://example.org/a.zip")


def test_refuses_a_folder_that_holds_something(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    sentence = f"{tmp_path}: is not empty, remove it or choose another folder."
    with pytest.raises(CorpusError, match=f"^{re.escape(sentence)}$"):
        fetch("ravdess", tmp_path)


def test_says_what_must_be_fetched_by_hand(tmp_path: Path) -> None:
    sentence = (
        "iemocap must be fetched by hand: ask for it at https://sail.usc.edu/iemocap/ "
        "and unpack the folders Session1 to 5."
    )
    with pytest.raises(CorpusError, match=f"^{re.escape(sentence)}$"):
        fetch("iemocap", tmp_path / "iemocap")


def test_ravdess_has_the_address_and_checksum_of_its_publisher() -> None:
    told = describe("ravdess").download
    assert told is not None
    assert told.url.startswith("https://zenodo.org/records/1188976/files/")
    assert (told.algorithm, told.checksum) == ("md5", "bc696df654c87fed845eb13823edef8a")
