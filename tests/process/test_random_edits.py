"""A short run of the random edits; a long one is `python -m tests.random_edits`."""

from pathlib import Path

import pytest

from tests.random_edits import BROKEN, GOOD, Edits
from tests.support.child import until

pytestmark = pytest.mark.process


@pytest.mark.timeout(300)
@pytest.mark.parametrize("freeze", [False, True], ids=["", "frozen"])
def test_random_edits_lose_no_item_and_keep_every_class(tmp_path: Path, freeze: bool) -> None:
    edits = Edits(tmp_path, seed=3 + freeze, freeze=freeze)
    with edits.training:
        until(lambda: edits.training.out, edits.training.err)
        done = [edits.step() for _ in range(20)]
    assert set(done) & GOOD.keys()
    assert set(done) & BROKEN.keys()
