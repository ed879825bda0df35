"""What must hold after a job of the campaign: each function returns what does not, a line each."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from spark_fast.runfiles import journal
from tests.campaign.senders import Answer

__all__ = ["agreement", "answered", "calls_of", "crashes", "growth", "items", "journaled", "lines_of", "values_of"]

Lines = Sequence[Mapping[str, Any]]

_CALLS = ("call all", "call one")
_PARKS_LATER = ("advance", "pause", "pause at", "timed pause")


def crashes(answers: Iterable[Answer]) -> list[str]:
    """No sender gets an exception that no client should raise, and none waits in vain."""
    return [
        f"{answer.channel}, {answer.kind} {answer.number}: {answer.state}: {answer.reason}"
        for answer in answers
        if answer.state in ("crash", "hang")
    ]


def items(told: Mapping[int, Lines], *, by_step: bool) -> list[str]:
    """No rank loses an item of its loop or has one twice.

    by_step: whether each step has one item. A step that a rank comes to again, after a reload that was taken back, then
    counts once.
    """
    wrong = []
    for rank, lines in told.items():
        lines = [line for line in lines if "item" in line]
        found = (
            list({line["step"]: line["item"] for line in lines}.values())
            if by_step
            else [line["item"] for line in lines]
        )
        if found != list(range(len(found))):
            first = next(at for at, item in enumerate(found) if at != item)
            wrong.append(f"rank {rank} has items {found[max(0, first - 2) : first + 3]} where {first} is due")
    return wrong


def agreement(told: Mapping[int, Lines]) -> list[str]:
    """All ranks have the same item and value at each step, and stop at one step."""
    wrong = []
    steps = {
        rank: {line["step"]: (line["item"], line["lr"]) for line in lines if "step" in line}
        for rank, lines in told.items()
    }
    for step in sorted(set.intersection(*(set(each) for each in steps.values()))):
        if len({each[step] for each in steps.values()}) > 1:
            wrong.append(f"at step {step}, (item, lr) by rank: { {rank: each[step] for rank, each in steps.items()} }")
            break
    stops = {rank: line["stopped"] for rank, lines in told.items() for line in lines if "stopped" in line}
    if len(set(stops.values())) > 1:
        wrong.append(f"the ranks stop at different steps: {stops}")
    return wrong


def answered(told: Mapping[int, Lines], answers: Sequence[Answer]) -> list[str]:
    """A value is in force from the step at which it was applied to the next one's, and one that was refused never is.

    Values whose fate the sender did not learn may be in force or not.
    """
    sets = [answer for answer in answers if answer.kind == "set"]
    applied = sorted((answer.step or 0, float(answer.number)) for answer in sets if answer.state == "applied")
    unknown = {float(answer.number) for answer in sets if answer.state in ("unknown", "hang", "lost", "error", "crash")}
    wrong = []
    for rank, lines in told.items():
        at, in_force = 0, {0.1}
        for line in sorted((line for line in lines if "lr" in line), key=lambda line: line["step"]):
            while at < len(applied) and applied[at][0] <= line["step"]:
                step = applied[at][0]
                in_force = set()
                while at < len(applied) and applied[at][0] == step:
                    in_force.add(applied[at][1])
                    at += 1
            if line["lr"] not in in_force | unknown:
                wrong.append(f"rank {rank} has lr = {line['lr']} at step {line['step']}, where {in_force} is in force")
                break
    return wrong


def calls_of(told: Mapping[int, Lines], answers: Sequence[Answer], whole: Iterable[int]) -> list[str]:
    """A call that was applied is made once in each rank that it was for, and one that was refused never is.

    whole: the ranks that were there from the beginning to the end.
    """
    noted = {
        rank: Counter(number for line in lines for number in line.get("calls", ())) for rank, lines in told.items()
    }
    last = {rank: max((line["step"] for line in lines if "step" in line), default=0) for rank, lines in told.items()}
    wrong = []
    for answer in answers:
        if answer.kind not in _CALLS:
            continue
        for rank in told if answer.kind == "call all" else set(told) & {0}:
            times = noted[rank][answer.number]
            due = answer.state == "applied" and rank in whole and (answer.step or 0) < last[rank]
            never = answer.state in ("refused", "void", "superseded")
            if times > 1 or (due and not times) or (never and times):
                wrong.append(
                    f"rank {rank} has made call {answer.number} {times} times, which is {answer.state} at {answer.step}"
                )
    return wrong


def journaled(path: Path | None, answers: Iterable[Answer], until: float = math.inf, *, slack: int = 0) -> list[str]:
    """Each request that was told to be applied stands in the journal, once and with the same step.

    A pause and an advance are answered with the step at which the run parks for them, which may be a later one.

    until: what was answered later does not count: the journal has had no room since then.
    slack: how many steps may lie between the two, where several threads count steps.
    """
    due = [
        answer
        for answer in answers
        if answer.state == "applied" and answer.id and not answer.nothing_done and answer.answered < until
    ]
    if path is None or not path.exists():
        return [f"there is no journal, and {len(due)} requests were applied"] if due else []
    steps: dict[str, list[int]] = {}
    for line in journal.read(path).requests:
        steps.setdefault(line["id"], []).append(line["step"])
    wrong = [
        f"{answer.kind} {answer.id} was applied at step {answer.step}; the journal has it at {steps.get(answer.id, [])}"
        for answer in due
        if not _at_one_step(answer, steps.get(answer.id, []), slack)
    ]
    return wrong


def _at_one_step(answer: Answer, found: Sequence[int], slack: int) -> bool:
    if len(found) != 1 or answer.step is None:
        return False
    difference = answer.step - found[0]
    return difference >= -slack if answer.kind in _PARKS_LATER else abs(difference) <= slack


def growth(
    usages: Mapping[int, Sequence[tuple[int, int]]], *, descriptors: int = 6, memory: int = 48 << 20
) -> list[str]:
    """No process has ever more descriptors open or memory in use: the last readings are near those of its first third.

    descriptors, memory: how many of them, and how many bytes, it may have more.
    """
    wrong = []
    for pid, readings in usages.items():
        if len(readings) < 9:
            continue
        third = len(readings) // 3
        before = [max(each) for each in zip(*readings[:third], strict=True)]
        after = [min(each) for each in zip(*readings[-third:], strict=True)]
        if after[0] > before[0] + descriptors:
            wrong.append(f"process {pid} has {before[0]} descriptors open at first and {after[0]} at the end")
        if after[1] > before[1] + memory:
            wrong.append(f"process {pid} holds {before[1] >> 20} MiB at first and {after[1] >> 20} MiB at the end")
    return wrong


def lines_of(path: Path) -> list[dict[str, Any]]:
    """Read what a rank has told; a line that a kill has torn is left out."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


def values_of(outs: Mapping[int, Sequence[Sequence[str]]], answers: Sequence[Answer]) -> list[str]:
    """All hosts have the same value at each step, stop at the same one, and have no value that was refused.

    Where one host parks, another may not: if it comes to the pause and the resume at once, it passes over both.

    outs: what the worker of each host wrote: "set" or "stopped", the step, the value.
    """
    wrong = []
    refused = {float(each.number) for each in answers if each.kind == "set" and each.state in ("refused", "void")}
    asked = {float(each.number) for each in answers if each.kind == "set"}
    for what in ("set", "stopped"):
        by_host = {
            host: {int(words[1]): words[2:] for words in lines if words[0] == what} for host, lines in outs.items()
        }
        last = min((max((int(words[1]) for words in lines), default=0) for lines in outs.values()), default=0)
        common = {host: {step: rest for step, rest in steps.items() if step <= last} for host, steps in by_host.items()}
        first, *others = common.values()
        for other in others:
            if other != first:
                odd = {step for step in {*first, *other} if first.get(step) != other.get(step)}
                wrong.append(f"{what} differs between hosts, first at step {min(odd)}: {sorted(odd)[:5]}")
        if what == "set":
            for host, steps in by_host.items():
                values = {float(rest[0]) for rest in steps.values()} - {0.0}
                wrong += [f"host {host} has lr = {value}, which was refused" for value in values & refused]
                wrong += [f"host {host} has lr = {value}, which nobody set" for value in values - asked]
    return wrong
