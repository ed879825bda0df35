"""The models that SPIN searches hold in their small sizes, and every broken variant of them is found out."""

import re

import pytest
from verify import AGREEMENT, ALL, HERE, HOSTS, VOTES, Found, Search, _read, run_all, verdict

pytestmark = pytest.mark.model

ROOT = HERE.parent.parent
QUICK = [search for search in ALL if search.quick]


@pytest.fixture(scope="module")
def found() -> dict[str, Found]:
    return {search.name: found for search, found in run_all(QUICK)}


@pytest.mark.timeout(600)  # the first waits for all searches, two at a time
@pytest.mark.parametrize("search", QUICK, ids=lambda search: search.name)
def test_a_search_finds_what_it_has_to(search: Search, found: dict[str, Found]) -> None:
    right, words = verdict(search, found[search.name])
    assert right, words


def test_every_broken_variant_is_among_the_quick_searches() -> None:
    assert all(search.quick for search in ALL if search.fails)


@pytest.mark.parametrize(("said", "states"), [("72073369", 72_073_369), ("1.0234568e+08", 102_345_680)])
def test_counts_are_read_however_spin_writes_them(said: str, states: int) -> None:
    text = f"State-vector 8 byte, depth reached 195, errors: 0\n {said} states, stored\n"
    assert _read(ALL[0], text, 1.0) == Found(states=states, depth=195, seconds=1.0, violated="")


@pytest.mark.parametrize("model", [AGREEMENT, VOTES, HOSTS])
def test_each_function_that_a_model_stands_for_is_in_the_code(model: str) -> None:
    text = (HERE / model).read_text()
    comments = " ".join(re.findall(r"/\*.*?\*/", text, re.DOTALL))
    named = set(re.findall(r"([a-z_]\w*)\(\)", comments)) - set(re.findall(r"inline (\w+)", text))
    files = [path for ending in ("csrc/*.[ch]", "spark_fast/**/*.py") for path in ROOT.glob(ending)]
    code = "".join(path.read_text() for path in files)
    assert {name for name in named if not re.search(rf"\b{name}\(", code)} == set()
    paths = re.findall(r"\b(?:csrc|spark_fast)/[\w/]+\.\w+", comments)
    assert [path for path in paths if not (ROOT / path).exists()] == []
