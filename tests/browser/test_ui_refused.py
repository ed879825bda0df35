"""The page where something did not go as asked: a reload that would start over, a stop that a loop swallowed."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.process.test_stop_told import SWALLOWS
from tests.support.child import Child, until
from tests.support.reloading import Edited
from tests.support.served import Served, opened
from tests.support.ui_support import FORGETFUL

pytestmark = pytest.mark.browser


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Edited]:
    """A training that keeps nothing, so that a reload would start it over."""
    with Edited(tmp_path, FORGETFUL) as found:
        found.says(40)
        yield found


def starts_over(part: Locator | Page, page: Page) -> None:
    """Take the choice that is offered there, and mean it."""
    part.locator('[data-action="start-over"]').click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Start test over?")
    dialog.get_by_role("button", name="Start over").click()
    expect(part.locator(".fate").first).to_contain_text("start over: done at step")
    expect(part.locator('[data-action="start-over"]')).to_be_hidden()


@pytest.mark.parametrize("place", ["list", "run"])
def test_a_reload_that_would_start_over_offers_to_do_so(
    browser: Browser, served: Served, bare: Edited, place: str
) -> None:
    page = opened(browser, served, None if place == "list" else "test")
    part = page.locator('tr[data-run="test"]' if place == "list" else ".control-panel")
    bare.edit('"old"', '"new"')
    part.locator('[data-action="reload"]').click()
    expect(part.locator(".fate").first).to_contain_text("reload: refused at step")
    part.locator('[data-action="start-over"]').click()
    page.get_by_role("button", name="Cancel").click()
    assert not [line for line in bare.said if line[0] == "new"]
    starts_over(part, page)
    until(lambda: ["new", 0, 1] in bare.said, bare.err)


def test_pushed_code_that_would_start_over_can_be_pushed_so(browser: Browser, served: Served, bare: Edited) -> None:
    page = opened(browser, served, "test")
    code = page.locator(".code-part")
    editor = code.locator("textarea")
    expect(editor).to_have_value(re.compile('"old"'))
    editor.fill(editor.input_value().replace('"old"', '"pushed"'))
    code.locator('[data-action="push"]').click()
    expect(code.locator(".fate").first).to_contain_text("push: refused at step")
    starts_over(code, page)
    until(lambda: ["pushed", 0, 1] in bare.said, bare.err)
    expect(code.locator('[data-action="push"]')).to_have_attribute("aria-disabled", "true")


def test_a_refusal_with_another_remedy_offers_no_start(browser: Browser, served: Served, tmp_path: Path) -> None:
    with Child(tmp_path) as child:
        child.run()
        page = opened(browser, served)
        row = page.locator('tr[data-run="test"]')
        row.locator('[data-action="reload"]').click()
        expect(row.locator(".fate").first).to_contain_text("reload: refused: ")
        expect(row.locator('[data-action="start-over"]')).to_be_hidden()


def test_a_stop_that_the_loop_swallowed_is_shown(browser: Browser, served: Served, tmp_path: Path) -> None:
    with Child(tmp_path, SWALLOWS) as child:
        run = child.run()
        page = opened(browser, served)
        note = page.locator('tr[data-run="test"] .note')
        expect(page.locator('tr[data-run="test"]')).to_be_visible()
        expect(note).to_be_hidden()
        run.stop(wait=False)
        expect(note).to_have_text(re.compile(r"swallowed the stop at step [\d,]+"))
        page.locator("a.run-name").click()
        expect(page.locator(".run-title .note")).to_contain_text("swallowed the stop")
        child.go()
        child.ended()
        expect(page.locator(".run-title .note")).to_be_hidden()
