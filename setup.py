"""Build the extension. All else about the package is in pyproject.toml."""

import os
import re
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"', (ROOT / "spark_fast/__init__.py").read_text(), re.MULTILINE)[1]


def files(*patterns: str) -> list[str]:
    """List the files of these patterns, relative to this folder."""
    return sorted(str(path.relative_to(ROOT)) for pattern in patterns for path in ROOT.glob(pattern))


core = Extension(
    "spark_fast._core",
    sources=["spark_fast/_core.pyx", *files("csrc/*.c")],
    depends=files("csrc/*.h", "spark_fast/*.pxi", "spark_fast/*.pxd"),
    include_dirs=["csrc"],
    define_macros=[("_GNU_SOURCE", None), ("SPARK_FAST_VERSION", f'"{VERSION}"')],
    extra_compile_args=[
        "-std=c11",
        "-Wall",
        "-Wextra",
        "-g0",
        "-fvisibility=hidden",
        *os.environ.get("CFLAGS", "").split(),
    ],
    extra_link_args=["-pthread"],
)

setup(ext_modules=cythonize([core], compiler_directives={"language_level": 3}, build_dir="build/cython"))
