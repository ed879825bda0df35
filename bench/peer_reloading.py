"""The loop that `reloading` reads anew for each step; in a file of its own, of the size of a small script."""

from reloading import reloading  # type: ignore[import-untyped]

taken: list[int] = []


def loop(steps: int) -> None:
    """Takes so many steps."""
    taken.clear()
    for step in reloading(range(steps)):
        taken.append(step)
