"""A Ray cluster for some tests, in its own process and home, since Ray leaves files in its user's home."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.child import kill

ONE_NODE = """
import sys
import ray
ray.init(num_cpus=2, include_dashboard=False, _temp_dir=sys.argv[1] + "/t", object_store_memory=80_000_000)
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
ray.shutdown()
"""
TWO_NODES = """
import sys
from ray.cluster_utils import Cluster

def node(number):
    return {
        "num_cpus": 1,
        "resources": {f"node{number}": 1},
        "node_ip_address": f"127.0.0.{number + 2}",  # Ray takes 127.0.0.1 for the host's own
        "object_store_memory": 80_000_000,
        "env_vars": {"SPARK_FAST_HOME": f"{sys.argv[1]}/home{number}"},
    }

nodes = Cluster(True, head_node_args={**node(0), "include_dashboard": False, "temp_dir": sys.argv[1] + "/t"})
nodes.add_node(**node(1))
print(nodes.address, flush=True)
sys.stdin.read()
nodes.shutdown()
"""


@dataclass(frozen=True)
class Ray:
    """A running Ray: its address, and the folders in which the workers of its nodes keep their runs."""

    address: str
    homes: list[Path]

    def enter(self, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
        """Let this process and those that the test starts find the Ray, and let Ray leave its files in `home`."""
        self.at(0, monkeypatch)
        monkeypatch.setenv("RAY_ADDRESS", self.address)
        monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
        monkeypatch.setenv("HOME", str(home))

    def at(self, node: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """From now on, find the runs of this node."""
        monkeypatch.setenv("SPARK_FAST_HOME", str(self.homes[node]))


@contextmanager
def running(script: str, homes: list[str], **env: str) -> Iterator[Ray]:
    """Yield the Ray that a script starts. The script gets a folder, prints the address, and ends with its input."""
    # Not below pytest's folder: the paths of Ray's sockets would be longer than the system allows. Ray lets all users
    # write into its folder, so the homes must be in another one.
    folder = Path(tempfile.mkdtemp(prefix="ray-"))
    (folder / "ray").mkdir()
    own = {
        "HOME": str(folder),
        "RAY_TMPDIR": str(folder),
        "SPARK_FAST_HOME": str(folder / homes[0]),
        "XDG_STATE_HOME": str(folder / "state"),
        "RAY_USAGE_STATS_ENABLED": "0",
        "SPARK_FAST_SECRET": "the secret of the tests' jobs",
        "RAY_AUTH_MODE": "disabled",  # it listens only on this machine
        **env,
    }
    with (folder / "log").open("wb") as log:
        holder = subprocess.Popen(
            [sys.executable, "-c", script, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env={name: value for name, value in os.environ.items() if not name.startswith("SPARK_FAST")} | own,
            text=True,
        )
    try:
        assert holder.stdout is not None
        address = holder.stdout.readline().strip()
        assert address, (folder / "log").read_text()
        yield Ray(address, [folder / home for home in homes])
        holder.communicate(timeout=60)
    finally:
        kill(holder)
        holder.wait()
        shutil.rmtree(folder)
