"""Durations, numbers and names, as people type and read them."""

import pytest

from spark_fast.cli.formatting import duration, exact_duration, latency, one_line, speed
from spark_fast.durations import parse_duration
from spark_fast.plain_text import printable

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("0", 0),
        ("0.25", 0.25),
        (".5", 0.5),
        ("90s", 90),
        ("10m", 600),
        ("1h30m", 5400),
        ("500ms", 0.5),
        ("1m500ms", 60.5),
        ("2d", 172800),
        ("1.5h", 5400),
        (" 10M ", 600),
    ],
)
def test_a_duration_is_seconds_or_numbers_with_units(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", " ", "x", "-1", "1x", "10m1h", "5 m", "nan", "inf", "1e3", "1:30", "m"])
def test_what_is_no_duration_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ValueError, match="1h30m"):
        parse_duration(text)


def test_a_duration_that_no_clock_holds_is_refused() -> None:
    with pytest.raises(ValueError, match="ten years"):
        parse_duration("99999999999d")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0s"), (0, "0s"), (59.9, "59s"), (60, "1m00s"), (303, "5m03s"), (7500, "2h05m"), (273600, "3d04h")],
)
def test_a_duration_is_shown_by_its_two_largest_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_latency_is_shown_in_the_unit_that_suits_it() -> None:
    assert [latency(each) for each in (0.00021, 0.0312, 2.44)] == ["0.21 ms", "31 ms", "2.4 s"]


def test_a_speed_is_shown_by_its_first_figures() -> None:
    given = (None, 0.0123, 3.21, 42.0, 4321.0, 98_765.0, 12_345_678.0)
    assert [speed(each) for each in given] == ["-", "0.012", "3.2", "42.0", "4321", "99k", "12.3M"]


def test_no_text_of_a_run_steers_the_terminal() -> None:
    assert printable("a\x1b[2Jb\udc80é") == "a\\x1b[2Jb\\udc80é"
    assert one_line("two\nlines\r") == "two lines\\r"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0005, "0.5ms"),
        (0.5, "500ms"),
        (0.9999, "999.9ms"),
        (1, "1s"),
        (1.5, "1.5s"),
        (59.9999, "1m00s"),
        (60.25, "1m00.25s"),
        (303, "5m03s"),
        (3600, "1h00m"),
        (7530, "2h05m30s"),
        (86400, "1d00h"),
        (90061.001, "1d01h01m01.001s"),
    ],
)
def test_an_exact_duration_leaves_nothing_out_and_can_be_typed(seconds: float, text: str) -> None:
    assert exact_duration(seconds) == text
    assert parse_duration(text) == pytest.approx(seconds, rel=1e-5)
