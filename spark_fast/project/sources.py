"""Python source as bytes: how it is read as text, whether it compiles, and what it imports."""

import ast
import io
import tokenize
import traceback
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

__all__ = ["Fault", "Import", "check", "decode", "encode", "imports_of"]

_UNNAMED = "<code to be sent>"


def decode(source: bytes) -> str:
    """The text, in the encoding that it declares. What can't be decoded is replaced."""
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(source).readline)
    except SyntaxError:
        encoding = "utf-8"
    return source.decode(encoding, "replace")


def encode(text: str) -> bytes:
    """The bytes of a source, in the encoding that it declares itself. UnicodeEncodeError if that can't be."""
    raw = text.encode("utf-8", "surrogatepass")
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(raw).readline)
    except SyntaxError:  # of an encoding that there is none: the compiler says it better
        return raw
    return raw if encoding.startswith("utf-8") else text.encode(encoding)


@dataclass(frozen=True)
class Fault:
    """Why a source does not compile.

    Attributes:
        path: its file.
        line: where; None where that can't be told.
        what: the kind of error and its message, "SyntaxError: invalid syntax" say.
        text: all that Python prints of it.
    """

    path: str
    line: int | None
    what: str
    text: str


def check(files: Mapping[str, bytes]) -> list[Fault]:
    """Compiles each file with this interpreter; returns what is wrong."""
    return [fault for path, source in files.items() if (fault := _check(path, source)) is not None]


def _check(path: str, source: bytes) -> Fault | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Under the file's own name, the line that Python shows for some errors is read from the file on disk.
            compile(source, _UNNAMED, "exec", dont_inherit=True)
    except SyntaxError as error:
        error.filename = path
        lines = decode(source).split("\n")
        if error.text is None and error.lineno and error.lineno <= len(lines):
            error.text = lines[error.lineno - 1] + "\n"
        shown = traceback.format_exception_only(error)
        return Fault(path, error.lineno or None, shown[-1].strip(), "".join(shown))
    except (ValueError, OverflowError, RecursionError, MemoryError) as error:
        what = traceback.format_exception_only(error)[-1]
        return Fault(path, None, what.strip(), f'  File "{path}"\n{what}')
    return None


@dataclass(frozen=True)
class Import:
    """A module that a source names in an import statement.

    Attributes:
        names: its name, taken apart at the dots; of `from a import b`, where b may be a module or not, a and b.
        level: the number of dots before it.
        sure: whether it is imported as soon as the source is executed, and nothing is said of what to do without it.
    """

    names: tuple[str, ...]
    level: int
    sure: bool


def imports_of(source: bytes) -> list[Import]:
    """What a source imports, anywhere in it; nothing if this interpreter can't read it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
    except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError):
        return []
    return list(dict.fromkeys(_imports(tree)))


_BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")


def _imports(tree: ast.Module) -> Iterator[Import]:
    # Statements only: most of a tree is expressions, in which there are no imports.
    waiting: list[tuple[ast.AST, bool]] = [(tree, True)]
    while waiting:
        node, sure = waiting.pop()
        if isinstance(node, ast.Import):
            for each in node.names:
                yield Import(tuple(each.name.split(".")), 0, sure)
        elif isinstance(node, ast.ImportFrom):
            module = tuple(node.module.split(".")) if node.module else ()
            for each in node.names:
                yield Import(module if each.name == "*" else (*module, each.name), node.level, sure)
        else:
            sure = sure and isinstance(node, (ast.Module, ast.ClassDef, ast.With))
            waiting += [(child, sure) for block in _BLOCKS for child in getattr(node, block, ())]
