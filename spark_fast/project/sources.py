"""Reads Python source: decodes its bytes, checks that it compiles, and lists what it imports."""

import ast
import io
import linecache
import tokenize
import traceback
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

__all__ = ["Fault", "Import", "check", "decode", "encode", "imports_of", "show_in_tracebacks"]

_UNNAMED = "<code to be sent>"


def decode(source: bytes) -> str:
    """Return the text, by the encoding that the source declares. Bytes that can't be decoded are replaced."""
    try:
        return source.decode(_encoding_of(source) or "utf-8", "replace")
    except UnicodeError:  # of an encoding that replaces nothing
        return source.decode("utf-8", "replace")


def encode(text: str) -> bytes:
    """Return the bytes of a source, in the encoding that it declares. Raises UnicodeEncodeError if that fails."""
    raw = text.encode("utf-8", "surrogatepass")
    encoding = _encoding_of(raw)
    if encoding is None:  # the compiler has the better message
        return raw
    return raw if encoding.startswith("utf-8") else text.encode(encoding)


def _encoding_of(source: bytes) -> str | None:
    """Return the encoding that a source declares; None if it is unknown or none of text, such as zlib."""
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(source).readline)
        "".encode(encoding)
    except (SyntaxError, LookupError, UnicodeError):
        return None
    return encoding


def show_in_tracebacks(path: str, source: bytes) -> None:
    """Make tracebacks show the lines of this source for a file, even if the file on disk has changed."""
    linecache.cache[path] = len(source), None, decode(source).splitlines(keepends=True), path


@dataclass(frozen=True)
class Fault:
    """Why a source does not compile.

    Attributes:
        path: the file.
        line: the line; None if the error has none.
        what: the error's type and message, like "SyntaxError: invalid syntax".
        text: the error as Python prints it.
    """

    path: str
    line: int | None
    what: str
    text: str


def check(files: Mapping[str, bytes]) -> list[Fault]:
    """Compile each file with this interpreter. Return the faults."""
    return [fault for path, source in files.items() if (fault := _check(path, source)) is not None]


def _check(path: str, source: bytes) -> Fault | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Not under the file's own name: for some errors, Python would then show the line from the file on disk.
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
        names: the parts of the module's name. For `from a import b`, they are a and b, though b may be no module.
        level: the number of dots before the name.
        sure: whether executing the source always imports the module. An import within a function, an `if` or a `try`
            is not sure.
    """

    names: tuple[str, ...]
    level: int
    sure: bool


def imports_of(source: bytes) -> list[Import]:
    """Return the modules that a source imports, anywhere in it; an empty list if this interpreter can't parse it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
    except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError):
        return []
    return list(dict.fromkeys(_imports(tree)))


_BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")


def _imports(tree: ast.Module) -> Iterator[Import]:
    # Only statements are searched: most nodes of a tree are expressions, which contain no imports.
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
