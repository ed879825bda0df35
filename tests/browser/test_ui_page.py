"""The page of `spark-fast ui` in a real browser, with a real server and real runs."""

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from spark_fast import client
from tests.support.child import GATED, LOOP, Child, outcome, until
from tests.support.reloading import Edited
from tests.support.served import Served, opened

pytestmark = pytest.mark.browser

TRACKED = """
import json, sys, time
import spark_fast as spark

print(json.dumps("begins"), flush=True)
for item in spark.track(range(1_000_000), key="item"):
    time.sleep(0.002)
"""
HOSTILE = '<img src=x onerror="window.harmed=1"><script>window.harmed=1</script>'


@pytest.fixture
def edited(tmp_path: Path) -> Iterator[Edited]:
    with Edited(tmp_path, TRACKED) as found:
        found.run()
        yield found


def row(page: Page, run: str = "test") -> Locator:
    """A run's line in the list."""
    return page.locator(f'tr[data-run="{run}"]')


def fate(part: Locator | Page) -> Locator:
    """What became of the request that was sent from this part of the page."""
    return part.locator(".fate").first


def panel(page: Page) -> Locator:
    """The buttons of an open run."""
    return page.locator(".control-panel")


def button(part: Locator | Page, action: str) -> Locator:
    return part.locator(f'[data-action="{action}"]')


def step_of(part: Locator) -> int:
    """The step that a fate names."""
    found = re.search(r"at step ([\d,]+)", part.inner_text())
    assert found is not None, part.inner_text()
    return int(found[1].replace(",", ""))


def part(page: Page, name: str) -> Locator:
    return page.locator(f".{name}-part")


# --- the list ---


def test_an_empty_page_says_what_to_type_and_a_run_shows_up_by_itself(
    browser: Browser, served: Served, tmp_path: Path
) -> None:
    page = opened(browser, served)
    expect(page.get_by_role("heading", name="No runs yet")).to_be_visible()
    expect(page.locator(".empty")).to_contain_text("spark-fast run train.py")
    with Child(tmp_path) as child:
        child.run()
        expect(row(page).locator(".status")).to_have_text("running")
        expect(page.locator(".empty")).to_be_hidden()
        expect(page).to_have_title("1 live run – spark-fast")


def test_each_button_of_the_list_says_what_became_of_it(browser: Browser, served: Served, edited: Edited) -> None:
    page, run = opened(browser, served), edited.run()
    mine = row(page)

    button(mine, "pause").click()
    expect(fate(mine)).to_contain_text("pause: done at step")
    expect(mine.locator(".status")).to_have_text("paused")
    assert step_of(fate(mine)) == run.step

    before = run.step
    button(mine, "advance").click()
    page.get_by_label("Steps").fill("7")
    page.get_by_role("dialog").get_by_role("button", name="Advance").click()
    expect(fate(mine)).to_contain_text("advance 7: done at step")
    assert step_of(fate(mine)) == run.step == before + 7

    button(mine, "resume").click()
    expect(fate(mine)).to_contain_text("resume: done at step")
    edited.steps_on(run)

    edited.edit('"begins"', '"anew"')
    button(mine, "reload").click()
    expect(fate(mine)).to_contain_text("reload: done at step")
    assert edited.says(2) == ["begins", "anew"]

    button(mine, "stop").click()
    expect(page.get_by_role("dialog")).to_contain_text("Stop test?")
    page.get_by_role("button", name="Cancel").click()
    edited.steps_on(run)
    button(mine, "stop").click()
    page.get_by_role("button", name="Stop the run").click()
    expect(page.locator("tbody.past tr")).to_contain_text("stopped")
    assert edited.ended() == 0


def test_a_button_says_why_not(browser: Browser, served: Served, tmp_path: Path) -> None:
    with Child(tmp_path) as child:
        child.run()
        page = opened(browser, served)
        button(row(page), "reload").click()
        expect(fate(row(page))).to_contain_text("reload: refused: ")


def test_a_request_is_asked_until_the_worker_comes_to_it(browser: Browser, served: Served, tmp_path: Path) -> None:
    with Child(tmp_path, GATED) as child:
        child.run()
        page = opened(browser, served)
        button(row(page), "pause").click()
        expect(fate(row(page))).to_have_text("pause: asked…")
        child.go()
        expect(fate(row(page))).to_have_text("pause: done at step 2")


def test_a_worker_that_hangs_is_shown_and_says_for_how_long(browser: Browser, served: Served, tmp_path: Path) -> None:
    with Child(tmp_path, GATED) as child, Child(tmp_path, name="another") as another:
        child.run()
        another.run("another")  # of which there is always news
        page = opened(browser, served)
        expect(row(page).locator(".note")).to_have_text(re.compile(r"no checkpoint for 1\ds"))
        row(page).get_by_role("link").click()
        note = page.locator(".run-title .note")
        expect(note).to_have_text(re.compile(r"no checkpoint for 1\ds"), timeout=2000)
        expect(note).not_to_have_text(note.inner_text())  # it goes on
        # One that is opened later knows as much.
        later = opened(browser, served)
        expect(row(later)).to_be_visible()
        expect(row(later).locator(".note")).to_have_text(re.compile(r"no checkpoint for [1-4]\ds"), timeout=2000)


def test_runs_are_found_and_steered_by_keys(browser: Browser, served: Served, tmp_path: Path) -> None:
    with Child(tmp_path, name="first") as first, Child(tmp_path, name="second") as second:
        page, run = opened(browser, served), first.run("first")
        second.run("second")
        expect(page.locator("tbody tr")).to_have_count(2)
        page.keyboard.press("/")
        page.keyboard.type("first")
        expect(page.locator("tbody tr")).to_have_count(1)
        page.keyboard.press("Tab")
        page.keyboard.press("j")
        expect(row(page, "first").get_by_role("link")).to_be_focused()
        page.keyboard.press("p")
        expect(fate(row(page, "first"))).to_contain_text("pause: done")
        assert run.status == "paused"
        expect(row(page, "first").get_by_role("link")).to_be_focused()
        page.keyboard.press("a")
        page.keyboard.type("3")
        page.keyboard.press("Enter")
        expect(fate(row(page, "first"))).to_contain_text("advance 3: done")
        page.keyboard.press("r")
        expect(fate(row(page, "first"))).to_contain_text("resume: done")
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="first")).to_be_visible()
        page.keyboard.press("?")
        expect(page.get_by_role("dialog")).to_contain_text("this help")
        page.get_by_role("dialog").get_by_label("Single keys do this").click()
        page.keyboard.press("Escape")
        page.keyboard.press("g")
        expect(page.get_by_role("heading", name="first")).to_be_visible()
        page.keyboard.press("?")
        page.get_by_role("dialog").get_by_label("Single keys do this").click()
        page.keyboard.press("Escape")
        page.keyboard.press("g")
        expect(page.get_by_role("heading", name="Runs")).to_be_visible()


def test_the_focus_stays_while_the_numbers_change(browser: Browser, served: Served, tmp_path: Path) -> None:
    with Child(tmp_path) as child:
        run = child.run()
        page = opened(browser, served)
        button(row(page), "pause").focus()
        shown = row(page).locator("[data-name=Step]")
        for _ in range(3):
            before = shown.inner_text()
            expect(shown).not_to_have_text(before)
        expect(button(row(page), "pause")).to_be_focused()
        with Child(tmp_path, name="another") as another:
            another.run("another")
            expect(row(page, "another")).to_be_visible()
            expect(button(row(page), "pause")).to_be_focused()
        page.keyboard.press("Enter")
        expect(fate(row(page))).to_contain_text("pause: done")
        assert run.status == "paused"


def test_ended_runs_can_be_removed(browser: Browser, served: Served, tmp_path: Path) -> None:
    with Child(tmp_path, LOOP.replace("while True", "for _ in range(50)")) as child:
        child.run()
        page = opened(browser, served)
        expect(page.locator("tbody.past tr")).to_contain_text("finished")
        button(page, "clean").click()
        expect(page.locator(".empty")).to_be_visible()
        assert client.runs() == []


# --- a run ---


def test_the_buttons_of_an_open_run(browser: Browser, served: Served, edited: Edited) -> None:
    page, run = opened(browser, served, "test"), edited.run()
    head = panel(page)
    expect(head).to_be_visible()

    page.keyboard.press("p")
    expect(fate(head)).to_contain_text("pause: done at step")
    page.keyboard.press("r")
    expect(fate(head)).to_contain_text("resume: done at step")

    button(head, "pause-at").click()
    target = run.step + 2000
    page.get_by_label(re.compile("At step")).fill(str(target))
    page.get_by_role("dialog").get_by_role("button", name="Pause").click()
    expect(fate(head)).to_have_text(f"pause at step {target:,}: done at step {target:,}")

    button(head, "resume").click()
    expect(fate(head)).to_contain_text("resume: done")
    button(head, "pause-at").click()
    page.get_by_label(re.compile("At step")).fill("none")
    page.get_by_role("dialog").get_by_role("button", name="Pause").click()
    expect(page.get_by_role("dialog")).to_contain_text("none is no number")
    page.get_by_label(re.compile("At step")).fill("")
    page.get_by_label(re.compile("Go on after")).fill("0.5")
    page.get_by_role("dialog").get_by_role("button", name="Pause").click()
    expect(fate(head)).to_contain_text("pause for 0.5 s: done")
    until(lambda: run.status == "running", "it goes on by itself")

    button(head, "reset").click()
    page.get_by_role("button", name="Reset the run").click()
    expect(fate(head)).to_contain_text("reset: refused: ")  # it has no supervisor

    page.keyboard.press("s")
    page.get_by_role("button", name="Stop the run").click()
    expect(page.locator(".run-title .status")).to_have_text("stopped")
    assert edited.ended() == 0
    expect(button(head, "pause")).to_have_attribute("aria-disabled", "true")


def test_a_run_that_is_not_there(browser: Browser, served: Served) -> None:
    page = opened(browser, served, "nobody")
    expect(page.get_by_text("There is no run nobody.")).to_be_visible()


def test_a_broken_edit_is_refused_and_a_good_one_runs(browser: Browser, served: Served, edited: Edited) -> None:
    page = opened(browser, served, "test")
    code = part(page, "code")
    editor = code.locator("textarea")
    expect(editor).to_have_value(edited.source())
    source = edited.source()
    expect(button(code, "push")).to_have_attribute("aria-disabled", "true")

    editor.fill(source.replace("time.sleep(0.002)", "time.sleep(0.002"))
    button(code, "push").click()
    expect(fate(code)).to_contain_text("push: refused: ")
    expect(code.locator(".line-numbers .wrong")).to_have_text(str(source.count("\n")))
    edited.steps_on(edited.run())

    editor.fill(source.replace('"begins"', '"better"'))
    editor.press("Control+Enter")
    expect(fate(code)).to_contain_text("push: done at step")
    assert edited.says(2) == ["begins", "better"]
    assert edited.source() == source
    expect(code.locator(".versions li")).to_have_count(2)
    expect(code.locator(".versions [data-current]")).to_contain_text("version 2")
    expect(code.locator(".diff .added")).to_contain_text('+print(json.dumps("better"), flush=True)')
    expect(part(page, "journal")).to_contain_text("reload 2")

    editor.fill(source.replace('"begins"', '"worse"').replace("time.sleep(0.002)", "raise RuntimeError('no')"))
    button(code, "push").click()
    expect(fate(code)).to_contain_text("push: failed")
    expect(code.locator(".trace")).to_contain_text("RuntimeError: no")
    edited.steps_on(edited.run())

    code.locator(".versions button", has_text="version 1").click()
    expect(code.locator(".diff")).to_contain_text("started with")
    button(code, "back").click()
    expect(fate(code)).to_contain_text("back to 1: done at step")


def test_an_edit_in_the_making_outlives_what_others_push(browser: Browser, served: Served, edited: Edited) -> None:
    page = opened(browser, served, "test")
    code = part(page, "code")
    editor = code.locator("textarea")
    expect(editor).to_have_value(edited.source())
    editor.fill("# mine")
    edited.edit('"begins"', '"theirs"')
    edited.reloaded()
    expect(code).to_contain_text("version 2 runs now; this is based on version 1")
    expect(editor).to_have_value("# mine")
    code.get_by_role("button", name="Take what runs").click()
    expect(editor).to_have_value(edited.source())


def test_the_journal_lists_what_was_asked_and_what_came_of_it(browser: Browser, served: Served, edited: Edited) -> None:
    run = edited.run()
    done = run.pause(timeout=30, resume_after="1h0.5s")
    run.advance(3, timeout=30)
    run.resume(timeout=30)
    refused = outcome(run.reload, "def broken(:", timeout=30)
    assert refused.fate.state == "refused"
    page = opened(browser, served, "test")
    events = part(page, "journal").locator(".event")
    expect(events.locator(".event-title")).to_have_text(["resume", "advance 3", "pause for 1h00m00.5s"])
    expect(events.last).to_contain_text(f"step {done.fate.step:,}")
    expect(events.last).to_contain_text(done.sender)
    run.stop(timeout=30)
    edited.ended()
    expect(events.locator(".event-title")).to_have_text(
        ["stopped", "stop", "resume", "advance 3", "pause for 1h00m00.5s"]
    )


# --- values, functions, plots ---

EXPOSED = """
import json, sys, time
import spark_fast as spark

def evaluate(split: str = "test", limit: int = 100, *, full: bool = False):
    \"""The accuracy on a part of the data.\"""
    print(f"evaluates {limit} of {split}")
    return {"split": split, "limit": limit, "full": full}

def fails(what, *rest, **more):
    raise RuntimeError(f"{what} {rest} {more}")

def halves(value):
    if value > 0.5:
        raise RuntimeError("too much")

state = spark.expose(
    lr=spark.value(0.001, min=0, max=1, doc="The step of the optimizer.", on_set=halves),
    layers=spark.value(4, min=1, max=64),
    momentum=0.9,
    seed=7,
    augment=True,
    schedule=spark.value("cosine", choices=["cosine", "linear"]),
    note="first",
    card={"layers": 12},
    loss=spark.value(0.0, readonly=True, unit="nats"),
    accuracy=spark.value(0.0, readonly=True),
    evaluate=evaluate,
    fails=fails,
)
PAUSE = 0.001
for step in spark.track(range(1_000_000), key="step"):
    state.loss = 2.0 / (1 + step / 1000)
    state.accuracy = 1 - 0.5 / (1 + step / 1000)
    time.sleep(PAUSE)
"""


@pytest.fixture
def exposed(tmp_path: Path) -> Iterator[Edited]:
    with Edited(tmp_path, EXPOSED) as found:
        found.run()
        yield found


def value(page: Page, name: str) -> Locator:
    return page.locator(f'.value[data-value="{name}"]')


def now(name: str) -> object:
    """What the run has."""
    return client.attach("test").values[name].value


def applied(page: Page, name: str, wanted: object) -> None:
    expect(fate(value(page, name))).to_contain_text("applied at step")
    assert now(name) == wanted


def test_each_kind_of_value_has_an_input_that_sets_it(browser: Browser, served: Served, exposed: Edited) -> None:
    page = opened(browser, served, "test")

    lr = value(page, "lr")
    expect(lr).to_contain_text("The step of the optimizer.")
    lr.get_by_label("lr", exact=True).fill("0.25")
    lr.get_by_label("lr", exact=True).press("Enter")
    applied(page, "lr", 0.25)
    lr.get_by_role("slider").focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    until(lambda: 0 < float(str(now("lr"))) < 0.25, "the slider's value")

    layers = value(page, "layers")
    layers.get_by_role("slider").fill("9")
    applied(page, "layers", 9)

    momentum = value(page, "momentum")
    momentum.get_by_label("momentum").fill("0.95")
    momentum.get_by_role("button", name="Set").click()
    applied(page, "momentum", 0.95)

    value(page, "seed").get_by_label("seed").fill("1_000")
    value(page, "seed").get_by_label("seed").press("Enter")
    applied(page, "seed", 1000)

    value(page, "augment").get_by_role("switch").click()
    applied(page, "augment", False)

    value(page, "schedule").get_by_role("combobox").select_option(label="linear")
    applied(page, "schedule", "linear")

    value(page, "note").get_by_label("note").fill("second")
    value(page, "note").get_by_label("note").press("Enter")
    applied(page, "note", "second")

    card = value(page, "card")
    card.get_by_label("card").fill('{"layers": [1, 2]}')
    card.get_by_label("card").press("Control+Enter")
    applied(page, "card", {"layers": [1, 2]})

    expect(value(page, "loss").locator("output")).to_contain_text(re.compile(r"[\d.]+"))
    expect(value(page, "loss").locator("input")).to_have_count(0)
    titles = part(page, "journal").locator(".event-what")
    expect(titles.first).to_have_text('set card to {"layers":[1,2]}')


def test_a_value_that_does_not_fit_is_refused_and_says_why(browser: Browser, served: Served, exposed: Edited) -> None:
    page = opened(browser, served, "test")
    lr = value(page, "lr")
    field = lr.get_by_label("lr", exact=True)
    field.fill("7")
    field.press("Enter")
    expect(fate(lr)).to_contain_text("refused: lr is at most 1")
    expect(field).to_have_value("7")
    expect(field).to_have_attribute("aria-invalid", "true")
    expect(lr.locator(".now")).to_have_text("now 0.001")
    field.fill("0.75")  # on_set raises
    field.press("Enter")
    expect(fate(lr)).to_contain_text("failed")
    expect(lr.locator(".trace")).to_contain_text("too much")
    assert now("lr") == 0.001

    seed = value(page, "seed")
    seed.get_by_label("seed").fill("many")
    seed.get_by_label("seed").press("Enter")
    expect(fate(seed)).to_contain_text("many is no number")
    expect(seed.get_by_label("seed")).to_have_attribute("aria-invalid", "true")
    seed.get_by_label("seed").press("Escape")
    expect(seed.get_by_label("seed")).to_have_value("7")
    expect(fate(seed)).to_be_hidden()

    card = value(page, "card")
    card.get_by_label("card").fill("{")
    card.get_by_role("button", name="Set").click()
    expect(fate(card)).to_contain_text("no JSON")
    assert now("seed") == 7
    assert now("card") == {"layers": 12}


def test_what_a_person_types_is_never_overwritten(browser: Browser, served: Served, exposed: Edited) -> None:
    run, page = exposed.run(), opened(browser, served, "test")
    field = value(page, "momentum").get_by_label("momentum")
    field.fill("0.12")
    run.set("momentum", 0.5, timeout=30)
    expect(value(page, "momentum").locator(".now")).to_have_text("now 0.5")
    expect(field).to_have_value("0.12")
    field.blur()
    run.set("momentum", 0.6, timeout=30)
    expect(value(page, "momentum").locator(".now")).to_have_text("now 0.6")
    expect(field).to_have_value("0.12")
    field.press("Escape")
    expect(field).to_have_value("0.6")
    field.blur()
    run.set("momentum", 0.7, timeout=30)
    expect(field).to_have_value("0.7")


def test_a_paused_run_takes_values_and_calls(browser: Browser, served: Served, exposed: Edited) -> None:
    run, page = exposed.run(), opened(browser, served, "test")
    run.pause(timeout=30)
    field = value(page, "momentum").get_by_label("momentum")
    field.fill("0.3")
    field.press("Enter")
    applied(page, "momentum", 0.3)
    form = page.locator('[data-function="evaluate"]')
    form.get_by_role("button", name="Call").click()
    expect(form.locator(".call-result pre")).to_contain_text('"split": "test"')


def test_a_function_is_a_form_and_shows_what_came_of_it(browser: Browser, served: Served, exposed: Edited) -> None:
    page = opened(browser, served, "test")
    form = page.locator('[data-function="evaluate"]')
    expect(form).to_contain_text("The accuracy on a part of the data.")
    form.get_by_label(re.compile("^limit")).fill("many")
    form.get_by_role("button", name="Call").click()
    expect(form.get_by_role("alert").filter(has_text="many is no number")).to_be_visible()
    form.get_by_label(re.compile("^limit")).fill("7")
    form.get_by_label(re.compile("^full")).select_option("true")
    form.get_by_role("button", name="Call").click()
    expect(fate(form)).to_contain_text("done at step")
    result = form.locator(".call-result pre")
    expect(result).to_be_visible()
    assert json.loads(result.inner_text()) == {"split": "test", "limit": 7, "full": True}
    expect(form.locator(".call-output pre")).to_have_text("evaluates 7 of test\n")

    form = page.locator('[data-function="fails"]')
    form.get_by_role("button", name="Call").click()
    expect(form.get_by_role("alert").filter(has_text="this one is needed")).to_be_visible()
    form.get_by_label(re.compile("^what")).fill("word")
    form.get_by_label(re.compile(r"^\*rest")).fill("[1, 2]")
    form.get_by_label(re.compile(r"^\*\*more")).fill('{"a": null}')
    form.get_by_role("button", name="Call").click()
    expect(fate(form)).to_contain_text("RuntimeError: word (1, 2) {'a': None}")
    expect(form.locator(".trace")).to_contain_text("in fails")
    exposed.steps_on(exposed.run())


PLOTTED = "node => node.data.map(({x}) => [x[0], x.at(-1), x.length])"


def test_a_plot_shows_the_whole_run(browser: Browser, served: Served, exposed: Edited) -> None:
    exposed.edit("PAUSE = 0.001", "PAUSE = 0")
    exposed.reloaded()
    run = exposed.run()
    until(lambda: run.step > 10_000, "10,000 steps")
    run.pause(timeout=30)
    page = opened(browser, served, "test")
    plot = page.locator('[data-plot="loss"]')
    area = plot.locator(".plot-area")
    expect(plot.locator(".main-svg").first).to_be_visible()
    heard = re.compile(r"loss from step \d\d? to 1\d,\d{3}: lowest 0.1\d+, highest [12]\b")
    expect(area).to_have_attribute("aria-label", heard)
    line = area.evaluate(PLOTTED)[-1]
    assert 0 < line[0] < 100  # what it was exposed with is left out
    assert line[1] >= 10_000
    assert line[2] > 100

    plot.get_by_label("Another value in the plot of loss").select_option("accuracy")
    expect(plot.locator(".legend-entry")).to_have_count(2)
    until(lambda: len(area.evaluate(PLOTTED)) >= 2 and area.evaluate("node => node.data.length") % 2 == 0, "two lines")
    plot.get_by_label("log").check()
    until(lambda: area.evaluate("node => node.layout.yaxis.type") == "log", "a logarithmic axis")
    # A vertical line for what was asked: the reload, and the pause.
    until(lambda: area.evaluate("node => node.layout.shapes.length") >= 2, "the marks of the journal")
    assert run.step in area.evaluate("node => node.layout.shapes.map((shape) => shape.x0)")

    plot.scroll_into_view_if_needed()
    box = area.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 60)
    expect(plot.locator(".legend-step")).to_have_text(re.compile(r"step [\d,]+"))
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2 + 100, box["y"] + 62, steps=4)
    page.mouse.up()
    expect(plot.get_by_role("button", name="Whole run")).to_be_visible()
    plot.get_by_role("button", name="Whole run").click()
    expect(plot.get_by_role("button", name="Whole run")).to_be_hidden()

    # What was chosen is there the next time.
    page.reload()
    expect(plot.locator(".legend-entry")).to_have_count(2)
    expect(plot.get_by_label("log")).to_be_checked()
    plot.get_by_role("button", name="Take accuracy out").click()
    expect(plot.locator(".legend-entry")).to_have_count(1)


def test_a_plot_grows_with_the_run_and_keeps_what_was_zoomed(browser: Browser, served: Served, exposed: Edited) -> None:
    page = opened(browser, served, "test")
    area = page.locator('[data-plot="loss"] .plot-area')
    expect(area.locator(".main-svg").first).to_be_visible()
    last = area.evaluate(PLOTTED)[-1][1]
    until(lambda: area.evaluate(PLOTTED)[-1][1] > last, "it grows")
    area.evaluate("node => Plotly.relayout(node, {'xaxis.range': [10, 50]})")
    last = area.evaluate(PLOTTED)[-1][1]
    until(lambda: area.evaluate(PLOTTED)[-1][1] > last, "it grows")
    assert area.evaluate("node => node.layout.xaxis.range") == [10, 50]


def test_plots_need_no_inline_style(browser: Browser, served: Served, exposed: Edited) -> None:
    """The policy allows none: what the library needs goes into a style sheet of the page's own."""
    page = opened(browser, served, "test")
    area = page.locator('[data-plot="loss"] .plot-area')
    expect(area.locator(".main-svg").first).to_be_visible()
    assert area.locator(".main-svg").first.evaluate("node => getComputedStyle(node).position") == "absolute"
    policy = page.request.get(page.url.split("#")[0]).headers["content-security-policy"]
    assert "unsafe" not in policy


FIFTY = """
import spark_fast as spark

names = [f"value{number:02}" for number in range(50)]
state = spark.expose({name: 0.0 for name in names})
for step in range(20_000):
    for name in names:
        setattr(state, name, float(step % 97))
    spark.checkpoint()
spark.checkpoint()
while True:
    spark.checkpoint()
    __import__("time").sleep(0.01)
"""


def test_a_run_of_fifty_values_shows_them_all_and_the_curves_in_view(
    browser: Browser, served: Served, tmp_path: Path
) -> None:
    with Child(tmp_path, FIFTY) as child:
        run = child.run()
        until(lambda: run.step > 20_000, "its histories are full")
        page = opened(browser, served)
        expect(row(page)).to_be_visible()
        until(lambda: page.evaluate("'Plotly' in window"), "the plot library has come")
        # All values, and a curve in each plot that is in view.
        page.evaluate("""() => {
            const seen = (plot) => plot.getBoundingClientRect().top < innerHeight;
            const drawn = (plot) => "sketched" in plot.dataset || plot.querySelector(".main-svg");
            window.there = () => document.querySelectorAll(".value").length === 50
                && [...document.querySelectorAll(".plot")].filter(seen).every(drawn);
        }""")
        row(page).get_by_role("link").click()
        until(lambda: page.evaluate("window.there()"), "all is there")


# --- two of them, and none ---


def test_two_pages_see_what_either_asks(browser: Browser, served: Served, edited: Edited) -> None:
    one, other = opened(browser, served, "test"), opened(browser, served)
    button(panel(one), "pause").click()
    expect(row(other).locator(".status")).to_have_text("paused")
    button(row(other), "resume").click()
    expect(one.locator(".run-title .status")).to_have_text("running")
    expect(part(one, "journal").locator(".event-title")).to_have_text(["resume", "pause"])


def test_a_page_says_that_it_has_lost_the_server_and_catches_up(
    browser: Browser, served: Served, tmp_path: Path
) -> None:
    with Child(tmp_path) as child:
        run = child.run()
        page = opened(browser, served)
        expect(row(page).locator(".status")).to_have_text("running")
        port = served.port
        served.end()
        expect(page.get_by_role("alert").filter(has_text="Lost the server")).to_be_visible()
        button(row(page), "pause").click()
        expect(fate(row(page))).to_contain_text("not sent: the server does not answer")
        run.pause(timeout=30)
        with Served(tmp_path / "ui", port) as another:
            # The server was started anew, and its token is another. The page says so, and sends the old one no more.
            expect(page.locator("#lost-words")).to_contain_text("does not know this page's token")
            fresh = page.context.new_page()
            fresh.goto(another.address)
            expect(page.locator("#lost")).to_be_hidden()
            expect(row(page).locator(".status")).to_have_text("paused")


def test_a_server_that_says_nothing_is_lost_too(browser: Browser, served: Served, tmp_path: Path) -> None:
    page = opened(browser, served)
    expect(page.locator(".empty")).to_be_visible()
    served.process.send_signal(signal.SIGSTOP)
    expect(page.get_by_role("alert").filter(has_text="Lost the server")).to_be_visible(timeout=40_000)
    served.process.send_signal(signal.SIGCONT)
    expect(page.locator("#lost")).to_be_hidden()


# --- hostile texts, and how it looks ---


def test_texts_of_a_run_are_text(browser: Browser, served: Served, tmp_path: Path) -> None:
    with Child(tmp_path, LOOP, HOSTILE) as child:
        child.run()
        page = opened(browser, served)
        expect(row(page).locator(".command")).to_contain_text(HOSTILE.split('"')[0])
        page.goto(f"{page.url.split('#')[0]}#/runs/test")
        expect(page.locator(".run-command")).to_contain_text("<script>")
        page.wait_for_timeout(300)
        assert page.evaluate("window.harmed") is None


def test_a_run_of_a_hostile_name_harms_nobody(browser: Browser, served: Served) -> None:
    """No run can be called so. If one could, the page would show it."""
    run = {
        "id": HOSTILE,
        "status": "running",
        "step": 3,
        "steps_per_second": 1.0,
        "progress": None,
        "started": 0,
        "ended": None,
        "command": [HOSTILE],
        "folder": HOSTILE,
        "resumes": None,
        "ranks": [{"rank": 0, "status": "running", "step": 3, "pid": 1, "host": HOSTILE}],
        "memory": None,
        "since_checkpoint": 0,
    }
    value = {"name": HOSTILE, "value": HOSTILE, "type": "text", "step": 1, "time": 0, "readonly": True, "unit": HOSTILE}
    value |= {"min": None, "max": None, "step_size": None, "choices": None, "doc": HOSTILE}
    function = {"name": HOSTILE, "doc": HOSTILE, "signature": f"({HOSTILE})", "parameters": []}
    fate = {"state": "failed", "step": 1, "by": None, "reason": HOSTILE, "final": True}
    request = {"id": "1", "kind": "set", "name": HOSTILE, "sender": HOSTILE, "asked": 0, "version": None, "fate": fate}
    detail = run | {"values": [value], "functions": [function], "requests": [request], "version": None}
    events = [
        f"event: runs\ndata: {json.dumps({'runs': [run], 'gone': [], 'full': True, 'error': HOSTILE})}\n\n",
        f"event: run\ndata: {json.dumps(detail | {'full': True, 'gone': False, 'reloadable': False})}\n\n",
    ]
    context = browser.new_context()
    context.route("**/api/stream*", lambda route: route.fulfill(content_type="text/event-stream", body="".join(events)))
    page = context.new_page()
    page.goto(served.address)
    expect(page.get_by_role("link", name=HOSTILE)).to_be_visible()
    page.get_by_role("link", name=HOSTILE).click()
    expect(page.get_by_role("heading", name=HOSTILE).first).to_be_visible()
    expect(part(page, "values")).to_contain_text(HOSTILE)
    expect(part(page, "functions")).to_contain_text(HOSTILE)
    expect(part(page, "journal")).to_contain_text(HOSTILE)
    page.wait_for_timeout(300)
    assert page.evaluate("window.harmed") is None


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 800, 1400])
def test_nothing_is_wider_than_the_screen(
    browser: Browser, served: Served, edited: Edited, width: int, scheme: str
) -> None:
    page = opened(browser, served, viewport={"width": width, "height": 800}, color_scheme=scheme)
    expect(row(page)).to_be_visible()
    wide = "document.documentElement.scrollWidth"
    assert page.evaluate(wide) <= width
    row(page).get_by_role("link").click()
    expect(part(page, "code").locator("textarea")).not_to_be_empty()
    assert page.evaluate(wide) <= width


def test_a_page_that_is_made_narrow_is_no_wider_than_its_screen(
    browser: Browser, served: Served, exposed: Edited
) -> None:
    page = opened(browser, served, viewport={"width": 1300, "height": 3000})
    row(page).get_by_role("link").click()
    expect(page.locator(".plot .main-svg").first).to_be_visible()
    expect(page.locator(".plot").last.locator(".main-svg").first).to_be_visible()
    page.set_viewport_size({"width": 390, "height": 700})  # most plots are out of sight now
    expect(page.locator(".plot .main-svg").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_screen_reader_hears_what_became_of_a_request(browser: Browser, served: Served, edited: Edited) -> None:
    page = opened(browser, served)
    button(row(page), "pause").click()
    expect(page.locator("#polite[aria-live]")).to_contain_text(re.compile(r"test: pause done at step \d+"))


def test_a_screen_reader_is_not_told_of_each_number(browser: Browser, served: Served, exposed: Edited) -> None:
    page = opened(browser, served, "test")
    expect(value(page, "loss")).to_be_visible()
    live = """() => [...document.querySelectorAll("main output, main [aria-live], main [role=status]")]
        .filter((node) => node.ariaLive !== "off").map((node) => node.outerHTML)"""
    assert page.evaluate(live) == []


def test_every_input_and_button_has_a_name(browser: Browser, served: Served, edited: Edited) -> None:
    page = opened(browser, served)
    expect(row(page)).to_be_visible()
    nameless = """() => [...document.querySelectorAll("button, input, select, textarea, a")]
        .filter((node) => !(node.textContent.trim() || node.ariaLabel || node.labels?.length))
        .map((node) => node.outerHTML)"""
    assert page.evaluate(nameless) == []
    row(page).get_by_role("link").click()
    expect(part(page, "code").locator("textarea")).not_to_be_empty()
    assert page.evaluate(nameless) == []


# --- a run that failed, or is paused after an error ---


LATE_ERROR = """
import time
import spark_fast as spark
model = spark.persist("model", dict)
for epoch in spark.track(range(100), key="epoch"):
    for batch in spark.track(range(5), key="batch"):
        time.sleep(0.01)
    print(best_of(epoch))
"""


def test_the_page_says_why_a_run_is_paused_after_an_error(browser: Browser, served: Served, tmp_path: Path) -> None:
    with Edited(tmp_path, LATE_ERROR, SPARK_FAST_ON_ERROR="park") as training:
        run = training.run()
        until(lambda: run.error is not None and run.status == "paused", training.err)
        expect(opened(browser, served).locator(".runs .note")).to_have_text("NameError: name 'best_of' is not defined")
        page = opened(browser, served, "test")
        expect(page.locator(".run-error .error-words")).to_contain_text("Paused after an error")
        expect(page.locator(".run-error .error-words")).to_contain_text("NameError: name 'best_of' is not defined")
        expect(page.locator(".run-error .trace")).to_contain_text("line 7, in <module>")
        expect(page.locator(".run-error .trace")).to_be_visible()
        expect(page.locator(".journal-part")).to_contain_text("NameError: name 'best_of' is not defined")
        training.edit("best_of(epoch)", "epoch")
        training.reloaded()
        expect(page.locator(".run-error")).to_be_hidden()


def test_the_page_says_why_a_run_failed(browser: Browser, served: Served, tmp_path: Path) -> None:
    with Edited(tmp_path, LATE_ERROR) as training:
        assert training.ended() == 1
        page = opened(browser, served, "test")
        expect(page.locator(".run-error .error-words")).to_have_text(
            re.compile("^Failed at step [0-9]+: NameError: name 'best_of' is not defined.$")
        )
