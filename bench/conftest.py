"""The cases run in the worker of a run."""

import pytest

from bench.homes import become_worker


@pytest.fixture(autouse=True, scope="session")
def worker_of_a_run() -> None:
    """Makes this process one."""
    become_worker()
