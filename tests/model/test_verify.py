"""The models that SPIN searches hold in their small sizes, and every broken variant of them is found out."""

import pytest
from verify import ALL, Search, run, verdict

QUICK = [search for search in ALL if search.quick]


@pytest.mark.parametrize("search", QUICK, ids=lambda search: search.name)
def test_a_search_finds_what_it_has_to(search: Search) -> None:
    found = run(search)
    right, words = verdict(search, found)
    assert right, words
    assert found.states > 100


def test_every_broken_variant_is_among_the_quick_searches() -> None:
    assert all(search.quick for search in ALL if search.fails)
