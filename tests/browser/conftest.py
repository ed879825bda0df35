"""The browser, and the page of `spark-fast ui` that it shows.

The tiers without a browser load this file, too, so it imports Playwright where a test needs it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from tests.support.served import Served


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    """Yield a browser, which a module's tests share."""
    from playwright.sync_api import expect, sync_playwright

    from tests.support.served import launch

    expect.set_options(timeout=15_000)
    with sync_playwright() as playwright:
        found = launch(playwright)
        yield found
        found.close()


@pytest.fixture(autouse=True)
def pages(request: pytest.FixtureRequest) -> Iterator[None]:
    """Close the pages of a test with it. None of them may have raised an exception."""
    if "browser" not in request.fixturenames:
        yield
        return
    from tests.support.served import errors

    browser: Browser = request.getfixturevalue("browser")
    errors.clear()
    yield
    for context in browser.contexts:
        context.close()
    assert errors == []


@pytest.fixture
def served(home: Path, tmp_path: Path) -> "Iterator[Served]":
    """Yield a server of the page, in a process of its own."""
    from tests.support.served import Served

    with Served(tmp_path / "ui") as found:
        yield found
