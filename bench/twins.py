"""Compiles bench/twin.pyx into a cache folder and loads it, as `twin`."""

import hashlib
import importlib.util
import os
import sys
import sysconfig
import tempfile
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

SOURCE = Path(__file__).with_name("twin.pyx")
CACHE = Path(__file__).parent.parent / ".cache" / "bench"


def _build(target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    # Put in place whole: several processes may build it at the same time.
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        _compile(Path(folder))
        os.replace(Path(folder) / target.name, target)


def _compile(folder: Path) -> None:
    from Cython.Build import cythonize
    from setuptools import Distribution, Extension  # type: ignore[import-untyped]

    extension = Extension(
        "twin",
        [str(SOURCE)],
        define_macros=[("_GNU_SOURCE", None)],
        extra_compile_args=["-std=c11", "-fvisibility=hidden"],
    )
    compiled: Any = cythonize
    made = compiled([extension], build_dir=str(folder), language_level=3, quiet=True)
    command = Distribution({"ext_modules": made}).get_command_obj("build_ext")
    command.build_lib = str(folder)
    command.build_temp = str(folder)
    command.ensure_finalized()
    command.run()


def _load() -> ModuleType:
    # One folder for each text of the twin and each interpreter.
    key = hashlib.sha256(SOURCE.read_bytes() + sys.version.encode()).hexdigest()[:12]
    target = CACHE / key / f"twin{sysconfig.get_config_var('EXT_SUFFIX')}"
    if not target.exists():
        _build(target)
    spec = importlib.util.spec_from_file_location("twin", target)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if TYPE_CHECKING:
    from bench import twin
else:
    twin = _load()

__all__ = ["CACHE", "twin"]
