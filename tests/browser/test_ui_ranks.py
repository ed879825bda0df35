"""What the API and the page say of a run of several ranks, with real processes."""

import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from spark_fast import client
from spark_fast.client.send import ask
from spark_fast.request import Kind
from spark_fast.ui import metrics
from spark_fast.ui.polling import RANKS_MAX
from spark_fast.ui.views import listed_view, present_view
from tests.browser.test_ui_page import button, fate, panel, part, row
from tests.support import served as pages
from tests.support import ui_support as api
from tests.support.child import DEADLINE, Child, until
from tests.support.job import Job
from tests.support.served import opened

pytestmark = pytest.mark.browser


@pytest.fixture
def server(home: Path) -> Iterator[api.Served]:
    with api.served() as found:
        yield found


@pytest.fixture
def job(home: Path, tmp_path: Path) -> Iterator[Job]:
    with Job(tmp_path / "job") as found:
        found.run()
        yield found


# --- the API ---


def rank_of(server: api.Served, rank: int) -> dict[str, Any]:
    found: dict[str, Any] = server.get("/api/runs/job")["ranks"][rank]
    return found


def test_each_rank_is_told_with_what_is_wrong_with_it(server: api.Served, job: Job) -> None:
    run = client.attach("job")
    run.pause(timeout=DEADLINE)
    paused = time.time()
    found = server.get("/api/runs/job")
    assert (found["world_size"], found["local_world_size"], found["stop_by"]) == (3, 3, None)
    for rank in found["ranks"]:
        since = rank.pop("since")
        assert paused - DEADLINE < since <= paused
    pids = [job.ranks[rank].pid for rank in range(3)]
    quiet = {
        "status": "paused",
        "step": run.step,
        "host": run.ranks[0].host,
        "behind": 0,
        "overdue": 0.0,
        "trouble": "",
    }
    assert found["ranks"] == [quiet | {"rank": rank, "pid": pid} for rank, pid in enumerate(pids)]
    job.kill(1)
    died = time.time()
    lost = until(lambda: (each := rank_of(server, 1))["trouble"] == "lost" and each)
    assert died - 1 <= lost["since"] < died + DEADLINE
    assert server.get("/api/runs/job")["status"] == "paused"


def test_a_stream_tells_each_second_for_how_long_a_rank_has_not_come(
    server: api.Served, home: Path, tmp_path: Path
) -> None:
    # While they save, the others publish nothing.
    with Job(tmp_path / "job", SAVING="60") as job, server.stream("job") as stream:
        job.run()
        job.hang(2)
        server.post("/api/runs/job/stop")
        for wanted in (2.0, 3.0, 4.0):

            def overdue(name: str, data: Any, wanted: float = wanted) -> bool:
                ranks = data.get("ranks") if name == "run" else None
                # Only those that have changed are sent.
                return bool(ranks) and any(each["rank"] == 2 and each["overdue"] == wanted for each in ranks)

            data = stream.until(overdue)
            assert [(each["rank"], each["trouble"]) for each in data["ranks"]] == [(2, "overdue")]

        def listed(name: str, data: Any) -> bool:
            late = {"trouble": "overdue", "count": 1, "first": [2]}
            return name == "runs" and any(late in run["present"]["troubles"] for run in data["runs"])

        stream.until(listed)


def test_the_list_of_runs_says_of_ranks_no_more_than_it_shows(server: api.Served, job: Job) -> None:
    with server.stream("job") as stream:
        whole = stream.until(lambda name, data: name == "run" and data["full"])
        assert [rank["rank"] for rank in whole["ranks"]] == [0, 1, 2]
        assert whole["present"] == {"ranks": 3, "live": 3, "hosts": 1, "troubles": []}
        job.kill(1)
        lost = {"ranks": 3, "live": 2, "hosts": 1, "troubles": [{"trouble": "lost", "count": 1, "first": [1]}]}

        def listed(name: str, data: Any) -> bool:
            return name == "runs" and any(run["present"] == lost for run in data["runs"])

        (run,) = stream.until(listed)["runs"]
        assert "ranks" not in run
    assert [each["trouble"] for each in server.get("/api/runs")["runs"][0]["ranks"]] == ["", "lost", ""]
    assert server.get("/api/runs/job")["present"] == lost


def test_what_is_wrong_with_many_ranks_is_a_number_and_the_first_of_them() -> None:
    ranks = [
        {"rank": n, "status": "lost" if n % 2 else "running", "host": f"h{n % 4}", "trouble": "lost" if n % 2 else ""}
        for n in range(1024)
    ]
    ranks[8] |= {"trouble": "overdue"}
    ranks[10] |= {"status": "unheard", "trouble": "unheard"}
    found = present_view(ranks)
    assert found == {
        "ranks": 1024,
        "live": 511,
        "hosts": 4,
        "troubles": [
            {"trouble": "lost", "count": 512, "first": [1, 3, 5]},
            {"trouble": "unheard", "count": 1, "first": [10]},
            {"trouble": "overdue", "count": 1, "first": [8]},
        ],
    }
    assert listed_view({"id": "job", "ranks": ranks, "present": found}) == {"id": "job", "present": found}


# --- metrics ---


def metrics_of(server: api.Served, *, of: str = "spark_fast_rank") -> dict[str, float]:
    answer = server.api.get("/metrics")
    assert answer.status_code == 200, answer.text
    text = answer.text
    samples = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
    for name, _ in samples:
        assert text.count(f"# TYPE {name.partition('{')[0]} ") == 1
    return {name: float(value) for name, value in samples if name.startswith(of)}


def test_metrics_tell_of_each_rank_whether_it_lives_and_goes_on(server: api.Served, job: Job, tmp_path: Path) -> None:
    with Child(tmp_path / "alone", api.EXPOSING, name="alone") as child:
        child.run("alone")
        # A collection shares the look that was made for another a quarter of a second ago.
        steps_of = ['spark_fast_steps_total{run="alone"}', 'spark_fast_ranks_step_min{run="job"}']
        found = until(
            lambda: each if (each := metrics_of(server, of="")).keys() >= {*steps_of} else None,
            "the metrics of both",
        )
        assert not any(name.startswith("spark_fast_rank") and 'run="alone"' in name for name in found)
    assert found['spark_fast_ranks_world_size{run="job"}'] == found['spark_fast_ranks_alive{run="job"}'] == 3
    assert found['spark_fast_ranks_overdue{run="job"}'] == 0
    steps = [found[f'spark_fast_rank_step{{run="job",rank="{rank}"}}'] for rank in range(3)]
    assert found['spark_fast_ranks_step_min{run="job"}'] == min(steps) > 0
    assert found['spark_fast_ranks_step_max{run="job"}'] == max(steps)
    job.hang(2)
    job.kill(1)
    client.attach("job").pause(wait=False)
    age = 'spark_fast_rank_since_checkpoint_seconds{{run="job",rank="{}"}}'.format
    found = until(lambda: (each := metrics_of(server))['spark_fast_ranks_overdue{run="job"}'] == 1 and each)
    aged = until(lambda: (each := metrics_of(server))[age(2)] > 1.0 and each)
    assert age(1) not in aged
    assert [found[f'spark_fast_rank_alive{{run="job",rank="{rank}"}}'] for rank in range(3)] == [1, 0, 1]
    assert found['spark_fast_ranks_alive{run="job"}'] == 2
    assert found['spark_fast_rank_step{run="job",rank="1"}'] > 0


def test_metrics_of_more_ranks_than_may_be_listed_are_sums() -> None:
    def summary(count: int) -> dict[str, Any]:
        ranks = [
            {"rank": n, "status": "running", "step": 5 + n, "overdue": 0.0, "host": "h", "trouble": ""}
            for n in range(count)
        ]
        return {
            "id": "job",
            "world_size": count,
            "local_world_size": count,
            "ranks": ranks,
            "present": present_view(ranks),
        }

    assert 'spark_fast_ranks_step_max{run="job"} 1028' in [*metrics._lines_of_jobs([summary(1024)])]
    heads = [*metrics._lines_of_ranks([summary(RANKS_MAX + 1)], {"job": {}})]
    assert all(line.startswith("#") for line in heads)
    lines = [*metrics._lines_of_ranks([summary(RANKS_MAX)], {"job": {}})]
    assert len(lines) - len(heads) == 2 * RANKS_MAX


def test_metrics_say_nothing_of_a_rank_that_is_not_heard_but_that() -> None:
    ranks = [
        {"rank": n, "status": "unheard" if n else "running", "step": 5, "overdue": 0.0, "host": "h", "trouble": ""}
        for n in range(2)
    ]
    summary = {"id": "job", "world_size": 2, "local_world_size": 1, "ranks": ranks, "present": present_view(ranks)}
    sums = [*metrics._lines_of_jobs([summary])]
    assert {'spark_fast_ranks_alive{run="job"} 1', 'spark_fast_ranks_unheard{run="job"} 1'} <= {*sums}
    lines = [*metrics._lines_of_ranks([summary], {"job": {}})]
    assert not any('rank="1"' in line for line in lines) and any('rank="0"' in line for line in lines)


def test_a_call_names_its_ranks_and_gives_what_each_returned(server: api.Served, job: Job) -> None:
    path = "/api/runs/job/calls/evaluate"
    request = server.post(path, {"kwargs": {"split": "val"}, "ranks": "all", "timeout": 20})
    assert request["fate"]["state"] == "applied" and request["ranks"] == "all"
    assert request["result"] == {str(rank): {"rank": rank, "split": "val"} for rank in range(3)}
    assert request["output"] == "".join(f"rank {rank} evaluates val\n" for rank in range(3))
    assert server.post(path, {"ranks": 2.0, "timeout": 20})["result"] == {"rank": 2, "split": "test"}
    first = server.post(path, {"timeout": 20})
    assert (first["ranks"], first["result"]) == (0, {"rank": 0, "split": "test"})
    assert [each["ranks"] for each in server.get("/api/runs/job")["requests"]] == ["all", 2, 0]


def test_a_function_says_which_ranks_call_it_where_the_caller_does_not(server: api.Served, job: Job) -> None:
    assert {each["name"]: each["ranks"] for each in server.get("/api/runs/job")["functions"]} == {
        "evaluate": 0,
        "broken": 0,
        "gather": "all",
    }
    path = "/api/runs/job/calls/gather"
    for body in ({}, {"ranks": None}, {"ranks": "all"}):
        found = server.post(path, body | {"timeout": 20})
        assert (found["ranks"], list(found["result"])) == ("all", ["0", "1", "2"])
    for rank in (0, 2):
        found = server.post(path, {"ranks": rank, "timeout": 20})
        assert (found["ranks"], found["result"]) == (rank, {"rank": rank, "split": "test"})


@pytest.mark.parametrize("ranks", [-1, 1.5, "some", True, [0]])
def test_ranks_that_are_none_are_refused(server: api.Served, job: Job, ranks: object) -> None:
    answer = server.api.post("/api/runs/job/calls/evaluate", json={"ranks": ranks})
    assert answer.status_code == 422 and answer.json()["error"]
    assert client.attach("job").requests == []


def test_a_rank_that_is_not_there_can_not_be_called(server: api.Served, job: Job) -> None:
    answer = server.api.post("/api/runs/job/calls/evaluate", json={"ranks": 7})
    assert (answer.status_code, answer.json()["error"]) == (422, "rank 7 is not there; there are 0-2")


def test_when_a_stop_is_over_is_told(server: api.Served, home: Path, tmp_path: Path) -> None:
    with Job(tmp_path / "job", SAVING="30") as job:
        run = job.run()
        ask(run._connection, Kind.STOP, False, DEADLINE, duration=90.0)
        by = until(lambda: next((each["stop_by"] for each in server.get("/api/runs")["runs"]), None))
        assert by == server.get("/api/runs/job")["stop_by"] == run.stop_by


# --- the page ---


def lines(page: Page) -> Locator:
    return part(page, "ranks").locator("tbody tr")


def texts(line: Locator) -> list[str]:
    """Rank, status, step, process and note of a line of the table."""
    cells = line.locator("th, td").all_inner_texts()
    return [cells[at] for at in (0, 1, 3, 4, 6)]


def test_the_table_of_ranks_says_since_when_and_what_is_wrong(browser: Browser, served: pages.Served, job: Job) -> None:
    run = client.attach("job")
    page = opened(browser, served, "job")
    heads = part(page, "ranks").locator("thead th")
    expect(heads).to_have_text(["Rank", "Status", "For", "Step", "Process", "Host", "Note"])
    expect(part(page, "ranks").locator(".hint")).to_have_text("3 of 3 are there.")
    job.kill(1)
    expect(lines(page).nth(1)).to_contain_text("lost")
    lost = run.ranks[1]
    clock = time.strftime("%H:%M:%S", time.localtime(lost.since))
    note = f"lost since {clock}, last seen at step {lost.step:,}"
    assert texts(lines(page).nth(1)) == ["1", "lost", f"{lost.step:,}", str(lost.pid), note]
    expect(part(page, "ranks").locator(".hint")).to_have_text("2 of 3 are there.")
    head = page.locator(".run-title")
    expect(head.locator(".status")).to_have_text("running")
    # On a busy machine another one may be behind.
    expect(head.locator(".note")).to_have_text(re.compile(r"^rank 1 lost(, ranks? [02, ]+ behind)?$"))

    job.hang(2)
    button(panel(page), "pause").click()
    late = re.compile(
        r"not come to a request that was asked (\d+)s ago, and others have: it hangs, or its step takes long"
    )
    cell = lines(page).nth(2).locator("td").last
    expect(cell).to_have_text(late)
    expect(head.locator(".note")).to_have_text("rank 1 lost, rank 2 late")
    before = cell.inner_text()
    expect(cell).not_to_have_text(before)  # it counts on
    expect(lines(page).nth(0).locator(".status")).to_have_text("paused")
    expect(part(page, "journal").locator(".event").first).to_contain_text("pause asked…")
    job.ranks[2].process.send_signal(signal.SIGCONT)
    expect(fate(panel(page))).to_contain_text("pause: done at step")
    expect(cell).to_have_text("")
    expect(part(page, "journal").locator(".event").first).not_to_contain_text("asked")


def test_a_rank_that_is_behind_is_shown(browser: Browser, served: pages.Served, job: Job) -> None:
    page = opened(browser, served, "job")
    expect(lines(page)).to_have_count(3)
    job.hang(0)
    expect(lines(page).nth(0).locator("td").last).to_have_text(re.compile(r"[\d,]+ steps behind"))
    expect(page.locator(".run-title .note")).to_have_text(re.compile(r"^ranks? 0(-1|, 2)? behind$"))


def test_the_list_says_how_many_ranks_there_are_and_which_is_lost(
    browser: Browser, served: pages.Served, job: Job, tmp_path: Path
) -> None:
    with Child(tmp_path / "alone", name="alone") as child:
        child.run("alone")
        page = opened(browser, served)
        cell = row(page, "job").locator("[data-name=Ranks]")
        expect(cell).to_have_text("3")
        expect(row(page, "alone").locator("[data-name=Ranks]")).to_have_text("1")
        job.kill(2)
        expect(cell).to_have_text("2/3")
        expect(cell.locator(".warns")).to_have_count(1)
        expect(row(page, "job").locator(".note")).to_have_text(re.compile(r"^rank 2 lost(, ranks? [01-]+ behind)?$"))
        expect(row(page, "job").locator(".status")).to_have_text("running")
        expect(row(page, "alone").locator(".note")).to_be_hidden()


def test_ranks_of_other_hosts_are_counted_where_they_are_known(browser: Browser, served: pages.Served) -> None:
    page = opened(browser, served)
    say = "async (run) => (await import('/static/ranks.js')).howMany(run)"
    ranks = [{"rank": n, "status": "running", "host": f"node{n // 2}", "trouble": ""} for n in range(8)]
    for there, count in ((8, "8"), (7, "7/8"), (2, "2")):
        run = {"world_size": 8, "local_world_size": 2, "present": present_view(ranks[:there])}
        assert page.evaluate(say, run) == count


def test_ranks_that_are_not_heard_are_said_to_be_so(browser: Browser, served: pages.Served) -> None:
    page = opened(browser, served)
    say = """async (run) => {
        const { Ranks, brief } = await import('/static/ranks.js');
        const shown = new Ranks('job');
        shown.update(run);
        return [brief(run), shown.node.querySelector('.hint').textContent, shown.node.textContent];
    }"""
    about = {"pid": 1, "behind": 0, "overdue": 0.0, "step": 700, "since": 1000.0}
    ranks = [
        about | {"rank": n, "status": status, "host": f"node{n}", "trouble": trouble}
        for n, (status, trouble) in enumerate([("running", ""), ("unheard", "unheard")])
    ]
    run = {"world_size": 2, "local_world_size": 1, "ranks": ranks, "present": present_view(ranks)}
    short, hint, table = page.evaluate(say, run)
    assert short == "rank 1 not heard"
    assert hint == "1 of 2 is there, on 2 hosts; rank 1 is not heard."
    assert "not heard since" in table and "last seen at step 700" in table
    ended = [ranks[0] | {"status": "stopped"}, ranks[1]]
    _, hint, _ = page.evaluate(say, run | {"ranks": ended, "present": present_view(ended)})
    assert hint == "0 of 2 are there, on 2 hosts; rank 1 is not heard."


def test_many_ranks_that_are_alike_share_a_line(browser: Browser, served: pages.Served, tmp_path: Path) -> None:
    with Job(tmp_path / "job", size=17, STEP="0.1") as job:
        run = job.run()
        job.kill(4)
        run.pause(timeout=DEADLINE)
        page = opened(browser, served, "job")
        expect(lines(page)).to_have_count(2)
        at = f"{run.step:,}"
        assert texts(lines(page).nth(0)) == ["0-3, 5-16", "paused", at, "16 processes", ""]
        assert texts(lines(page).nth(1))[:2] == ["4", "lost"]
        page.get_by_role("button", name="Each of the 17 ranks").click()
        expect(lines(page)).to_have_count(17)
        page.get_by_role("button", name="Those that are alike as one").click()
        expect(lines(page)).to_have_count(2)


def test_a_function_is_called_on_one_rank_or_on_all(browser: Browser, served: pages.Served, job: Job) -> None:
    page = opened(browser, served, "job")
    form = page.locator('[data-function="evaluate"]')
    which = form.get_by_label("on", exact=True)
    expect(which.locator("option")).to_have_text(["rank 0", "rank 1", "rank 2", "all ranks"])
    expect(which).to_have_value("0")
    which.select_option("all ranks")
    form.get_by_role("button", name="Call").click()
    for rank in range(3):
        expect(form.locator(".call-result pre")).to_contain_text(f'"rank": {rank},')
        expect(form.locator(".call-output pre")).to_contain_text(f"rank {rank} evaluates test")
    which.select_option("rank 1")
    job.kill(1)
    expect(lines(page).nth(1)).to_contain_text("lost")
    expect(which).to_have_value("1")  # what was chosen stays
    form.get_by_role("button", name="Call").click()
    expect(fate(form)).to_have_text("refused: rank 1 is not there; there are 0, 2")


def test_a_function_that_is_for_all_ranks_is_offered_so(browser: Browser, served: pages.Served, job: Job) -> None:
    page = opened(browser, served, "job")
    form = page.locator('[data-function="gather"]')
    which = form.get_by_label("on", exact=True)
    expect(which).to_have_value("all")
    form.get_by_role("button", name="Call").click()
    for rank in range(3):
        expect(form.locator(".call-result pre")).to_contain_text(f'"rank": {rank},')
    which.select_option("rank 2")
    form.get_by_role("button", name="Call").click()
    expect(form.locator(".call-result pre")).not_to_contain_text('"rank": 1,')
    expect(form.locator(".call-result pre")).to_contain_text('"rank": 2,')
    expect(which).to_have_value("2")


def test_a_run_of_one_process_offers_no_ranks(browser: Browser, served: pages.Served, tmp_path: Path) -> None:
    with Child(tmp_path / "alone", api.EXPOSING, name="alone") as child:
        child.run("alone")
        page = opened(browser, served, "alone")
        form = page.locator('[data-function="evaluate"]')
        expect(form).to_be_visible()
        expect(form.locator(".whose")).to_be_hidden()
        expect(button(panel(page), "reset")).to_be_visible()
        expect(part(page, "ranks").locator(".hint")).to_be_hidden()
        form.get_by_role("button", name="Call").click()
        expect(form.locator(".call-result pre")).to_contain_text('"split": "test"')


def test_the_ranks_of_a_job_offer_no_reset(browser: Browser, served: pages.Served, job: Job) -> None:
    page = opened(browser, served, "job")
    expect(button(panel(page), "pause")).to_be_visible()
    expect(button(panel(page), "reset")).to_be_hidden()


def test_the_time_that_a_stop_has_left_counts_down(browser: Browser, served: pages.Served, tmp_path: Path) -> None:
    with Job(tmp_path / "job", SAVING="60") as job:
        run = job.run()
        page = opened(browser, served, "job")
        fact = page.locator(".fact", has_text="Stops by")
        expect(lines(page)).to_have_count(3)
        expect(fact).to_be_hidden()
        ask(run._connection, Kind.STOP, False, DEADLINE, duration=59.0)
        by = run.stop_by
        assert by is not None
        clock = re.escape(time.strftime("%H:%M:%S", time.localtime(by)))
        shown = fact.locator(".fact-value")
        expect(shown).to_have_text(re.compile(rf"{clock}, \d\ds left"))
        expect(shown).not_to_have_text(shown.inner_text())


def test_a_screen_reader_hears_that_a_rank_is_lost_once(browser: Browser, served: pages.Served, job: Job) -> None:
    page = opened(browser, served, "job")
    expect(lines(page)).to_have_count(3)
    expect(page.locator("#urgent")).to_be_empty()
    job.kill(0)
    expect(page.locator("#urgent")).to_have_text(re.compile(r"job: rank 0 lost since \S+, last seen at step [\d,]+"))
    expect(page.locator("#urgent p")).to_have_count(1)
    later = opened(browser, served, "job")
    expect(lines(later).nth(0)).to_contain_text("lost")
    expect(later.locator("#urgent")).to_be_empty()  # it is no news there


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_notes_on_ranks_can_be_read(browser: Browser, served: pages.Served, job: Job, scheme: Any) -> None:
    job.kill(2)
    page = opened(browser, served, "job", color_scheme=scheme)
    note = lines(page).nth(2).locator("td").last
    expect(note).to_contain_text("lost since")
    ratio = note.evaluate(
        """(node) => {
            const lum = (rgb) => rgb.match(/[\\d.]+/g).slice(0, 3).map((c) => c / 255)
                .map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
                .reduce((sum, c, at) => sum + c * [0.2126, 0.7152, 0.0722][at], 0);
            const ground = getComputedStyle(node.closest(".part")).backgroundColor;
            const [a, b] = [lum(getComputedStyle(node).color), lum(ground)].sort((x, y) => y - x);
            return (a + 0.05) / (b + 0.05);
        }"""
    )
    assert ratio >= 4.5
