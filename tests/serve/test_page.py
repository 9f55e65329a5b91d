"""The page, driven in headless Chromium: skipped where there is none."""

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from foveate.classifier import Classifier
from foveate.world.photos import scene_photos

NAMES = ["red star", "blue ring", "green heart", "cyan moon"]
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
NAMELESS = (
    "[...document.querySelectorAll('button,input:not([hidden]),img')].filter((one) =>"
    " !(one.textContent || one.ariaLabel || one.alt || (one.labels && one.labels.length)))"
)
"""What a screen reader could not name."""
SHOTS = os.environ.get("FOVEATE_SCREENSHOTS")
"""Folder for pictures of the page, to be looked at."""


def test_the_page_fetches_nothing_from_elsewhere():
    page = files("foveate.serve").joinpath("page.html").read_text(encoding="utf-8")
    assert "http://" not in page
    assert "https://" not in page
    assert "<script src" not in page
    assert 'rel="stylesheet"' not in page


class Browser:
    """As much of WebDriver as is needed."""

    def __init__(self, port: int, profile: Path) -> None:
        self._at = f"http://127.0.0.1:{port}"
        arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--window-size=1200,860",
        ]
        arguments += [f"--user-data-dir={profile}", "--use-fake-device-for-media-stream"]
        arguments += ["--use-fake-ui-for-media-stream"]
        options = {"args": arguments, "binary": shutil.which("chromium")}
        logs = {"goog:loggingPrefs": {"browser": "ALL"}}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, **logs}
        self._at += (
            f"/session/{self._ask('POST', '/session', capabilities={'alwaysMatch': wanted})['sessionId']}"
        )

    def _ask(self, method: str, path: str, **body: Any) -> Any:
        data = json.dumps(body).encode() if method == "POST" else None
        request = urllib.request.Request(self._at + path, data, method=method)
        with urllib.request.urlopen(request, timeout=1800) as response:
            return json.load(response)["value"]

    def open(self, url: str) -> None:
        self._ask("POST", "/url", url=url)

    def run(self, script: str, *args: object) -> Any:
        return self._ask("POST", "/execute/sync", script=script, args=args)

    def until(self, script: str, *args: object) -> Any:
        """Return what an expression is as soon as it is true."""
        for _ in range(1200):
            if found := self.run(f"return {script}", *args):
                return found
            time.sleep(0.05)
        raise AssertionError(f"never true: {script}; {self.run('return document.body.innerText')}")

    def press(self, keys: str) -> None:
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self._ask("POST", "/actions", actions=[{"type": "key", "id": "keyboard", "actions": actions}])

    def find(self, selector: str) -> str:
        return self._ask("POST", "/element", using="css selector", value=selector)[ELEMENT]

    def type(self, selector: str, text: str) -> None:
        self._ask("POST", f"/element/{self.find(selector)}/value", text=text)

    def click(self, selector: str) -> None:
        self._ask("POST", f"/element/{self.find(selector)}/click")

    def cdp(self, command: str, **params: object) -> Any:
        return self._ask("POST", "/goog/cdp/execute", cmd=command, params=params)

    def errors(self) -> list[str]:
        """What the page complained of."""
        told = self._ask("POST", "/se/log", type="browser")
        return [one["message"] for one in told if one["level"] == "SEVERE"]

    def shot(self, name: str) -> None:
        if SHOTS:
            Path(SHOTS, f"{name}.png").write_bytes(base64.b64decode(self._ask("GET", "/screenshot")))

    def close(self) -> None:
        self._ask("DELETE", "")


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("chromium and chromedriver are not installed (Debian: chromium-driver)")
    quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    driver = subprocess.Popen(["chromedriver", "--port=0"], **quiet)
    try:
        told = next(line for line in driver.stdout if "started successfully on port" in line)
        one = Browser(int(told.rstrip(".\n").rpartition(" ")[2]), tmp_path / "profile")
        try:
            yield one
        finally:
            one.close()
    finally:
        driver.terminate()
        driver.wait()
        driver.stdout.close()


@pytest.mark.slow
def test_from_forty_photos_to_a_saved_model_without_a_terminal(
    browser: Browser, start: Callable[..., Any], tmp_path: Path, png: list[bytes]
):
    scenes = scene_photos(NAMES, per_class=10, seed=3)
    labels: dict[str, str] = {}
    for number, sample in enumerate(scenes.samples):
        place = tmp_path / "photos" / f"{number * 17 % 40:02}.png"
        place.parent.mkdir(exist_ok=True)
        sample.picture.load().save(place)
        labels[place.name] = scenes.names[sample.label]
    process, host, port = start("--labels", str(tmp_path / "l.jsonl"), "--photos", str(tmp_path / "photos"))
    browser.open(f"http://{host}:{port}/")
    add_names(browser)
    label_by_keys(browser, [labels[photo] for photo in sorted(labels)])
    (tmp_path / "new.png").write_bytes(png[0])
    try_on_a_phone_in_the_dark(browser, tmp_path / "new.png")
    browser.press("s")
    saved = browser.until("!busy && session.saved")
    take_a_picture(browser)
    assert browser.run(f"return {NAMELESS}.map((one) => one.outerHTML)") == []
    assert browser.errors() == []
    process.send_signal(signal.SIGTERM)
    process.wait(60)
    model = Classifier.from_pretrained(saved)
    assert set(model.method.names) == set(scenes.names)
    assert model.evaluate(scene_photos(scenes.names, per_class=5, seed=9)).accuracy >= 80


@pytest.mark.slow
def test_a_tuned_model_shows_how_far_it_trusts_clip(browser: Browser, start: Callable[..., Any]):
    saved = Path(__file__).parents[1] / "saved" / "0.1.0"  # FVG-PT over CoOp
    _, host, port = start(str(saved), "--classes", "green heart")
    browser.open(f"http://{host}:{port}/")
    browser.until("!busy && names.length === 3")
    browser.type("#file", str(saved / "0.png"))
    told = browser.until("!busy && document.getElementById('answer').textContent")
    assert re.fullmatch(r".+, .+ % \(trust in CLIP: .+ %\)", told)
    browser.press("g")
    browser.until("!busy && document.getElementById('look').getAttribute('aria-pressed') === 'true'")
    for _ in range(2):  # off, and on again
        browser.press("g")
        assert browser.until("!busy && document.getElementById('answer').textContent") == told
    browser.shot("desktop-trust")


def add_names(browser: Browser) -> None:
    browser.until("document.getElementById('told').textContent.startsWith('0 of 40')")
    for name in NAMES:
        browser.type("#name", f"{name}\ue007")  # and Enter
        browser.until(f"document.getElementById('status').textContent === 'added: {name}'")
    browser.run("document.activeElement.blur()")
    browser.shot("desktop-start")


def label_by_keys(browser: Browser, labels: list[str]) -> None:
    """Label 24 photos, take one back, say that one is none of the names, look, and learn."""
    for done in range(1, 25):
        browser.press(str(NAMES.index(labels[browser.run("return shown.id")]) + 1))
        browser.until(f"!busy && document.getElementById('told').textContent.startsWith('{done} of 40')")
    browser.press("u")
    browser.until("!busy && document.getElementById('told').textContent.startsWith('23 of 40')")
    browser.press("0")
    browser.until("!busy && session.none === 1")
    browser.press("g")
    browser.until("!busy && document.getElementById('look').getAttribute('aria-pressed') === 'true'")
    browser.until("document.getElementById('photo').complete")
    browser.shot("desktop-look")
    browser.press("l")
    browser.until("!busy && session.learned && session.learned.from === 23")


def try_on_a_phone_in_the_dark(browser: Browser, photo: Path) -> None:
    browser.type("#file", str(photo))
    browser.until("document.getElementById('answer').textContent.startsWith('red star')")
    browser.cdp("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    browser.shot("desktop-dark-try")
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    browser.cdp("Emulation.setDeviceMetricsOverride", **phone)
    assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
    browser.shot("phone-dark-try")
    browser.press("2")  # it is corrected
    browser.until("!busy && session.photos === 41")
    browser.cdp("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "light"}])
    browser.shot("phone-label")


def take_a_picture(browser: Browser) -> None:
    browser.press("c")
    browser.until("document.getElementById('video').videoWidth > 0")
    browser.press("c")
    browser.until("!busy && shown && shown.file && shown.file.name === 'camera.jpg'")
