"""The page in a headless Chromium with a fake microphone: talk, interrupt, talk again, type.

    python tests/clients/browser.py http://127.0.0.1:8017 QUESTION.wav [--pictures docs]

The microphone plays the question again and again (Chromium repeats its file).
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import soundfile
import soxr
from playwright.sync_api import Page, sync_playwright

FLAGS = ["--no-sandbox", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream",
         "--autoplay-policy=no-user-gesture-required"]  # fmt: skip
RATE_HZ = 48000


def microphone(question: Path, folder: Path, *, before_s: float, behind_s: float) -> Path:
    """Write the question, with silence around it, as Chromium's microphone wants it."""
    audio, rate = soundfile.read(question, dtype="float32")
    audio = soxr.resample(audio, rate, RATE_HZ)
    before, behind = (np.zeros(int(s * RATE_HZ), np.float32) for s in (before_s, behind_s))
    path = folder / "microphone.wav"
    soundfile.write(path, np.concatenate([before, audio, behind]), RATE_HZ, "PCM_16")
    return path


def turns(page: Page) -> list[tuple[str, str]]:
    """What is written in the conversation: question and answer."""
    found: list[Any] = page.eval_on_selector_all(
        "#turns li",
        "rows => rows.map(r => [r.querySelector('.you').textContent,"
        " r.querySelector('.it').textContent])",
    )
    return [(heard, said) for heard, said in found]


def wait(page: Page, condition: str, seconds: float = 30.0) -> None:
    """Poll from outside: the page forbids code that is made on the way."""
    end = monotonic() + seconds
    while not page.evaluate(condition):
        if monotonic() > end:
            state = page.evaluate(
                "document.body.dataset.state + ': ' + document.getElementById('status').textContent"
            )
            raise AssertionError(f"never came: {condition} ({state}; {turns(page)})")
        page.wait_for_timeout(30)


def picture(page: Page, folder: Path | None, name: str) -> None:
    if folder is not None:
        page.screenshot(path=folder / f"{name}.png")


def hands_free(page: Page, pictures: Path | None) -> None:
    """Two turns at least, the first interrupted by the second."""
    picture(page, pictures, "page_start")
    page.click("#talk")
    wait(page, "document.body.dataset.state === 'answering'")
    page.wait_for_timeout(500)
    picture(page, pictures, "page_answer")
    wait(page, "document.querySelectorAll('#turns li .said.it.cut').length > 0")
    wait(page, "document.querySelectorAll('#turns li').length >= 2 && ttt.timings >= 2")
    page.click("#talk")  # pause
    for heard, _ in turns(page)[:2]:
        assert heard.startswith("tell me the capital of"), turns(page)
    cut = page.text_content(".said.it.cut") or ""
    assert not cut.endswith("paris"), cut
    wait(page, "document.body.dataset.state === 'idle'")


def press_and_talk(page: Page) -> None:
    """The space bar held through the question."""
    before = len(turns(page))
    page.check("input[value=press]", force=True)
    page.keyboard.down("Space")
    page.wait_for_timeout(2600)
    page.keyboard.up("Space")
    wait(page, f"document.querySelectorAll('#turns li .timing').length > {before}")
    heard, said = turns(page)[-1]
    assert heard, turns(page)
    assert said, turns(page)
    page.keyboard.down("Space")  # an interruption, too short for a question
    page.wait_for_timeout(60)
    page.keyboard.up("Space")
    wait(page, "document.body.dataset.state !== 'answering'")


def typed(page: Page, pictures: Path | None) -> None:
    """A question from the keyboard is answered aloud too."""
    page.fill("#text", "what is the opposite of hot")
    page.press("#text", "Enter")
    wait(
        page, "[...document.querySelectorAll('#turns li .it')].at(-1).textContent.includes('cold')"
    )
    wait(page, "document.body.dataset.state === 'answering'")
    wait(page, "document.querySelector('#turns li:last-child .timing')")
    picture(page, pictures, "page_turns")


def readable(page: Page) -> None:
    """What a screen reader needs: names, states, live regions, the order of the tab key."""
    assert page.get_by_role("button", name="Start talking").count() == 1
    assert page.get_by_role("log", name="What was said").count() == 1
    assert page.get_by_role("radio", name="Hands-free").count() == 1
    assert page.get_by_role("status").count() == 1
    seen = []
    for _ in range(8):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    assert "talk" in seen, seen


def main() -> None:
    """Run all of it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("question", type=Path)
    parser.add_argument("--pictures", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as player:
        sound = microphone(options.question, Path(folder), before_s=0.6, behind_s=1.3)
        browser = player.chromium.launch(
            executable_path="/usr/bin/chromium",
            args=[*FLAGS, f"--use-file-for-fake-audio-capture={sound}"],
        )
        context = browser.new_context(viewport={"width": 1180, "height": 760}, color_scheme="dark")
        context.grant_permissions(["microphone"])
        page = context.new_page()
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{options.url}/?processing=off")
        wait(page, "document.getElementById('model').textContent")
        readable(page)
        hands_free(page, options.pictures)
        press_and_talk(page)
        typed(page, options.pictures)
        page.goto(f"{options.url}/profile")
        page.wait_for_selector("#figures tr")
        picture(page, options.pictures, "page_profile")
        narrow = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme="light")
        phone = narrow.new_page()
        phone.goto(options.url)
        phone.click("#samples button")
        wait(phone, "document.querySelector('#turns li .timing')")
        overflow = "document.documentElement.scrollWidth > innerWidth"
        assert not phone.evaluate(overflow), "the page is wider than a phone"
        picture(phone, options.pictures, "page_narrow")
        outside = [url for url in asked if not url.startswith((options.url, "data:", "blob:"))]
        assert not outside, outside
        assert not problems, problems
        browser.close()
    print("browser: hands-free, interruption, press and talk, typed; no foreign asset, no error")


if __name__ == "__main__":
    main()
