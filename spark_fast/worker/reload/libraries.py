"""Makes libraries accept code that a reload executes a second time: see repetition.py."""

import atexit
import logging
import os
import sys
from collections.abc import Callable
from types import FunctionType, ModuleType
from typing import Any

from spark_fast.worker.reload.patching.undo import UndoLog
from spark_fast.worker.reload.repetition import Exchange, Keep, Repetition, Repetitions, exchange, keep_default
from spark_fast.worker.state.mappings import replace_items

__all__ = ["make_repetitions"]


def make_repetitions() -> Repetitions:
    """Return the owner of all repetitions in this process."""
    return Repetitions(_EXCHANGES, _KEEPS)


# --- the standard library ---


def _atexit(module: ModuleType, repetitions: Repetitions) -> Callable[[], object]:
    def make(register: Any) -> Any:
        def once(function: Any, *args: Any, **kwargs: Any) -> Any:
            repetition = repetitions.current
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

    return exchange(module, "register", make)


def _logging(module: ModuleType, repetitions: Repetitions) -> Callable[[], object]:
    def make(add: Any) -> Any:
        def add_handler(self: logging.Logger, handler: logging.Handler) -> None:
            repetition = repetitions.current
            if repetition is not None and handler not in self.handlers:
                _make_room(self, handler, repetition)
            add(self, handler)

        return add_handler

    return exchange(logging.Logger, "addHandler", make)


def _make_room(logger: logging.Logger, handler: logging.Handler, repetition: Repetition) -> None:
    """Remove the handler of this logger that the old code added where the new code now adds this one."""
    handlers = list(logger.handlers)

    def put_back() -> None:
        logger.handlers[:] = handlers
        handler.close()

    repetition.log.add(put_back)
    before = [each for each in handlers if not repetition.has_seen(each)]
    twin = next((each for each in before if _writes_to_the_same(each, handler)), None)
    repetition.is_new(handler)
    if twin is not None and repetition.mentions(b"addHandler"):
        logger.removeHandler(twin)
        repetition.at_end.append(twin.close)


def _writes_to_the_same(one: logging.Handler, other: logging.Handler) -> bool:
    places = ("baseFilename", "stream", "address", "host", "port", "url")
    had, has = ([getattr(each, place, None) for place in places] for each in (one, other))
    if had[0] is not None:
        had[1] = has[1] = None  # the same file, even if it was opened twice
    return type(one) is type(other) and had == has


def _multiprocessing(module: ModuleType, repetitions: Repetitions) -> Callable[[], object]:
    function: Any = module.DefaultContext.set_start_method
    had = function.__defaults__
    function.__defaults__ = (True,)  # force

    def put_back() -> None:
        function.__defaults__ = had

    return put_back


# --- other libraries ---


def _absl(module: ModuleType, repetitions: Repetitions) -> Callable[[], object]:
    def make(register: Any) -> Any:
        def register_again(self: Any, name: str, flag: Any) -> None:
            repetition = repetitions.current
            had = self._flags().get(name) if repetition is not None else None
            if repetition is None or had is None or not repetition.is_new((id(self), name)):
                register(self, name, flag)
                return
            owner = self.find_module_defining_flag(name)
            if owner not in repetition.names and not (owner == sys.argv[0] and "__main__" in repetition.names):
                register(self, name, flag)
                return
            if _flag_parts(had) == _flag_parts(flag):
                return  # the flag keeps its value
            had.allow_override, allowed = True, had.allow_override
            try:
                register(self, name, flag)
            finally:
                had.allow_override = allowed
            repetition.log.add(lambda: self._flags().__setitem__(name, had))

        return register_again

    return exchange(module.FlagValues, "__setitem__", make)


def _flag_parts(flag: Any) -> list[object]:
    return [type(flag), type(flag.parser), flag.default_unparsed, flag.help, flag.short_name]


def _prometheus(module: ModuleType, repetitions: Repetitions) -> Callable[[], object]:
    def make(register: Any) -> Any:
        def register_again(self: Any, collector: Any) -> None:
            repetition = repetitions.current
            if repetition is not None and repetition.is_new(collector):
                names = self._get_names(collector)
                found = list({id(c): c for c in map(self._names_to_collectors.get, names) if c is not None}.values())
                if len(found) == 1 and repetition.is_new(found[0]):
                    if _metric_parts(found[0]) == _metric_parts(collector) is not None:
                        collector.__dict__ = found[0].__dict__  # the metric keeps its count
                        return
                    self.unregister(found[0])
                    repetition.log.add(lambda: (self.unregister(collector), register(self, found[0])))
            register(self, collector)

        return register_again

    return exchange(module.CollectorRegistry, "register", make)


def _metric_parts(metric: Any) -> list[object] | None:
    names = ("_name", "_labelnames", "_documentation", "_unit", "_upper_bounds")
    if not hasattr(metric, "_labelnames"):
        return None
    return [type(metric), *(getattr(metric, name, None) for name in names)]


def _gin(module: ModuleType, repetitions: Repetitions) -> Callable[[], object]:
    interactive = module._INTERACTIVE_MODE
    unlocked = module.unlock_config()
    unlocked.__enter__()
    module.enter_interactive_mode()

    def put_back() -> None:
        if not interactive:
            module.exit_interactive_mode()
        unlocked.__exit__(None, None, None)

    return put_back


def _omegaconf(module: ModuleType, repetitions: Repetitions) -> Callable[[], object]:
    return keep_default(module.OmegaConf.register_new_resolver, "replace", True)


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


def _ray(module: ModuleType, repetitions: Repetitions) -> Callable[[], object]:
    return keep_default(module.init, "ignore_reinit_error", True)


def _torch(module: ModuleType, repetitions: Repetitions) -> Callable[[], object]:
    def make(set_number: Any) -> Any:
        def set_once(number: int) -> None:
            if repetitions.current is None or number != module.get_num_interop_threads():
                set_number(number)

        return set_once

    return exchange(module, "set_num_interop_threads", make)


def _torch_distributed(module: ModuleType, repetitions: Repetitions) -> Callable[[], object]:
    def make(init: Any) -> Any:
        def init_once(*args: Any, **kwargs: Any) -> None:
            if repetitions.current is None or not module.is_initialized():
                init(*args, **kwargs)

        return init_once

    return exchange(module, "init_process_group", make)


_EXCHANGES: dict[str, Exchange] = {
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
_KEEPS: dict[str, Keep] = {
    "omegaconf": _keep_resolvers,
    "hydra.core.config_store": _keep_configurations,
}
