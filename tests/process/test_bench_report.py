"""The pages that `make bench` writes, from made-up figures."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from bench import readme, report
from bench.results import Results, duration, seconds
from bench.targets import targets
from tests.support.bench_figures import results

pytestmark = [pytest.mark.process, pytest.mark.tier("all")]  # compiles the benchmarks' twin


@pytest.fixture(scope="module")
def found() -> Results:
    return results()


def tables(page: str) -> list[list[str]]:
    """The tables of a page in Markdown, each as its lines."""
    return [found.splitlines() for found in re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE)]


def test_each_line_of_a_table_has_a_cell_for_each_column(found: Results) -> None:
    page = tables(report.text(found, "plot.svg"))
    assert len(page) == 17
    for table in page:
        assert len(table) > 2, table
        assert len({line.count(" |") for line in table}) == 1, table


def test_the_page_has_a_figure_wherever_it_needs_one(found: Results) -> None:
    page = report.text(found, "plot.svg")
    assert not re.search(r"\| None \||\bnan\b|[{}]{2}|<bound|\|  \|  \|  \|", page)
    assert "![cost of a step](plot.svg)" in page
    assert f"\n{seconds(sorted(found.web.opened)[1])} at the median" in page
    assert page.endswith("such a loop.\n")


def test_the_page_and_the_summary_mark_the_targets_that_are_missed(found: Results) -> None:
    page, summary = report.text(found, "plot.svg"), report.summary(found)
    reached = [target.reached for target in targets(found)]
    assert True in reached and False in reached
    assert page.count("| **not reached** |") == summary.count("NOT REACHED") == reached.count(False)
    assert page.count("| reached |") == reached.count(True)


def test_an_edit_that_a_peer_never_saw_is_shown_as_never(found: Results) -> None:
    first, *others = found.reload.saves
    blind = replace(first, peers=[replace(first.peers[0], took=[], first=[], unseen=3)])
    unseen = replace(found, reload=replace(found.reload, saves=[blind, *others]))
    assert f"runs {duration(sorted(first.ours.took)[1])} after its file is saved (jurigged: never)" in readme.section(
        unseen
    )
    assert "| jurigged | 1 | written in place | 0, 3 not seen | never | never | never | never |" in report.text(
        unseen, ""
    )


def test_readme_has_two_lines(found: Results) -> None:
    assert re.fullmatch(r"(- A (step|request): [^\n]+\n  [^\n]+\n){2}", readme.section(found))


def test_the_section_of_readme_replaces_what_stands_between_its_marks(found: Results, tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text(f"before\n{readme.BEGIN}\nold figures\n{readme.END}\nafter\n")
    readme.rewrite(path, found)
    text = path.read_text()
    assert text == f"before\n{readme.BEGIN}\n\n{readme.section(found)}\n{readme.END}\nafter\n"
    path.write_text("no marks\n")
    with pytest.raises(ValueError, match="lacks the marks"):
        readme.rewrite(path, found)
