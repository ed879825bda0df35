"""Hosts as network namespaces of this machine, on one bridge. The link of each host can be cut and healed.

This needs root, and a kernel with namespaces. Without them the tests that need it fail, and say so.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Network", "network"]


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=30)
    assert done.returncode == 0, f"`ip {' '.join(words)}` failed, so that no hosts can be made here: {done.stdout}"


class Network:
    """Hosts with the addresses 10.77.0.1, 10.77.0.2, …, named host0, host1, …"""

    def __init__(self, count: int) -> None:
        assert os.geteuid() == 0, "network namespaces are made by root: run these tests as root"
        assert shutil.which("ip"), "`ip` is missing: install iproute2"
        mark = f"sf{os.getpid()}"
        self._hub = f"{mark}hub"
        self.names = [f"{mark}h{number}" for number in range(count)]
        self._made: list[str] = []
        try:
            self._make(self._hub)
            _ip("-n", self._hub, "link", "add", "bridge0", "type", "bridge")
            _ip("-n", self._hub, "link", "set", "bridge0", "up")
            for number, name in enumerate(self.names):
                self._make(name)
                port = f"p{number}"
                _ip("link", "add", "eth0", "netns", name, "type", "veth", "peer", "name", port, "netns", self._hub)
                _ip("-n", name, "addr", "add", f"{self.address(number)}/24", "dev", "eth0")
                _ip("-n", name, "link", "set", "eth0", "up")
                _ip("-n", self._hub, "link", "set", port, "master", "bridge0", "up")
        except BaseException:
            self.remove()
            raise

    def _make(self, name: str) -> None:
        _ip("netns", "add", name)
        self._made.append(name)
        _ip("-n", name, "link", "set", "lo", "up")

    def address(self, number: int) -> str:
        return f"10.77.0.{number + 1}"

    def prefix(self, number: int) -> list[str]:
        """Return the beginning of a command that must run on a host, under the host's own name."""
        named = f'hostname host{number} && exec "$@"'
        return ["ip", "netns", "exec", self.names[number], "unshare", "--uts", "sh", "-c", named, "sh"]

    def cut(self, number: int) -> None:
        """Cut the host's link without closing connections: nothing goes in or out any more."""
        _ip("-n", self._hub, "link", "set", f"p{number}", "down")

    def heal(self, number: int) -> None:
        _ip("-n", self._hub, "link", "set", f"p{number}", "up")

    def remove(self) -> None:
        for name in self._made:
            _ip("netns", "del", name)


@contextmanager
def network(count: int) -> Iterator[Network]:
    """Yield hosts, and remove them when the block ends."""
    found = Network(count)
    try:
        yield found
    finally:
        found.remove()
