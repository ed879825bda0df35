"""What a worker does, call by call, is what it did before its code was restructured: see tests/traces/__init__.py."""

from pathlib import Path

import pytest

from tests.traces.traces import NAMES, expected, take

pytestmark = pytest.mark.process


@pytest.mark.parametrize("name", NAMES)
def test_a_worker_makes_the_calls_that_it_made_before(tmp_path: Path, name: str) -> None:
    assert take(name, tmp_path) == expected(name)
