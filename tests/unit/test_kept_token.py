"""A token that is kept: who may know it, and that it stays the same."""

import os
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from spark_fast.errors import FolderRefusedError, StoreError
from spark_fast.ui import kept_token

pytestmark = [pytest.mark.unit, pytest.mark.tier("test")]  # needs the packages of the page


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return kept_token.path()


def test_a_kept_token_stays_the_same_and_is_for_its_owner_alone(place: Path) -> None:
    token = kept_token.read_or_make()
    assert kept_token.read_or_make() == token
    assert len(token) >= 43
    status = place.stat()
    assert stat.S_IMODE(status.st_mode) == 0o600
    assert stat.S_IMODE(place.parent.stat().st_mode) == 0o700
    place.unlink()
    assert kept_token.read_or_make() != token


def test_servers_that_begin_together_keep_one_token(place: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(lambda _: kept_token.read_or_make(), range(16)))) == 1
    assert [each.name for each in place.parent.iterdir()] == [place.name]


def _readable(place: Path) -> None:
    place.chmod(0o640)


def _linked_twice(place: Path) -> None:
    os.link(place, place.with_name("other"))


def _symbolic(place: Path) -> None:
    place.rename(place.with_name("other"))
    place.symlink_to("other")


def _pipe(place: Path) -> None:
    place.unlink()
    os.mkfifo(place, 0o600)


def _folder(place: Path) -> None:
    place.unlink()
    place.mkdir(0o700)


def _empty(place: Path) -> None:
    place.write_text("")


def _short(place: Path) -> None:
    place.write_text("guess\n")


def _noise(place: Path) -> None:
    place.write_bytes(b"\xff\0" * 4096)


@pytest.mark.parametrize("spoil", [_readable, _linked_twice, _symbolic, _pipe, _folder, _empty, _short, _noise])
def test_a_token_that_others_may_know_is_not_used(place: Path, spoil: Callable[[Path], None]) -> None:
    kept_token.read_or_make()
    spoil(place)
    with pytest.raises(StoreError) as found:
        kept_token.read_or_make()
    assert str(place) in str(found.value)
    assert "remove it" in str(found.value)


def test_a_folder_that_others_may_enter_keeps_no_token(place: Path) -> None:
    place.parent.mkdir(parents=True)
    place.parent.chmod(0o755)
    with pytest.raises(FolderRefusedError):
        kept_token.read_or_make()
    assert list(place.parent.iterdir()) == []
