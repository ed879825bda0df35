"""What others have made of the user's code and keep: it does not see that the code was replaced."""

import sys
from types import CodeType

__all__ = ["differs", "forget"]


def differs(old: bytes, new: bytes, path: str) -> bool:
    """Whether two sources make different code: comments, blank lines and where things stand do not count."""
    return not _same(_compiled(old, path), _compiled(new, path))


def _compiled(source: bytes, path: str) -> CodeType:
    code: CodeType = compile(source, path, "exec", dont_inherit=True)
    return code


def _same(one: object, other: object) -> bool:
    if not isinstance(one, CodeType) or not isinstance(other, CodeType):
        # repr: 0.0 and -0.0, 1 and True are equal, and not the same.
        return type(one) is type(other) and repr(one) == repr(other)
    parts = ("co_code", "co_flags", "co_names", "co_varnames", "co_freevars", "co_cellvars", "co_name", "co_argcount")
    more = ("co_posonlyargcount", "co_kwonlyargcount", "co_exceptiontable")
    return (
        all(getattr(one, part) == getattr(other, part) for part in parts + more)
        and len(one.co_consts) == len(other.co_consts)
        and all(map(_same, one.co_consts, other.co_consts))
    )


def forget() -> None:
    """Makes torch.compile forget what it has compiled, if it is in use: functions that were compiled before, and those
    that they call, are compiled anew, from the code that they have then, when they are next called."""
    dynamo = sys.modules.get("torch._dynamo")
    reset = getattr(dynamo, "reset", None)
    if reset is not None:
        reset()
