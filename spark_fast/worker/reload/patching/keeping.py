"""Decides which definitions an edit did not touch: they are not executed again, and their objects stay."""

import ast
import sys
from enum import Enum
from types import FunctionType
from typing import Any, Protocol

from spark_fast.errors import ReloadRefusedError
from spark_fast.worker.reload.patching.classes import update_methods
from spark_fast.worker.reload.patching.comparison import (
    Body,
    Comparison,
    altered_later,
    calls_of,
    changed_methods,
    same_node,
    unfit_method,
    wrapped_attributes,
)
from spark_fast.worker.reload.patching.dependencies import Dependencies
from spark_fast.worker.reload.patching.escapes import may_be_stored_by_others
from spark_fast.worker.reload.patching.functions import FunctionPatcher, parts
from spark_fast.worker.reload.patching.kinds import installed_metaclass, is_definition, is_pydantic, made_once
from spark_fast.worker.reload.patching.registries import Registries, discard
from spark_fast.worker.reload.patching.relocation import Relocation
from spark_fast.worker.reload.patching.rewriting import choose_calls, choose_definitions, choose_statements
from spark_fast.worker.reload.patching.source import Source, mangled
from spark_fast.worker.reload.patching.undo import EMPTY

__all__ = ["Keeper"]


class _Module(Protocol):
    """The interface of PatchedModule that Keeper needs."""

    namespace: dict[str, Any]
    old_namespace: dict[str, Any]
    old_source: Source

    def old_value(self, qualname: str) -> object: ...
    def old_class(self, qualname: str, module: str | None) -> type | None: ...
    def refusal(self, qualname: str, reason: str) -> ReloadRefusedError: ...
    def place(self, qualname: str) -> str: ...


class Keeper:
    """Decides, for one module, which definitions stay as they are while its new code is executed.

    A class statement stays if its text is unchanged, and everything that it evaluates or calls is unchanged. The same
    holds for a call at the top level that made a class, a type variable or the like. A library or the project may have
    registered a class when it was made. If only methods of such a class changed, the class gets these methods, and its
    statement is not executed either.

    Attributes:
        kept: the qualified names of the classes that stay, or of which only methods change.
        remade: the qualified names of the classes that were executed again.
    """

    def __init__(
        self,
        module: _Module,
        new_source: Source,
        dependencies: Dependencies,
        functions: FunctionPatcher,
        warnings: list[str],
    ) -> None:
        self.namespace = module.namespace
        self.old_namespace = module.old_namespace
        self.old_source = module.old_source
        self.comparison = Comparison(module.old_source, new_source)
        self.kept: set[str] = set()
        self.remade: set[str] = set()
        self._module = module
        self._new_source = new_source
        self._dependencies = dependencies
        self._functions = functions
        self._warnings = warnings
        self._relocation = Relocation(module.old_source.text, new_source.text)
        self._methods: dict[str, set[str]] = {}
        self._registries = Registries(functions.log)
        self._calls = calls_of(module.old_source)
        self._altered = altered_later(new_source)
        self._lines = {name: new_source.first_line(node) for name, node in new_source.classes()}
        self._mappings: dict[str, tuple[str, ast.stmt]] = {}
        self._undecorated: dict[type, dict[str, Any]] = {}
        self._bodies: dict[str, Body] = {}
        self._values: dict[str, dict[str, object]] = {}

    def rewrite(self) -> None:
        """Make the definitions in the new source's tree ask before they are executed. Call this first."""
        old, new = self.old_source, self._new_source
        chosen: dict[ast.stmt, tuple[str, set[str] | None]] = {}
        for qualname, node in new.classes():
            if not old.is_class(qualname) or len(new.definitions[qualname]) > 1 or len(old.definitions[qualname]) > 1:
                continue  # it is in several branches, and the new code may take another one
            living = self._module.old_class(qualname, None)
            if living is None:
                continue
            had = old.class_node(qualname)
            methods = None
            if qualname in self.comparison.methods_changed:
                methods = self._methods_to_take(living, qualname, had, node)
            if qualname not in self.comparison.unchanged:
                self._bodies[qualname] = Body(old, had, new, node)
            if methods is not None:
                self._methods[qualname] = methods
            if may_be_stored_by_others(living) or self._decorators_may_store(had):
                self._registries.members.append(living)
            chosen[node] = qualname, methods
        calls: dict[ast.stmt, tuple[str, bool]] = {}
        for name, statement in calls_of(new).items():
            value = self.old_namespace.get(name)
            if name in self._calls and is_definition(value):
                calls[statement] = name, made_once(value) is not None or name not in self.comparison.changed_names
        olds = _mappings(old)
        mappings: dict[ast.stmt, str] = {}
        for name, mapping in _mappings(new).items():
            if made_once(self.old_namespace.get(name)) and name in olds and same_node(old, olds[name], new, mapping):
                key = f"the mapping of {name}"
                mappings[mapping] = key
                self._mappings[key] = name, olds[name]
        for name, attributes in self._altered.items():
            cls = self.old_namespace.get(name)
            if isinstance(cls, type):
                methods = {each for each, value in list(vars(cls).items()) if _belongs_to_class(value)}
                for each in attributes or methods - {"__dict__", "__weakref__"}:
                    self._functions.log.keep_attribute(cls, each)
        self._unwrap()
        choose_statements(new.tree, mappings)
        choose_definitions(new.tree, chosen)
        choose_calls(new.tree, calls)

    def _unwrap(self) -> None:
        """Unwrap methods of other modules' classes that the old code has wrapped and the new code is about to wrap."""
        for words, name in wrapped_attributes(self._new_source):
            first, *rest = words.split(".")
            cls = self.old_namespace.get(first)
            for word in rest:
                cls = getattr(cls, word, None)
            if not isinstance(cls, type) or cls.__module__ == self.namespace.get("__name__"):
                continue
            for part in parts(vars(cls).get(name)):
                is_method = isinstance(part, FunctionType) and part.__code__.co_qualname == f"{cls.__qualname__}.{name}"
                if is_method and part is not vars(cls).get(name):
                    self._functions.log.set_attribute(cls, name, part)
                    break

    def _methods_to_take(self, living: type, qualname: str, had: ast.ClassDef, has: ast.ClassDef) -> set[str] | None:
        """Return the names of the methods, if only they are to be executed; None if the whole class statement is."""
        fixed = made_once(living) is not None
        if not fixed and (had.decorator_list or not may_be_stored_by_others(living)):
            return None
        if unfit_method(self.old_source, had, self._new_source, has, is_pydantic(living)) is not None:
            return None
        return changed_methods(self.old_source, had, self._new_source, has)

    def executes(self, qualname: str) -> bool:
        """Return whether the statement must be executed. Raises ReloadRefusedError if it must but can't be."""
        if qualname in self._mappings:
            name, statement = self._mappings[qualname]
            change = self._dependencies.first_change(self, statement, runs_functions=False)
            return change is not None and not self._stays_all_the_same(name, made_once(self.namespace[name]), change)
        if qualname in self._calls and qualname not in self.old_source.definitions:
            return self._executes_call(qualname)
        living = self._module.old_class(qualname, None)
        if living is None:
            return True
        node = self.old_source.class_node(qualname)
        fixed = made_once(living)
        if self._must_be_executed(qualname, living, node, fixed):
            self._registries.leave(living)
            if library := installed_metaclass(living):
                place = self._module.place(qualname)
                self._warnings.append(
                    f"`{qualname}` ({place}) changed in place: what {library} keeps elsewhere of its old fields stays"
                )
            return True
        self._keep(qualname)
        now = self._new_source.class_node(qualname)
        if now.lineno != node.lineno or self._new_source.segment(now) != self.old_source.segment(node):
            self._move(qualname, living)
        return False

    def _decorators_may_store(self, node: ast.ClassDef) -> bool:
        """Return whether a decorator of the class may have registered it."""
        for decorator in node.decorator_list:
            word = ast.unparse(decorator.func if isinstance(decorator, ast.Call) else decorator).partition(".")[0]
            value = self.namespace.get(word)
            name = getattr(value, "__module__", None) or getattr(value, "__name__", "")
            if str(name).partition(".")[0] not in sys.stdlib_module_names:
                return True
        return False

    def _must_be_executed(self, qualname: str, living: type, node: ast.ClassDef, fixed: str | None) -> bool:
        same_fields = qualname in self.comparison.unchanged or qualname in self.comparison.methods_changed
        if not same_fields:
            if fixed:
                raise self._module.refusal(qualname, f"it changed, and {fixed}")
            return True
        if node.decorator_list and len(self.comparison.bindings(qualname)) > 1:
            return True  # another statement binds its name, too
        if fixed is None and not is_pydantic(living) and qualname in self._altered:
            return True  # else the statements below that alter the class would do so twice
        change = self._dependencies.first_change(self, node, runs_functions=fixed is None)
        if change is not None and not self._stays_all_the_same(qualname, fixed, change):
            return True
        if qualname in self.comparison.methods_changed and qualname not in self._methods:
            if fixed:
                raise self._module.refusal(qualname, f"more than the bodies of its methods changed, and {fixed}")
            self._keep(qualname)
            return True
        return False

    def drop_removed_classes(self) -> None:
        """Remove classes that the new source lacks from dicts, lists and sets of the classes that stay."""
        gone = [
            living
            for qualname, _ in self.old_source.classes()
            if "." not in qualname and qualname not in self._new_source.bound_names
            if (living := self._module.old_class(qualname, None)) is not None
        ]
        for name in self.kept if gone else ():
            cls = self._module.old_class(name, None)
            for value in list(vars(cls).values()) if cls is not None else ():
                discard(value, gone, self._functions.log)

    def stands(self, qualname: str) -> object:
        """Return the value of the name of a definition that was not executed."""
        # A later statement of the old module may have bound the name to another object.
        if len(self.comparison.bindings(qualname)) > 1 and qualname in self.old_source.definitions:
            return self._module.old_class(qualname, None)
        return self._module.old_value(qualname)

    def _move(self, qualname: str, living: type) -> None:
        """Give the new source's line numbers to a class that was not executed."""
        self._relocation.move(living, self._functions)
        if "__firstlineno__" not in vars(living):
            return
        for name in (name for name in self.kept if name == qualname or name.startswith(f"{qualname}.")):
            cls = self._module.old_class(name, None)
            if cls is not None and name in self._lines:
                self._functions.log.set_attribute(cls, "__firstlineno__", self._lines[name])

    def _executes_call(self, name: str) -> bool:
        fixed = made_once(self.old_namespace[name])
        if name in self.comparison.changed_names:
            raise self._module.refusal(name, f"it changed, and {fixed}")
        change = self._dependencies.first_change(self, self._calls[name], runs_functions=fixed is None)
        return change is not None and not self._stays_all_the_same(name, fixed, change)

    def _stays_all_the_same(self, qualname: str, fixed: str | None, change: str) -> bool:
        """Return whether the definition stays, though it depends on a name that means another object now."""
        if fixed is None:
            return False
        if self._dependencies.is_edited(self, change):
            raise self._module.refusal(qualname, f"it depends on `{change}`, which changed, and {fixed}")
        self._warnings.append(
            f"`{qualname}` ({self._module.place(qualname)}) stays as it was: it depends on `{change}`, which was made "
            f"anew, and {fixed}"
        )
        return True

    def _keep(self, qualname: str) -> None:
        self.kept.add(qualname)
        self.kept.update(name for name in self.old_source.definitions if name.startswith(f"{qualname}."))

    def take_methods(self, qualname: str, holder: type) -> object:
        """Give a class whose statement was not executed the methods that were executed in the class `holder`."""
        living = self._module.old_class(qualname, None)
        assert living is not None
        update_methods(living, holder, {mangled(qualname, name) for name in self._methods[qualname]}, self._functions)
        return self.stands(qualname)

    def note_remade(self, qualname: str, living: type) -> None:
        """Note that a class statement was executed again. Remember the attributes of the class before their update."""
        if qualname not in self.kept:
            self.remade.add(qualname)
        if qualname in self._values or issubclass(living, Enum) or len(self.old_source.definitions[qualname]) > 1:
            return  # it stands in several branches, and another one may have been taken
        if qualname in self.comparison.unchanged:
            node = self.old_source.class_node(qualname)
            body = Body(self.old_source, node, self.old_source, node)
        elif qualname in self._bodies:
            body = self._bodies[qualname]
        else:
            return
        changed = body.changed | {
            name for name, statements in body.values.items() if any(map(self._gives_another_value, statements))
        }
        names = body.values.keys() - body.reached_from(changed) - self._altered.get(qualname, set())
        self._values[qualname] = {
            name: vars(living)[name]
            for name in (mangled(qualname, each) for each in names if not _is_for_the_metaclass(each))
            if name in vars(living)
        }

    def note_decorated(self, cls: type) -> None:
        """Remember the attributes of a class before its decorators are called, which may change it."""
        self._undecorated[cls] = dict(vars(cls))

    def finish_decorated(self, cls: type) -> None:
        """Record the changes that the decorators of a class have made, so that they can be undone."""
        had = self._undecorated.pop(cls, None)
        if had is not None:
            self._functions.log.add_changes(cls, had)

    def _gives_another_value(self, statement: ast.stmt) -> bool:
        runs = any(isinstance(part, ast.Call) for part in ast.walk(statement))
        change = self._dependencies.first_change(self, statement, instances_live_on=True, runs_functions=runs)
        return change is not None

    def finish_class(self, qualname: str) -> None:
        """Finish a complete class: put back attributes whose text is unchanged, since the script may have set them."""
        cls = self._module.old_class(qualname, None)
        if cls is None:
            return
        self.finish_decorated(cls)
        self._registries.come_back(cls)
        for name, value in self._values.pop(qualname, {}).items():
            now = vars(cls).get(name, EMPTY)
            if now is not EMPTY and now is not value and not _belongs_to_class(value) and not _belongs_to_class(now):
                self._functions.log.set_attribute(cls, name, value)


def _mappings(source: Source) -> dict[str, ast.stmt]:
    """Return the calls `….map_imperatively(name, …)` of the top level, by that name.

    SQLAlchemy refuses a second such call for a class.
    """
    found: dict[str, ast.stmt] = {}
    for statement in source.tree.body:
        call = getattr(statement, "value", None)
        if (
            isinstance(call, ast.Call)
            and isinstance(call.func, ast.Attribute)
            and call.func.attr == "map_imperatively"
            and call.args
            and isinstance(call.args[0], ast.Name)
        ):
            found[call.args[0].id] = statement
    return found


def _is_for_the_metaclass(name: str) -> bool:
    """Return whether a metaclass may read the attribute and set another value, such as one with inherited parts."""
    return (name.startswith("__") and name.endswith("__")) or name == "model_config"


def _belongs_to_class(value: object) -> bool:
    """Return whether the value is a part of the class, such as a method, a field or an inner class."""
    kind = type(value)
    return isinstance(value, type) or any(hasattr(kind, name) for name in ("__get__", "__set__", "__set_name__"))
