"""The upload page for everybody: by keyboard, by ear, on a phone, without colour, in the dark."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import LargeFile
from tests.harness.gate import Gate
from tests.harness.native import MIB
from tests.harness.server import Server
from tests.harness.upload_page import UploadPage, session

#: WCAG 2.2: text, and what is needed to see a control or a state (1.4.3, 1.4.11).
TEXT_CONTRAST = 4.5
CONTROL_CONTRAST = 3.0

#: WCAG 2.2, 2.5.5: what a thumb hits.
TARGET_PIXELS = 44

NARROW = {"width": 320, "height": 568}

#: Contrast of an element's colour (or another property) with what is painted behind it.
CONTRAST = """
(element, property) => {
  const luminance = ([r, g, b]) => {
    const linear = [r, g, b].map((value) => {
      const part = value / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  };
  const channels = (color) => color.match(/[\\d.]+/g).map(Number);
  const behind = (node) => {
    for (; node; node = node.parentElement ?? node.getRootNode().host) {
      const color = channels(getComputedStyle(node).backgroundColor);
      if (color.length === 3 || color[3] === 1) return color;
    }
    return [255, 255, 255];
  };
  const own = property !== "color";
  const start = own ? element.parentElement ?? element.getRootNode().host : element;
  const pair = [channels(getComputedStyle(element)[property]), behind(start)].map(luminance);
  return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
}
"""

OpenIn = Callable[..., UploadPage]


@pytest.fixture
def every_state(tmp_path: Path) -> list[Path]:
    """Files that end in different states: done, too large."""
    done, large = tmp_path / "done.bin", tmp_path / "too large.bin"
    done.write_bytes(os.urandom(1000))
    large.write_bytes(bytes(LIMIT + 1))
    return [done, large]


LIMIT = 210 * MIB


@pytest.fixture
def open_in(browser: Browser, gate: Gate) -> Iterator[OpenIn]:
    """Open the page in a browser profile with settings of its own."""
    contexts = []

    def opened(**options: object) -> UploadPage:
        contexts.append(browser.new_context(**options))
        page = UploadPage(contexts[-1].new_page())
        return page.open(gate.url, session("everybody", max_bytes=LIMIT))

    yield opened
    for context in contexts:
        context.close()


def show_all_states(
    upload_page: UploadPage, gate: Gate, large_file: LargeFile, files: list[Path]
) -> None:
    """Fill the list with rows in all states that last."""
    note = files[0].with_name("paused.bin")
    note.write_bytes(os.urandom(2000))
    upload_page.choose(*files)
    upload_page.wait_for_done("done.bin")
    gate.allow(30 * MIB)
    upload_page.choose(large_file.path, note)
    gate.wait_until_held()
    upload_page.press("Pause", note.name)
    upload_page.wait_for_state("too large.bin", "Failed")
    upload_page.wait_for_state(large_file.name, "Uploading")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_has_enough_contrast(
    open_in: OpenIn, gate: Gate, large_file: LargeFile, every_state: list[Path], scheme: str
) -> None:
    upload_page = open_in(color_scheme=scheme)
    show_all_states(upload_page, gate, large_file, every_state)
    page = upload_page.page
    texts = page.locator(
        "h1, .title, .hint, .numbers, .name, .state, .details, button:not(.round):visible"
    )
    ratios = {
        f"{text.get_attribute('class')} {text.inner_text()[:30]}": text.evaluate(CONTRAST, "color")
        for text in texts.all()
    }
    assert len(ratios) > 10
    assert {text: ratio for text, ratio in ratios.items() if ratio < TEXT_CONTRAST} == {}
    for control, property_ in [(".zone", "borderTopColor"), ("button.folders", "borderTopColor")]:
        assert page.locator(control).evaluate(CONTRAST, property_) >= CONTROL_CONTRAST
    for drawing in page.locator(".drawing, button.round:visible").all():
        assert drawing.evaluate(CONTRAST, "color") >= CONTROL_CONTRAST
    expect(page.locator("body")).to_have_css(
        "background-color", re.compile(r"rgb\(2\d\d" if scheme == "light" else r"rgb\(1\d,")
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_notices_have_enough_contrast(browser: Browser, uploads: Server, scheme: str) -> None:
    context = browser.new_context(color_scheme=scheme)
    page = UploadPage(context.new_page()).open(uploads.url).page
    page.get_by_label("Upload token").wait_for()
    for text in page.locator(".notice p, .notice label, .notice code, .notice button").all():
        assert text.evaluate(CONTRAST, "color") >= TEXT_CONTRAST, text.inner_text()
    field = page.get_by_label("Upload token")
    assert field.evaluate(CONTRAST, "borderTopColor") >= CONTROL_CONTRAST
    context.close()


def test_states_are_told_in_words_and_shapes_not_in_colour_alone(
    open_in: OpenIn, gate: Gate, large_file: LargeFile, every_state: list[Path]
) -> None:
    upload_page = open_in()
    show_all_states(upload_page, gate, large_file, every_state)
    rows = upload_page.page.locator(".row")
    words = [row.locator(".state").inner_text() for row in rows.all()]
    shapes = [row.locator(".drawing path").get_attribute("d") for row in rows.all()]
    assert len(set(words)) == len(set(shapes)) == 4


def test_a_narrow_phone_shows_everything_and_thumbs_hit_it(
    open_in: OpenIn, gate: Gate, large_file: LargeFile, every_state: list[Path]
) -> None:
    upload_page = open_in(viewport=NARROW, has_touch=True, is_mobile=True)
    show_all_states(upload_page, gate, large_file, every_state)
    page = upload_page.page
    assert page.evaluate("document.documentElement.scrollWidth") == NARROW["width"]
    for element in page.locator(".widget *:visible").all():
        box = element.bounding_box()
        assert box is None or box["x"] + box["width"] <= NARROW["width"]
    buttons = page.get_by_role("button").all()
    assert len(buttons) > 8
    for button in buttons:
        box = button.bounding_box()
        assert box is not None
        assert min(box["width"], box["height"]) >= TARGET_PIXELS, button.inner_text()
    # The same at twice the size of letters.
    page.evaluate("document.documentElement.style.fontSize = '200%'")
    assert page.evaluate("document.documentElement.scrollWidth") == NARROW["width"]


def test_the_keyboard_is_enough(open_in: OpenIn, gate: Gate, large_file: LargeFile) -> None:
    upload_page = open_in()
    page = upload_page.page
    gate.allow(30 * MIB)
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Choose files")).to_be_focused()
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(large_file.path)
    gate.wait_until_held()
    pause = page.get_by_role("button", name=f"Pause: {large_file.name}")
    pause.wait_for()
    while not pause.evaluate("(button) => button.matches(':focus')"):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement !== document.body"), "went past the button"
    outline = pause.evaluate("(button) => getComputedStyle(button).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Space")
    upload_page.wait_for_state(large_file.name, "Paused")
    # The button that was pressed has become the one that undoes it, and is still under the hand.
    expect(page.get_by_role("button", name=f"Resume: {large_file.name}")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    upload_page.wait_for_state(large_file.name, "Cancelled")
    page.keyboard.press("Enter")
    expect(page.locator(".row")).to_have_count(0)


def test_removing_a_row_leaves_the_focus_on_the_next_one(open_in: OpenIn, tmp_path: Path) -> None:
    upload_page = open_in()
    page = upload_page.page
    names = ["first.bin", "second.bin", "third.bin"]
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
    upload_page.choose(*(tmp_path / name for name in names))
    upload_page.wait_for_done(*names)
    remove = page.get_by_role("button", name="Remove from the list: second.bin")
    remove.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Download: third.bin")).to_be_focused()


def test_what_happens_is_heard_and_not_all_the_time(
    open_in: OpenIn, gate: Gate, large_file: LargeFile
) -> None:
    upload_page = open_in()
    page = upload_page.page
    heard = page.locator(".heard")
    expect(heard).to_have_attribute("role", "status")
    page.evaluate(
        """() => {
          window.heard = [];
          const root = document.querySelector("longhaul-upload").shadowRoot;
          const region = root.querySelector(".heard");
          new MutationObserver(() => window.heard.push(region.textContent))
            .observe(region, {childList: true, characterData: true, subtree: true});
        }"""
    )
    upload_page.choose(large_file.path)
    upload_page.wait_for_done(large_file.name)
    expect(heard).to_contain_text(f"{large_file.name} is uploaded")
    said = [text for text in page.evaluate("window.heard") if text]
    assert said[0] == "1 file added"
    assert len(said) <= 3
    bar = page.get_by_role("progressbar", name="All files", include_hidden=True)
    assert bar.count() == 1


def test_errors_are_heard_at_once(page: Page, uploads: Server) -> None:
    UploadPage(page).open(uploads.url, session(lifetime_seconds=0))
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("has expired")
    field = page.get_by_label("Upload token")
    expect(field).to_have_attribute("aria-invalid", "true")
    described = field.get_attribute("aria-describedby")
    assert "has expired" in page.locator(f"#{described}").inner_text()


def test_who_wants_little_motion_gets_none(open_in: OpenIn) -> None:
    upload_page = open_in(reduced_motion="reduce")
    transitions = upload_page.page.evaluate(
        """() => {
          const root = document.querySelector("longhaul-upload").shadowRoot;
          return [...root.querySelectorAll("*")].map((e) => getComputedStyle(e).transitionDuration);
        }"""
    )
    assert set(transitions) == {"0s"}
