"""The parts of a reload, each without a run."""

import builtins
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from spark_fast._core import BODY_DONE, ITEM_YIELDED
from spark_fast.worker.reload.import_order import before_imports
from spark_fast.worker.reload.libraries import make_repetitions
from spark_fast.worker.reload.modules import Module, Project
from spark_fast.worker.reload.namespaces import Namespaces
from spark_fast.worker.reload.probation import Probation
from spark_fast.worker.reload.repetition import Repetition, Repetitions
from spark_fast.worker.reload.transaction import Transaction

pytestmark = pytest.mark.unit


class Part:
    """A part of the worker that counts what a transaction asks of it."""

    def __init__(self) -> None:
        self.state: dict[str, object] = {"made by": "old code"}
        self.expected: list[str] = []
        self.kept = 0

    def snapshot(self) -> dict[str, object]:
        return dict(self.state)

    def restore(self, taken: dict[str, object]) -> None:
        self.state = taken

    def clear_all(self) -> None:
        self.state = {}

    def expect_again(self, modules: Iterable[str]) -> None:
        self.expected += modules

    def commit(self) -> None:
        self.kept += 1


class Loaded:
    """A module of a project that lies in a folder."""

    def __init__(self, folder: Path, name: str, source: str) -> None:
        self.name = name
        self.path = str(folder / f"{name}.py")
        self.module = types.ModuleType(name)
        self.module.__file__ = self.path
        sys.modules[name] = self.module
        exec(source, self.module.__dict__)
        self.project = Project([str(folder)], lambda _: None, lambda _: None)
        self.project.note(Module(name, self.path, source.encode(), self.module), from_disk=True)
        self.values, self.declared, self.other = Part(), Part(), Part()

    def transaction(self, source: str, *, restart: bool = False) -> Transaction:
        return Transaction(
            self.project,
            {self.path: source.encode()},
            number=2,
            before=1,
            persisted=self.values,
            declarations=self.declared,
            repetitions=make_repetitions(),
            parts=[self.other],
            restart=restart,
        )

    def parts(self) -> list[dict[str, object]]:
        return [part.state for part in (self.values, self.declared, self.other)]


@pytest.fixture
def loaded(tmp_path: Path) -> Iterator[Loaded]:
    found = Loaded(tmp_path, "parts_of_a_reload", "rate = 1\n")
    yield found
    sys.modules.pop(found.name, None)


# --- a transaction ---


def test_a_transaction_restores_each_part_that_it_was_given(loaded: Loaded) -> None:
    transaction = loaded.transaction("rate = 2\n")
    transaction.execute()
    for part in loaded.parts():
        part["made by"] = "new code"
    assert loaded.module.rate == 2
    transaction.undo()
    assert loaded.parts() == [{"made by": "old code"}] * 3
    assert loaded.module.rate == 1
    assert loaded.project.source_of(loaded.path) == b"rate = 1\n"


def test_a_transaction_that_is_committed_restores_nothing(loaded: Loaded) -> None:
    transaction = loaded.transaction("rate = 2\n")
    transaction.execute()
    loaded.other.state["made by"] = "new code"
    transaction.commit()
    assert (loaded.module.rate, loaded.declared.kept) == (2, 1)
    assert loaded.other.state == {"made by": "new code"}


def test_a_transaction_that_was_not_executed_undoes_nothing(loaded: Loaded) -> None:
    transaction = loaded.transaction("rate = 2\n")
    loaded.other.state["made by"] = "the loop that goes on"
    transaction.undo()
    assert loaded.other.state == {"made by": "the loop that goes on"}


def test_a_restart_forgets_persisted_values_until_it_is_undone(loaded: Loaded) -> None:
    transaction = loaded.transaction("rate = 2\n", restart=True)
    transaction.execute()
    assert loaded.values.state == {}
    transaction.undo()
    assert loaded.values.state == {"made by": "old code"}


def test_declarations_are_expected_of_the_modules_that_are_executed_again(loaded: Loaded) -> None:
    loaded.transaction("rate = 2\n").execute()
    assert loaded.declared.expected == [loaded.name]


# --- probation ---


@pytest.mark.parametrize(
    ("checkpoints", "proved", "rounds"),
    [
        ([None], False, 0),  # one bare checkpoint: the mistake may stand below it
        ([None, None], True, 1),
        ([0], False, 0),  # the loop hands out the item that it had before
        ([0, BODY_DONE], False, 1),
        ([0, BODY_DONE | ITEM_YIELDED], True, 1),
        ([ITEM_YIELDED], True, 0),
    ],
)
def test_code_has_proved_itself_when_its_loop_has_come_round(
    checkpoints: list[int | None], proved: bool, rounds: int
) -> None:
    probation = Probation()
    *before, last = [probation.passes(done) for done in checkpoints]
    assert (any(before), last, probation.rounds) == (False, proved, rounds)


# --- namespaces ---


def test_a_module_that_put_another_object_in_its_place_is_put_back(tmp_path: Path) -> None:
    package, module = types.ModuleType("boxed"), types.ModuleType("boxed.inner")
    package.inner = module  # type: ignore[attr-defined]
    module.rate = 1  # type: ignore[attr-defined]
    sys.modules |= {"boxed": package, "boxed.inner": module}
    try:
        namespaces = Namespaces()
        namespaces.begin()
        namespaces.add("boxed.inner", module)
        other = types.ModuleType("boxed.inner")
        module.rate, module.other = 2, other  # type: ignore[attr-defined]
        sys.modules["boxed.inner"] = other
        namespaces.update_package("boxed.inner")
        sys.modules["boxed.new"] = package.new = types.ModuleType("boxed.new")  # type: ignore[attr-defined]
        assert package.inner is other  # type: ignore[attr-defined]
        namespaces.restore({"boxed", "boxed.inner", "boxed.new"})
        assert sys.modules["boxed.inner"] is package.inner is module  # type: ignore[attr-defined]
        assert vars(module).get("rate") == 1 and "other" not in vars(module)
        assert "boxed.new" not in sys.modules and not hasattr(package, "new")
    finally:
        for name in ("boxed", "boxed.inner", "boxed.new"):
            sys.modules.pop(name, None)


# --- the order of imports ---


def test_an_import_statement_asks_first_for_the_modules_that_it_executes() -> None:
    asked: list[list[str]] = []
    usual = builtins.__import__
    with before_imports(lambda names: asked.append(list(names))):
        exec("import os.path", {})
        exec("from json import decoder, loads", {})
        exec("from . import decoder", {"__package__": "json"})
    assert asked[:1] == [["os", "os.path"]]
    assert ["json", "json.decoder", "json.loads"] in asked
    assert ["json", "json.decoder"] in asked
    assert builtins.__import__ is usual


# --- libraries ---


class Library:
    """A library of which one function is exchanged."""

    def __init__(self) -> None:
        self.module = types.ModuleType("a_library_for_a_test")
        self.calls: list[Repetition | None] = []
        self.exchanged = 0

    def exchange(self, module: types.ModuleType, repetitions: Repetitions) -> Callable[[], object]:
        self.exchanged += 1
        usual = vars(module).get("register")
        vars(module)["register"] = lambda: self.calls.append(repetitions.current)
        return lambda: vars(module).update(register=usual)


def test_functions_of_libraries_are_exchanged_until_the_last_reload_has_ended() -> None:
    library = Library()
    sys.modules[library.module.__name__] = library.module
    try:
        repetitions = Repetitions({library.module.__name__: library.exchange}, {})
        first, second = Repetition(repetitions, ["one"], []), Repetition(repetitions, ["two"], [])
        made: list[Any] = []
        first.begin()
        library.module.register()
        second.begin()
        library.module.register()
        second.log.add(lambda: made.append("undone"))
        second.at_end.append(lambda: made.append("kept"))
        second.undo()
        library.module.register()
        first.keep()
        assert library.calls == [first, second, first]
        assert (library.exchanged, made) == (1, ["undone"])
        assert vars(library.module)["register"] is None and repetitions.current is None
    finally:
        del sys.modules[library.module.__name__]
