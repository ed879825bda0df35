"""Lets code run a second time that tells libraries something they take once in a process.

While a reload executes the code and has it on trial, a few functions of loaded libraries are exchanged. What the thread
that executes the code registers once more takes the place of what it registered before. In other threads, and at all
other times, these functions do what they always do.
"""

import ast
import atexit
import inspect
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from types import FunctionType, ModuleType
from typing import Any

from spark_fast.errors import ReloadRefusedError
from spark_fast.worker import stderr
from spark_fast.worker.reload.patching.undo import UndoLog
from spark_fast.worker.state.mappings import replace_items

__all__ = ["Repetition", "refuse_libraries"]


class Repetition:
    """One reload, as libraries are to see it.

    names: the modules that are executed again.
    sources: what ran of them before.

    Attributes:
        warnings: what has been registered twice, one sentence each.
        log: what undo() takes back.
        at_end: what keep() calls.

    Called in this order: begin(), and in the end keep() or undo(). Several may have begun: the last one is meant.
    """

    def __init__(self, names: Iterable[str], sources: Iterable[bytes]) -> None:
        self.names = set(names)
        self.warnings: list[str] = []
        self.log = UndoLog()
        self.at_end: list[Callable[[], object]] = []
        self._seen: list[object] = []
        self._thread = threading.get_ident()
        self._sources = list(sources)
        self._begun = False

    def begin(self) -> None:
        """From here on what this thread registers is registered once more."""
        self._begun = True
        _begun.append(self)
        for name in [name for name in (*_INSTALL, *_KEEP) if name in sys.modules]:
            try:
                if name in _INSTALL and name not in _installed:
                    _installed[name] = _INSTALL[name](sys.modules[name])
                if name in _KEEP:
                    _KEEP[name](sys.modules[name], self.log)
            except Exception as error:  # another version of it: the code may do without
                stderr.warn(f"{name} can't be told that code runs a second time: {type(error).__name__}: {error}")

    def keep(self) -> None:
        """The new code runs."""
        self.log.clear()
        for tidy_up in self.at_end:
            tidy_up()
        self._end()

    def undo(self) -> None:
        """The new code was taken back."""
        try:
            self.log.undo()
        finally:
            self._end()

    def _end(self) -> None:
        if not self._begun:
            return
        self._begun = False
        _begun.remove(self)
        self._seen.clear()
        self.at_end.clear()
        if not _begun:
            while _installed:
                _installed.popitem()[1]()

    def is_new(self, key: object) -> bool:
        """Whether this was not asked before in this reload; then it is remembered."""
        if key in self._seen:
            return False
        self._seen.append(key)
        return True

    def has_seen(self, key: object) -> bool:
        """Whether is_new() was asked for it."""
        return key in self._seen

    def mentions(self, word: bytes) -> bool:
        """Whether the code that ran before holds this word."""
        return any(word in source for source in self._sources)

    @staticmethod
    def current() -> "Repetition | None":
        """The reload whose code this thread executes."""
        found = _begun[-1] if _begun else None
        return found if found is not None and found._thread == threading.get_ident() else None


_begun: list[Repetition] = []
_installed: dict[str, Callable[[], object]] = {}


def _exchange(owner: Any, name: str, make: Callable[[Any], Any]) -> Callable[[], object]:
    """Puts what `make` makes of an attribute in its place. Returns what puts it back."""
    had = inspect.getattr_static(owner, name)
    made = make(had)
    setattr(owner, name, made)

    def put_back() -> None:
        if inspect.getattr_static(owner, name) is made:
            setattr(owner, name, had)

    return put_back


def _keep_default(function: Any, name: str, value: object) -> Callable[[], object]:
    """Gives a keyword of a function another default. Returns what puts it back."""
    function = inspect.unwrap(function)
    had = function.__kwdefaults__[name]
    function.__kwdefaults__[name] = value

    def put_back() -> None:
        function.__kwdefaults__[name] = had

    return put_back


def refuse_libraries(source: bytes, path: str, module: ModuleType) -> None:
    """Raises ReloadRefusedError for code that makes a `torch.library.Library` each time that it is executed: in one
    process, torch takes neither a second one of a namespace nor a second definition of an operator."""
    library = getattr(sys.modules.get("torch.library"), "Library", None)
    if library is None or not (b"Library" in source or b".define" in source or b".impl" in source):
        return
    for node in _executed(ast.parse(source, path)):
        if not isinstance(node, ast.Call):
            continue
        first, *rest = ast.unparse(node.func).split(".")
        value = vars(module).get(first)
        for word in rest:
            value = getattr(value, word, None)
        if value is library or (rest and isinstance(getattr(value, "__self__", None), library)):
            raise ReloadRefusedError(
                f"{os.path.basename(path)}:{node.lineno}: {ast.unparse(node.func)}()",
                "an operator of torch.library can be defined once in a process, and this file would define it again. "
                "Use torch.library.custom_op(), or do all of it in a function that persist() calls",
            )


def _executed(node: ast.AST) -> Iterator[ast.AST]:
    """What is executed with the module itself, and not when a function is called."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield child
            yield from _executed(child)


# --- the standard library ---


def _atexit(module: ModuleType) -> Callable[[], object]:
    def make(register: Any) -> Any:
        def once(function: Any, *args: Any, **kwargs: Any) -> Any:
            repetition = Repetition.current()
            if repetition is not None and isinstance(function, FunctionType) and repetition.is_new(function):
                if function.__name__ != "<lambda>":
                    atexit.unregister(function)
                elif repetition.mentions(b"atexit"):
                    code = function.__code__
                    place = f"{os.path.basename(code.co_filename)}:{code.co_firstlineno}"
                    repetition.warnings.append(
                        f"{place}: a lambda was registered with atexit once more, and runs as often at the end. Make "
                        "it a function with a name, which is registered once"
                    )
            return register(function, *args, **kwargs)

        return once

    return _exchange(module, "register", make)


def _logging(module: ModuleType) -> Callable[[], object]:
    def make(add: Any) -> Any:
        def add_handler(self: logging.Logger, handler: logging.Handler) -> None:
            repetition = Repetition.current()
            if repetition is not None and handler not in self.handlers:
                _make_room(self, handler, repetition)
            add(self, handler)

        return add_handler

    return _exchange(logging.Logger, "addHandler", make)


def _make_room(logger: logging.Logger, handler: logging.Handler, repetition: Repetition) -> None:
    """Removes the handler that the code that ran before has given this logger in the place of the new one."""
    handlers = list(logger.handlers)

    def put_back() -> None:
        logger.handlers[:] = handlers
        handler.close()

    repetition.log.add(put_back)
    before = [each for each in handlers if not repetition.has_seen(each)]
    twin = next((each for each in before if _writes_there_too(each, handler)), None)
    repetition.is_new(handler)
    if twin is not None and repetition.mentions(b"addHandler"):
        logger.removeHandler(twin)
        repetition.at_end.append(twin.close)


def _writes_there_too(one: logging.Handler, other: logging.Handler) -> bool:
    places = ("baseFilename", "stream", "address", "host", "port", "url")
    had, has = ([getattr(each, place, None) for place in places] for each in (one, other))
    if had[0] is not None:
        had[1] = has[1] = None  # a file, however often it was opened
    return type(one) is type(other) and had == has


def _multiprocessing(module: ModuleType) -> Callable[[], object]:
    function: Any = module.DefaultContext.set_start_method
    had = function.__defaults__
    function.__defaults__ = (True,)  # force

    def put_back() -> None:
        function.__defaults__ = had

    return put_back


# --- what has to be asked for ---


def _absl(module: ModuleType) -> Callable[[], object]:
    def make(register: Any) -> Any:
        def register_again(self: Any, name: str, flag: Any) -> None:
            repetition = Repetition.current()
            had = self._flags().get(name) if repetition is not None else None
            if repetition is None or had is None or not repetition.is_new((id(self), name)):
                register(self, name, flag)
                return
            owner = self.find_module_defining_flag(name)
            if owner not in repetition.names and not (owner == sys.argv[0] and "__main__" in repetition.names):
                register(self, name, flag)
                return
            if _flag_parts(had) == _flag_parts(flag):
                return  # with the value that it has
            had.allow_override, allowed = True, had.allow_override
            try:
                register(self, name, flag)
            finally:
                had.allow_override = allowed
            repetition.log.add(lambda: self._flags().__setitem__(name, had))

        return register_again

    return _exchange(module.FlagValues, "__setitem__", make)


def _flag_parts(flag: Any) -> list[object]:
    return [type(flag), type(flag.parser), flag.default_unparsed, flag.help, flag.short_name]


def _prometheus(module: ModuleType) -> Callable[[], object]:
    def make(register: Any) -> Any:
        def register_again(self: Any, collector: Any) -> None:
            repetition = Repetition.current()
            if repetition is not None and repetition.is_new(collector):
                names = self._get_names(collector)
                found = list({id(c): c for c in map(self._names_to_collectors.get, names) if c is not None}.values())
                if len(found) == 1 and repetition.is_new(found[0]):
                    if _metric_parts(found[0]) == _metric_parts(collector) is not None:
                        collector.__dict__ = found[0].__dict__  # it counts on
                        return
                    self.unregister(found[0])
                    repetition.log.add(lambda: (self.unregister(collector), register(self, found[0])))
            register(self, collector)

        return register_again

    return _exchange(module.CollectorRegistry, "register", make)


def _metric_parts(metric: Any) -> list[object] | None:
    names = ("_name", "_labelnames", "_documentation", "_unit", "_upper_bounds")
    if not hasattr(metric, "_labelnames"):
        return None
    return [type(metric), *(getattr(metric, name, None) for name in names)]


def _gin(module: ModuleType) -> Callable[[], object]:
    interactive = module._INTERACTIVE_MODE
    unlocked = module.unlock_config()
    unlocked.__enter__()
    module.enter_interactive_mode()

    def put_back() -> None:
        if not interactive:
            module.exit_interactive_mode()
        unlocked.__exit__(None, None, None)

    return put_back


def _omegaconf(module: ModuleType) -> Callable[[], object]:
    return _keep_default(module.OmegaConf.register_new_resolver, "replace", True)


def _keep_resolvers(module: ModuleType, log: UndoLog) -> None:
    resolvers = module.basecontainer.BaseContainer._resolvers
    had = dict(resolvers)
    log.add(lambda: replace_items(resolvers, had))


def _keep_configurations(module: ModuleType, log: UndoLog) -> None:
    repo = module.ConfigStore.instance().repo
    had = _copied(repo)
    log.add(lambda: replace_items(repo, had))


def _copied(tree: dict[str, Any]) -> dict[str, Any]:
    return {name: _copied(value) if isinstance(value, dict) else value for name, value in tree.items()}


def _ray(module: ModuleType) -> Callable[[], object]:
    return _keep_default(module.init, "ignore_reinit_error", True)


def _torch(module: ModuleType) -> Callable[[], object]:
    def make(set_number: Any) -> Any:
        def set_once(number: int) -> None:
            if Repetition.current() is None or number != module.get_num_interop_threads():
                set_number(number)

        return set_once

    return _exchange(module, "set_num_interop_threads", make)


def _torch_distributed(module: ModuleType) -> Callable[[], object]:
    def make(init: Any) -> Any:
        def init_once(*args: Any, **kwargs: Any) -> None:
            if Repetition.current() is None or not module.is_initialized():
                init(*args, **kwargs)

        return init_once

    return _exchange(module, "init_process_group", make)


_INSTALL: dict[str, Callable[[ModuleType], Callable[[], object]]] = {
    "atexit": _atexit,
    "logging": _logging,
    "multiprocessing.context": _multiprocessing,
    "absl.flags._flagvalues": _absl,
    "prometheus_client.registry": _prometheus,
    "gin.config": _gin,
    "omegaconf": _omegaconf,
    "ray": _ray,
    "torch": _torch,
    "torch.distributed": _torch_distributed,
}
_KEEP: dict[str, Callable[[ModuleType, UndoLog], None]] = {
    "omegaconf": _keep_resolvers,
    "hydra.core.config_store": _keep_configurations,
}
