"""The page in a real browser, which may ask nobody but the service.

    SERVAX_ARTEFACTS=docs/images pytest tests/service/test_page_in_browser.py

writes the pictures of docs/page.md.
"""

from __future__ import annotations

import base64
import io
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image
from service_running import SETTINGS, Running, sound

from servax.service import Decoded, Tokens
from servax.service.app import PAGE
from servax.service.attacking import trial
from servax.service.inference import Models

TOKEN = "a-token-of-the-service"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
    "--autoplay-policy=no-user-gesture-required",
]
SERIOUS = ("serious", "critical")
KNOWLEDGE = {"none": "", "oblivious": "the recogniser only", "adaptive": "and the purifier"}

pytestmark = pytest.mark.slow


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


class Visit:
    """One visitor's page; no request of it may leave the service, and nothing may go wrong."""

    def __init__(self, browser: Any, url: str, **settings: Any) -> None:
        self.context = browser.new_context(**settings)
        self.page = self.context.new_page()
        self.page.set_default_timeout(60_000)
        self.elsewhere: list[str] = []
        self.complaints: list[str] = []
        self.context.route("**/*", self._route(url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self._heard)
        self.page.goto(f"{url}/")

    def _route(self, url: str) -> Any:
        def handler(route: Any) -> None:
            if route.request.url.startswith((f"{url}/", "blob:")):
                route.continue_()
            else:
                self.elsewhere.append(route.request.url)
                route.abort()

        return handler

    def _heard(self, message: Any) -> None:
        # A refusal is an answer of status 400 and above, which browsers write down.
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.complaints.append(message.text)

    def __enter__(self) -> Any:
        return self.page

    def __exit__(self, *_: object) -> None:
        self.context.close()
        assert self.elsewhere == []
        assert self.complaints == []


@pytest.fixture
def page(browser: Any, service: Running) -> Iterator[Any]:
    with Visit(browser, service.url, viewport={"width": 1280, "height": 900}) as page:
        page.locator("#networks dd").first.wait_for()
        yield page


def take_example(page: Any, label: str = "sad") -> None:
    page.get_by_role("button", name=label.capitalize(), exact=True).click()
    page.locator("#results").wait_for()


def attack(page: Any, method: str = "FGSM") -> None:
    page.locator("label", has_text=method).click()
    page.get_by_role("button", name="Attack and purify").click()
    page.locator("#attackers tbody tr:nth-child(3)").wait_for()


def shares(page: Any, column: str) -> dict[str, str]:
    lines = page.locator(f"#column-{column} .classes li").all_inner_texts()
    return dict(
        line.split("\n")[::2] if line.count("\n") > 1 else line.split("\n") for line in lines
    )


def drop(page: Any, name: str, body: bytes) -> None:
    """Drop a file on the page."""
    page.evaluate(
        """([name, letters]) => {
          const bytes = Uint8Array.from(atob(letters), (each) => each.charCodeAt(0));
          const dataTransfer = new DataTransfer();
          if (name) dataTransfer.items.add(new File([bytes], name));
          find("#drop").dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true }));
        }""",
        [name, base64.b64encode(body).decode()],
    )


def test_attack_and_purify(page: Any, models: Models) -> None:
    samples, _ = soundfile.read(PAGE / "sad.flac", dtype="float32")
    clip = Decoded(samples[:, None], 16_000, "FLAC")
    expected = {each: trial(models, clip, "fgsm", 30.0, each) for each in KNOWLEDGE}
    take_example(page)
    assert "Without an attack the clip is heard as sad" in page.inner_text("#verdict")
    assert page.locator("#column-attacked").is_hidden()
    assert page.get_by_label("Attacked").is_disabled()
    attack(page)

    for knowledge, words in (
        ("oblivious", "the recogniser only"),
        ("adaptive", "and the purifier"),
    ):
        page.locator("#attacker label", has_text=words).click()
        told = expected[knowledge]
        heard = {
            "original": expected["none"].given,
            "attacked": told.given,
            "purified": told.purified,
        }
        for name, each in heard.items():
            column = page.locator(f"#column-{name}")
            assert column.locator(".answer").inner_text() == each.label
            assert shares(page, name) == {
                label: f"{round(100 * share)} %" for label, share in each.probabilities.items()
            }
            with page.expect_download() as download:
                column.get_by_text("Save as WAV").click()
            saved, rate = soundfile.read(download.value.path(), dtype="float32")
            assert (rate, download.value.suggested_filename) == (16_000, f"{name}.wav")
            wanted = soundfile.read(io.BytesIO(base64.b64decode(each.sound)), dtype="float32")[0]
            np.testing.assert_array_equal(saved, wanted)
            picture = column.locator(".spectrogram canvas")
            assert each.label in picture.get_attribute("aria-label")
            assert picture.evaluate("each => [each.width, each.height]") == [
                each.spectrogram.frames, each.spectrogram.mels
            ]  # fmt: skip
        verdict = page.inner_text("#verdict")
        kept = "given back" not in verdict
        assert kept == (told.purified.label == expected["none"].given.label)
    table = page.inner_text("#attackers")
    for each in ("oblivious", "adaptive"):
        assert f"{expected[each].snr_db:.1f} dB" in table
        assert f"{expected[each].residual:.4f}" in table


def test_a_picture_is_the_spectrogram(page: Any, models: Models) -> None:
    samples, _ = soundfile.read(PAGE / "sad.flac", dtype="float32")
    told = trial(models, Decoded(samples[:, None], 16_000, "FLAC"), "none", 30.0, "none").given
    decibels = np.frombuffer(base64.b64decode(told.spectrogram.tenths_db), "<i2") / 10
    decibels = decibels.reshape(told.spectrogram.mels, -1)
    take_example(page)
    pixels = page.locator("#column-original .spectrogram canvas").evaluate(
        "each => [...each.getContext('2d').getImageData(0, 0, each.width, each.height).data]"
    )
    light = np.reshape(pixels, (*decibels.shape, 4))[::-1, :, :3].sum(-1)  # lowest Mel first
    seen = decibels > decibels.max() - 60
    order = np.argsort(decibels[seen])
    assert np.corrcoef(decibels[seen], light[seen])[0, 1] > 0.97
    assert light[seen][order][-50:].mean() > 2 * light[seen][order][:50].mean()


def test_sounds_are_switched_where_they_are(page: Any, service: Running) -> None:
    take_example(page)
    attack(page)
    page.get_by_label("Repeat").check()
    page.get_by_role("button", name="Play").click()
    service.wait(lambda: page.evaluate("player.position") > 0.3)
    for key, name in (("b", "attacked"), ("c", "purified"), ("a", "original")):
        before = page.evaluate("player.position")
        page.locator("#play").press(key)
        service.wait(lambda: page.evaluate("player.audible") == [name])  # noqa: B023
        moved = (page.evaluate("player.position") - before) % page.evaluate("player.duration")
        assert 0 <= moved < 1.0
        assert page.evaluate("player.playing")
        assert page.locator(f"#column-{name}").evaluate(
            "each => each.classList.contains('playing')"
        )
    page.get_by_role("button", name="Pause").click()
    at = page.evaluate("player.position")
    page.locator("input[value=purified]").check(force=True)
    assert page.evaluate("player.position") == at
    box = page.locator("#column-original .spectrogram .plot").bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + 20)
    share = page.evaluate("player.position / player.duration")
    assert share == pytest.approx(0.5, abs=0.02)


def test_another_strength_is_heard_without_another_press(page: Any) -> None:
    take_example(page)
    attack(page)
    assert "30." in page.inner_text("#attackers")
    page.get_by_label("Strength").fill("15")
    page.locator("#attackers td", has_text="15.").first.wait_for()
    assert page.inner_text("#strength-value") == "15 dB"


def test_refusals_stand_beside_what_they_concern(page: Any, service: Running) -> None:
    refusal = page.locator("#clip-error")
    page.get_by_role("button", name="Attack and purify").click()
    refusal.get_by_text("There is no clip yet").wait_for()
    for name, body, sentence in (
        ("long.wav", sound(5.5), "The sound is longer than the 5 s allowed"),
        ("letter.txt", b"This is no sound.", "The body is not sound that is decoded here"),
        ("large.wav", bytes(500_000), "The file has 0.5 MB, expected at most 0.4 MB."),
        ("", b"", "This is no file; drop a sound file."),
    ):
        drop(page, name, body)
        refusal.get_by_text(sentence).wait_for()
    assert page.locator("#results").is_hidden()
    drop(page, "good.aiff", sound(0.6, container="AIFF"))
    page.locator("#results").wait_for()
    assert refusal.inner_text() == ""
    service.handler._attacks = 9
    try:
        page.get_by_role("button", name="Attack and purify").click()
        page.locator("#go-error").get_by_text("8 sounds wait to be attacked already").wait_for()
    finally:
        service.handler._attacks = 0
    with page.expect_request("**/v1/attack*"):
        page.context.set_offline(True)
        page.get_by_role("button", name="Attack and purify").click()
    page.locator("#go-error").get_by_text("The service cannot be reached").wait_for()


def test_a_recording_is_heard(browser: Any, service: Running) -> None:
    with Visit(browser, service.url, permissions=["microphone"]) as page:
        page.get_by_role("button", name="Record").click()
        page.get_by_role("button", name="Stop").wait_for()
        page.wait_for_timeout(1_200)
        page.get_by_role("button", name="Stop").click()
        page.locator("#results").wait_for()
        assert page.inner_text("#clip-name") == "Your recording"
        assert 0.5 < page.evaluate("player.duration") < 5


def test_a_microphone_that_is_refused_is_told(browser: Any, service: Running) -> None:
    with Visit(browser, service.url, permissions=[]) as page:
        page.evaluate(
            "() => { navigator.mediaDevices.getUserMedia = async () => { throw Error('no'); } }"
        )
        page.get_by_role("button", name="Record").click()
        page.locator("#clip-error").get_by_text("The microphone cannot be used").wait_for()


def test_a_service_with_tokens_asks_for_one(browser: Any) -> None:
    with Running(replace(SETTINGS, page=True), Tokens([TOKEN])) as guarded:
        with Visit(browser, guarded.url) as page:
            for token, sentence in (
                ("guessed", "The service does not know this token"),
                (TOKEN, ""),
            ):
                page.get_by_label("This service asks for a token").fill(token)
                page.get_by_role("button", name="Continue").click()
                if sentence:
                    page.locator("#token-error").get_by_text(sentence).wait_for()
            page.locator("#networks dd").first.wait_for()
            guarded.wait(lambda: guarded.dispatcher.ready)
            take_example(page)
        assert TOKEN not in guarded.log.getvalue()


def test_a_person_speaks_in_one_example(page: Any, service: Running) -> None:
    page.get_by_role("button", name="A person").click()
    page.locator("#results").wait_for()
    assert page.inner_text("#clip-name") == "Example: a volunteer of LibriVox reads"
    notice = service.client.get("/page/" + page.locator("#examples a").get_attribute("href"))
    assert "reader.flac" in notice.text
    assert "Redistributions in binary form must reproduce" in notice.text
    assert soundfile.info(PAGE / "reader.flac").duration == pytest.approx(3.29, abs=0.01)


def test_it_is_used_with_the_keyboard_alone(page: Any) -> None:
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.dataset.example") == "sad":
            break
    page.keyboard.press("Enter")
    page.locator("#results").wait_for()
    page.locator("input[value=pgd]").focus()
    page.keyboard.press("ArrowRight")
    page.locator("#go").focus()
    page.keyboard.press("Enter")
    page.locator("#attackers tbody tr:nth-child(3)").wait_for()
    page.locator("input[name=heard][value=original]").focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("chosen('heard')") == "attacked"
    assert page.get_by_role("status").count() >= 2
    assert "Behind the purifier it is" in page.locator("[aria-live=polite]").inner_text()


def test_everyone_can_use_it_at_any_width(page: Any, tmp_path: Path) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    for state in ("empty", "attacked"):
        if state == "attacked":
            take_example(page)
            attack(page, "PGD")
            page.get_by_text("What this means").click()
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            for width in (390, 1024, 1440):
                page.set_viewport_size({"width": width, "height": 900})
                page.wait_for_timeout(350)  # for what fades in
                assert page.evaluate("document.documentElement.scrollWidth") <= width
                found = axe.run(page).response["violations"]
                assert [each["id"] for each in found if each["impact"] in SERIOUS] == []
    page.get_by_text("What this means").click()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for width in (390, 1024, 1440):
            page.set_viewport_size({"width": width, "height": 900})
            keep(page, tmp_path, f"page-{scheme}-{width}.png")


def keep(page: Any, folder: Path, name: str) -> None:
    """Write the page as a picture of 80 colours, where SERVAX_ARTEFACTS says."""
    place = Path(os.environ.get("SERVAX_ARTEFACTS") or folder)
    place.mkdir(parents=True, exist_ok=True)
    page.mouse.move(0, 0)
    page.evaluate("scrollTo({ top: 0, behavior: 'instant' })")
    page.wait_for_timeout(350)
    picture = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
    few = picture.quantize(80, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(place / name, optimize=True)
