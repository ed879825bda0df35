"""The models that SPIN searches hold in their small sizes, and every broken variant of them is found out."""

import pytest
from verify import ALL, Found, Search, _read, run_all, verdict

pytestmark = pytest.mark.model

QUICK = [search for search in ALL if search.quick]


@pytest.fixture(scope="module")
def found() -> dict[str, Found]:
    return {search.name: found for search, found in run_all(QUICK)}


@pytest.mark.timeout(300)  # the first waits for all searches, two at a time
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
