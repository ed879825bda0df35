"""How many values and calls a sender may send at once."""

import pytest

from spark_fast.client import rate_limit
from spark_fast.client.rate_limit import BURST, RATE, TokenBucket

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("uptime", [1.0, 33_700.123456789, 3e7 + 1 / 3, 1e9 + 1 / 3])
def test_a_burst_waits_for_nothing_however_long_the_machine_is_up(
    uptime: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_limit, "monotonic", lambda: uptime)
    bucket = TokenBucket()
    for _ in range(BURST):
        assert bucket.wait() == 0
        bucket.take()
    assert bucket.wait() == pytest.approx(1 / RATE, abs=1e-4)
