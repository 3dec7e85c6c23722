"""The page in a real browser, which may ask nobody but the server.

    SERVAX_ARTEFACTS=docs/images pytest tests/service_page/test_browser.py

writes the screenshot of docs/page.md.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest
import soundfile
from page_showing import show
from PIL import Image

from servax.service.inference import Models
from servax.service.page.demonstration import Heard, Samples, ShowSettings
from servax.service.page.layout import sixteen_bit

ROOT = Path(__file__).parents[2]
PASSWORD = "a-token-of-the-service"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DECODE = """async (href) => {
  const bytes = await (await fetch(href)).arrayBuffer();
  const heard = await new OfflineAudioContext(1, 1, 16000).decodeAudioData(bytes);
  return [heard.duration, Math.max(...heard.getChannelData(0).map(Math.abs))];
}"""

pytestmark = pytest.mark.slow


class Served(NamedTuple):
    address: str
    folder: Path


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Yield a running server; afterwards its clips are gone, and it has complained of nothing."""
    log = tmp_path_factory.mktemp("log") / "stderr"
    command = [sys.executable, str(Path(__file__).with_name("serving.py")), PASSWORD]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with log.open("wb") as errors:
        server = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, env=environment, text=True
        )
    assert server.stdout is not None
    try:
        line = server.stdout.readline().split()
        assert len(line) == 2, log.read_text()
        yield Served(line[0], Path(line[1]))
    finally:
        server.terminate()
        server.wait(timeout=20)
        server.stdout.close()
    assert not Path(line[1]).exists()
    assert "Traceback" not in log.read_text()


@pytest.fixture(scope="module")
def files(clip: Samples, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    soundfile.write(folder / "speech.wav", sixteen_bit(clip), 16_000)
    soundfile.write(folder / "long.wav", sixteen_bit(np.tile(clip, 4)), 16_000)
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="NO PLAYWRIGHT")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("NO CHROMIUM: install it to test the page (apt-get install chromium)")
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=chromium, args=FLAGS)
        yield launched
        launched.close()


@pytest.fixture
def page(browser: Any, served: Served) -> Iterator[Any]:
    """Yield the page, signed in; no request may have left the machine."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    elsewhere: list[str] = []

    def handler(route: Any) -> None:
        if route.request.url.startswith((served.address + "/", "data:", "blob:")):
            route.continue_()
        else:
            elsewhere.append(route.request.url)
            route.abort()

    context.route("**/*", handler)
    page = context.new_page()
    page.set_default_timeout(30_000)
    page.goto(f"{served.address}/page/")
    page.locator("input[type=password]").wait_for()
    signed = context.request.post(
        f"{served.address}/page/login", form={"username": "anybody", "password": PASSWORD}
    )
    assert signed.ok
    page.goto(f"{served.address}/page")  # leads to /page/
    page.locator("#go").wait_for()
    yield page
    context.close()
    assert elsewhere == []


def upload(page: Any, path: Path) -> None:
    page.locator("#clip input[type=file]").set_input_files(path)
    page.locator("#clip").get_by_label("Play", exact=True).wait_for()


def shown_of(page: Any, column: str) -> tuple[str, dict[str, float]]:
    """Return the label that stands in a column, and the length of each bar below it."""
    label = page.locator(f"#{column}-label")
    meters = label.locator("meter")
    bars = {
        meter.get_attribute("aria-label"): float(meter.get_attribute("value"))
        for meter in (meters.nth(place) for place in range(meters.count()))
    }
    return label.get_by_test_id("label-output-value").inner_text().strip(), bars


def test_upload_attack_purify(
    page: Any, models: Models, files: Path, tmp_path: Path, clip: Samples
) -> None:
    settings = ShowSettings("pgd", 30.0, "oblivious")
    expected = show(models, soundfile.read(files / "speech.wav")[0], 16_000, settings)
    assert expected.attempt is not None
    columns: dict[str, Heard] = {
        "original": expected.clip.original,
        "attacked": expected.attempt.attacked,
        "purified": expected.attempt.purified,
    }
    upload(page, files / "speech.wav")
    page.locator("#go").click()
    page.locator("#verdict .servax-held").wait_for()

    for column, heard in columns.items():
        label, bars = shown_of(page, column)
        assert label == expected.clip.labels[heard.answer]
        told = dict(zip(expected.clip.labels, heard.probabilities, strict=True))
        assert bars == pytest.approx(told, abs=1e-3)
        picture = page.locator(f"#{column}-picture img")
        assert label in picture.get_attribute("alt")
        assert picture.evaluate("image => image.naturalWidth") > 300
        href = page.locator(f"#{column}-sound a[download]").get_attribute("href")
        seconds, peak = page.evaluate(DECODE, href)
        assert seconds == pytest.approx(len(clip) / 16_000, abs=0.01)
        assert peak == pytest.approx(float(np.abs(heard.sound).max()), abs=1e-3)
        samples, rate = soundfile.read(io.BytesIO(page.request.get(href).body()), dtype="float32")
        assert rate == 16_000
        np.testing.assert_allclose(samples, heard.sound, atol=1e-4)
    assert shown_of(page, "original")[0] != shown_of(page, "attacked")[0]

    table = page.locator("#attackers").inner_text()
    for each in expected.attempts:
        assert f"{each.snr_db:.1f} dB" in table
        assert expected.clip.labels[each.purified.answer] in table
    screenshot(page, tmp_path)


def screenshot(page: Any, folder: Path) -> None:
    """Write the page as a picture of 256 colours, where SERVAX_ARTEFACTS says."""
    place = Path(os.environ.get("SERVAX_ARTEFACTS") or folder)
    place.mkdir(parents=True, exist_ok=True)
    page.mouse.move(0, 0)
    page.wait_for_timeout(500)  # for what fades in
    picture = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
    # Of the ways to choose colours, the one that keeps rare ones, such as that of the verdict.
    few = picture.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(place / "page.png", optimize=True)


def test_the_example_and_who_knows_the_purifier(page: Any) -> None:
    page.locator("#example").click()
    page.locator("#clip").get_by_label("Play", exact=True).wait_for()
    page.locator("#knowledge").get_by_text("the recogniser and the purifier").click()
    page.locator("#go").click()
    page.locator("#verdict .servax-lost").wait_for()
    assert shown_of(page, "original")[0] == "sad"
    assert shown_of(page, "purified")[0] != "sad"


def test_refusals_are_sentences(page: Any, files: Path) -> None:
    toast = page.get_by_test_id("toast-body")
    page.locator("#go").click()
    toast.get_by_text("There is no clip yet: drop a file").wait_for()
    upload(page, files / "long.wav")
    page.locator("#go").click()
    toast.get_by_text("expected at most 8 s; cut it with the scissors").wait_for()
    assert "Traceback" not in page.inner_text("body")


def test_nobody_passes_without_the_password(served: Served) -> None:
    with httpx.Client(base_url=f"{served.address}/page") as client:
        form = {"username": "anybody", "password": "guessed"}
        assert client.post("/login", data=form).status_code == 400
        assert client.get("/gradio_api/queue/data?session_hash=a").status_code == 401
        assert client.post("/gradio_api/queue/join", json={}).status_code == 401
        clip = {"files": ("a.wav", b"RIFF")}
        assert client.post("/gradio_api/upload", files=clip).status_code == 401
        assert client.get("/gradio_api/info").status_code == 404


def test_only_what_was_uploaded_is_heard(served: Served, files: Path) -> None:
    with httpx.Client(base_url=f"{served.address}/page", timeout=60) as client:
        client.post("/login", data={"username": "anybody", "password": PASSWORD})
        (sent,) = client.post(
            "/gradio_api/upload", files={"files": ("a.wav", (files / "speech.wav").read_bytes())}
        ).json()
        assert Path(sent).is_relative_to(served.folder)
        assert asked(client, sent)["success"]
        for path in (str(files / "speech.wav"), "http://127.0.0.1:9/a.wav", f"{sent}/../../../a"):
            answer = asked(client, path)
            assert not answer["success"]
            assert "was not uploaded here" in json.dumps(answer)


def asked(client: httpx.Client, path: str) -> dict[str, Any]:
    """Return how the button's function ends for a clip at a path, without an attack."""
    clip = {"path": path, "meta": {"_type": "gradio.FileData"}}
    order = {
        "data": [clip, "none", 30, "oblivious"],
        "fn_index": 0,
        "session_hash": f"s{abs(hash(path))}",
    }
    assert client.post("/gradio_api/queue/join", json=order).status_code == 200
    with client.stream(
        "GET", "/gradio_api/queue/data", params={"session_hash": order["session_hash"]}
    ) as stream:
        for line in stream.iter_lines():
            message = json.loads(line.removeprefix("data: ")) if line else {}
            if message.get("msg") == "process_completed":
                return dict(message)
    raise AssertionError("no answer")
