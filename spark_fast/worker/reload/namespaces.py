"""The namespaces of the modules that a reload executes again, and their places in `sys.modules`."""

import sys
from collections.abc import Container
from types import ModuleType

from spark_fast.worker.state.mappings import replace_items

__all__ = ["Namespaces"]


class Namespaces:
    """Remembers modules as they are before they are executed again.

    Attributes:
        modules: the modules in whose namespaces code is executed, by name.
        before: the former content of these namespaces, by the module's name.
    """

    def __init__(self) -> None:
        self.modules: dict[str, ModuleType] = {}
        self.before: dict[str, dict[str, object]] = {}
        self._listed: dict[str, ModuleType] = {}
        self._names: set[str] = set()

    def begin(self) -> None:
        """Remember which modules are loaded."""
        self._names = set(sys.modules)

    def add(self, name: str, module: ModuleType) -> None:
        """Remember a module that is about to be executed again.

        module: the module in whose namespace the code is executed. `sys.modules` may have another object by that name.
        """
        self.modules[name] = module
        self._listed[name] = sys.modules[name]
        self.before[name] = dict(module.__dict__)

    def update_package(self, name: str) -> None:
        """Update the package's attribute, if the module, executed again, has put another object into `sys.modules`."""
        _update_package(name, self._listed[name])

    def restore(self, ours: Container[str]) -> None:
        """Put everything back.

        ours: the names of the project's modules. Modules of these that were imported since begin() are removed.
        """
        for name, space in self.before.items():
            replace_items(self.modules[name].__dict__, space)
            tried = sys.modules.get(name)
            sys.modules[name] = self._listed[name]
            if tried is not None:
                _update_package(name, tried)
        for name in [name for name in list(sys.modules) if name not in self._names and name in ours]:
            gone = sys.modules.pop(name, None)
            package, _, last = name.rpartition(".")
            if package in sys.modules and sys.modules[package].__dict__.get(last) is gone:
                delattr(sys.modules[package], last)

    def forget(self) -> None:
        """Drop everything that is remembered."""
        self.modules.clear()
        self.before.clear()
        self._listed.clear()


def _update_package(name: str, before: ModuleType) -> None:
    """Set a package's attribute to the present object in `sys.modules`, if it was the former one."""
    package, _, last = name.rpartition(".")
    parent, now = sys.modules.get(package), sys.modules.get(name)
    if now is not before and getattr(parent, last, None) is before:
        setattr(parent, last, now)
