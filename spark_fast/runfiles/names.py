"""Run ids that a person can type and remember."""

import random
import re
from collections.abc import Collection

__all__ = ["OFF", "RULE", "draw", "of_job", "valid"]

OFF = ("0", "off", "false", "no")
"""The words that turn an option off whose value is a name or a path; in capitals too."""

RULE = "A name is 1 to 64 letters, digits, dots, dashes and underscores, the first a letter or a digit."

_SHAPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

_HOW = (
    "able agile amber ample azure blithe bold brave bright brisk calm candid clear clever cool coral cosy crisp "
    "deft eager early fair fond frank fresh gentle glad golden grand green happy hardy honest ivory jolly keen kind "
    "late light lively lucid lucky mellow merry mild modest neat nimble noble patient plain plucky polite prime proud "
    "quick quiet rapid ready regal round royal ruby rustic sage silent silver sleek smart snug solar solid sound "
    "spry stable steady still stout sunny sure swift tame tidy true vivid warm wise witty young"
).split()
_WHO = (
    "ant badger bear beaver bee bison bream camel carp cat colt condor coot coyote crab crane crow deer dingo dove "
    "duck eagle egret eland elk emu falcon ferret finch fox frog gecko gibbon goat goose grouse gull hare hawk heron "
    "hippo horse ibex ibis jackal jay kite koala lark lemur lion llama lynx magpie mole moose moth mouse newt ocelot "
    "okapi orca osprey otter owl panda parrot pelican perch pike plover pony puffin quail rabbit raven robin rook "
    "salmon seal shrew shrike skua snail sparrow squid stoat stork swan swift tapir tern thrush tiger toad trout "
    "turtle viper vole walrus weasel whale wolf wombat wren yak zebra"
).split()


def valid(name: str) -> bool:
    """Return whether this can be the id of a run: see RULE."""
    return _SHAPE.fullmatch(name) is not None


def of_job(job: str, attempt: int) -> str:
    """Return the name that each rank of a job computes by itself.

    attempt: from 1 on. A higher one gives another name, if other runs have taken those before.
    """
    source = random.Random(f"{job}\0{attempt}")
    return f"{source.choice(_HOW)}-{source.choice(_WHO)}"


def draw(taken: Collection[str]) -> str:
    """Return a new name. It does not use the shared generator of `random`, so a training's numbers stay the same."""
    source = random.SystemRandom()
    for _ in range(100):
        name = f"{source.choice(_HOW)}-{source.choice(_WHO)}"
        if name not in taken:
            return name
    return f"{name}-{source.randrange(10**9)}"
