"""Sources whose first lines declare an encoding."""

import os
from pathlib import Path

import pytest

from spark_fast.project.sources import check, decode, encode
from spark_fast.worker.journal import replay

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("name", ["zlib", "hex", "rot13", "undefined", "no-such"])
def test_an_encoding_that_is_none_of_text_is_a_fault_of_the_source(name: str) -> None:
    source = f"# coding: {name}\nx = 1\n".encode()
    assert decode(source) == source.decode()
    assert encode(source.decode()) == source
    assert [fault.path for fault in check({"a.py": source})] == ["a.py"]


def test_an_encoding_of_text_is_kept() -> None:
    source = "# coding: latin-1\nx = 'ä'\n"
    assert decode(encode(source)) == source
    assert check({"a.py": encode(source)}) == []


def test_a_pipe_or_a_large_file_in_the_place_of_a_module_does_not_hold_up_a_replay(tmp_path: Path) -> None:
    pipe, large = tmp_path / "pipe", tmp_path / "large"
    os.mkfifo(pipe)
    large.touch()
    os.truncate(large, 1 << 40)
    for path, why in ((pipe, "no file"), (large, "bytes")):
        with pytest.raises(ValueError, match=why):
            replay._read(str(path))
