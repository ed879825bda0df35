"""Makes compilers forget the user's functions that they have compiled, when a reload replaces the code."""

import sys
from collections.abc import Callable
from types import CodeType
from typing import Any

__all__ = ["differs", "forget", "is_in_use"]


def differs(old: bytes, new: bytes, path: str) -> bool:
    """Return whether two sources make different code. Comments, blank lines and line numbers do not count."""
    return not _same(_compiled(old, path), _compiled(new, path))


def _compiled(source: bytes, path: str) -> CodeType:
    code: CodeType = compile(source, path, "exec", dont_inherit=True)
    return code


def _same(one: object, other: object) -> bool:
    if not isinstance(one, CodeType) or not isinstance(other, CodeType):
        # repr: 0.0 equals -0.0, and 1 equals True, but they are not the same.
        return type(one) is type(other) and repr(one) == repr(other)
    parts = ("co_code", "co_flags", "co_names", "co_varnames", "co_freevars", "co_cellvars", "co_name", "co_argcount")
    more = ("co_posonlyargcount", "co_kwonlyargcount", "co_exceptiontable")
    return (
        all(getattr(one, part) == getattr(other, part) for part in parts + more)
        and len(one.co_consts) == len(other.co_consts)
        and all(map(_same, one.co_consts, other.co_consts))
    )


def is_in_use() -> bool:
    """Return whether a library is loaded that keeps compiled functions."""
    return any(name in sys.modules for name in _COMPILERS)  # no loop over sys.modules: other threads import


def forget() -> None:
    """Make torch.compile, torch.jit.script and jax.jit, if loaded, forget what they have compiled.

    These compilers know a function by its identity, which a reload keeps. So a function that was compiled, and the
    functions that it calls, are compiled again from their present code when it is next called or scripted.
    """
    for name, forget_all in _COMPILERS.items():
        if name in sys.modules:
            forget_all(sys.modules[name])


def _forget_scripts(state: Any) -> None:
    for name in ("_jit_caching_layer", "_jit_function_overload_caching"):
        known = getattr(state, name, None)
        if known is not None:
            known.clear()


_COMPILERS: dict[str, Callable[[Any], object]] = {
    "torch._dynamo": lambda dynamo: dynamo.reset(),
    "torch.jit._state": _forget_scripts,
    "jax": lambda jax: jax.clear_caches(),
}
