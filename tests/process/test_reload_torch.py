"""A real PyTorch training is reloaded: a DataLoader with two worker processes, a compiled model, many edits."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from spark_fast.runfiles import journal
from tests.support.child import ALL, until
from tests.support.reloading import Edited

pytestmark = pytest.mark.process

EPOCHS, BATCHES = 3, 60
# Where there is no C++ compiler, all of torch.compile but its last step.
COMPILE = (
    "torch.compile({})" if shutil.which("g++") or shutil.which("clang++") else "torch.compile({}, backend='eager')"
)

TRAINING = """
import hashlib, json, os, time
import torch
from torch import nn
import spark_fast as spark

torch.set_num_threads(1)
EDIT = 0

class Images(torch.utils.data.Dataset):
    def __len__(self):
        return {batches} * 4

    def __getitem__(self, index):
        torch.manual_seed(index)
        return index, torch.randn(16), index % 3

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Dropout(0.1))
        self.head = nn.Linear(32, 3)

    def forward(self, x):
        return self.head(self.layers(x))

def step(net, optim, x, y):
    optim.zero_grad()
    loss = nn.functional.cross_entropy(net(x), y)
    loss.backward()
    optim.step()
    return loss

def digest(net):
    values = [value.detach().numpy().tobytes() for _, value in sorted(net.state_dict().items())]
    return hashlib.sha256(b"".join(values)).hexdigest()

spark.persist("seed", lambda: torch.manual_seed(0))
plain = spark.persist("plain", Net)
net = spark.persist("net", lambda: {compiled})
optim = spark.persist("optim", lambda: torch.optim.Adam(net.parameters(), lr=0.01))
loader = spark.persist("loader", lambda: torch.utils.data.DataLoader(
    Images(), batch_size=4, shuffle=True, num_workers=2, generator=torch.Generator().manual_seed(1)))
for epoch in spark.track(range({epochs}), key="epoch"):
    for index, x, y in spark.track(loader, key="batch"):
        loss = step(net, optim, x, y)
        print(json.dumps([epoch, index.tolist(), round(loss.item(), 6), type(plain) is Net, EDIT]), flush=True)
        time.sleep({pause})
print(json.dumps([digest(plain)]), flush=True)
"""


def source(compiled: str = "plain", pause: float = 0.0) -> str:
    return TRAINING.format(epochs=EPOCHS, batches=BATCHES, compiled=compiled, pause=pause)


def straight(folder: Path, compiled: str = "plain") -> list[Any]:
    """What the training says if nobody touches it."""
    folder.mkdir()
    with Edited(folder, source(compiled)) as training:
        return training.over(deadline=100)


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("compiled", "edits"),
    [("plain", 50), pytest.param(COMPILE.format("plain"), 50 if ALL else 15, marks=pytest.mark.tier("all"))],
    ids=["plain", "compiled"],
)
def test_edits_that_change_nothing_change_no_batch_and_no_bit(tmp_path: Path, compiled: str, edits: int) -> None:
    expected = straight(tmp_path / "straight", compiled)
    (tmp_path / "edited").mkdir()
    with Edited(tmp_path / "edited", source(compiled, 0.004)) as training:
        run = training.run()
        for count in range(1, edits + 1):
            training.says(3 * count, deadline=100)
            place = "EDIT = " if count % 2 else "def step"
            training.edit(place, f"# edit {count}\n{place}")
            request = training.reload(timeout=100)
            assert request.fate.state == "applied", request.fate.reason
        assert run.version == edits + 1
        assert training.over(deadline=200) == expected


@pytest.mark.timeout(400)
@pytest.mark.tier("all")
@pytest.mark.parametrize("counted", ["enumerate(loader)", "zip(range(10**6), loader)"], ids=["enumerate", "zip"])
def test_a_loader_with_persistent_workers_is_asked_for_no_iterator_that_nobody_uses(
    tmp_path: Path, counted: str
) -> None:
    # It draws from the generator that the dropout draws from, and has one iterator, which each new one begins over.
    def written(pause: float) -> str:
        found = source(pause=pause).replace(", generator=torch.Generator().manual_seed(1)", ", persistent_workers=True")
        found = found.replace("index, x, y in spark.track(loader,", f"_, (index, x, y) in spark.track({counted},")
        assert "persistent_workers" in found and counted in found
        return found

    (tmp_path / "straight").mkdir()
    with Edited(tmp_path / "straight", written(0)) as training:
        expected = training.over(deadline=100)
    (tmp_path / "edited").mkdir()
    with Edited(tmp_path / "edited", written(0.004)) as training:
        for count in range(1, 11):
            training.says(12 * count, deadline=100)
            training.edit("def step", f"# edit {count}\ndef step")
            request = training.reload(timeout=100)
            assert request.fate.state == "applied", request.fate.reason
        assert training.over(deadline=200) == expected


@pytest.mark.tier("all")
@pytest.mark.timeout(200)
def test_an_edit_that_changes_something_changes_the_weights_as_it_would_without_a_reload(tmp_path: Path) -> None:
    at = BATCHES + 10
    edited = source().replace("loss.backward()", "(loss * 0.5).backward()")
    (tmp_path / "reference").mkdir()
    # A third code, that does one thing up to a batch and the other after it.
    both = source().replace("loss.backward()", f"(loss * (0.5 if next(count) >= {at} else 1)).backward()")
    both = both.replace("EDIT = 0", "import itertools\ncount = itertools.count()\nEDIT = 0")
    with Edited(tmp_path / "reference", both) as training:
        expected = training.over(deadline=100)
    (tmp_path / "edited").mkdir()
    with Edited(tmp_path / "edited", source(pause=0.001)) as training:
        training.says(3)
        run = training.run()
        run.pause(timeout=60)
        until(lambda: len(training.said) >= 3)
        done = len(training.said)
        run.advance(at - done, timeout=60)
        if len(training.said) < at:  # an epoch's end passes a checkpoint too
            run.advance(at - len(training.said), timeout=60)
        assert len(training.said) == at
        reload = run.reload(edited, wait=False)
        run.resume(timeout=60)
        assert reload.wait(60).state == "applied", reload.fate.reason
        said = training.over(deadline=100)
        assert said == expected
    assert said != straight(tmp_path / "straight")


@pytest.mark.timeout(300)
@pytest.mark.tier("all")
def test_compiled_code_runs_the_new_methods_and_the_new_functions_that_they_call(tmp_path: Path) -> None:
    code = """
    import json, time
    import torch
    import spark_fast as spark
    from helper import scale

    class Net(torch.nn.Module):
        def forward(self, x):
            return scale(x) + 1

    def alone(x):
        return scale(x) * 10

    net = spark.persist("net", lambda: NET)
    function = spark.persist("function", lambda: FUNCTION)
    for number in spark.track(range(10**6), key="number"):
        x = torch.ones(3)
        print(json.dumps([net(x)[0].item(), function(x)[0].item()]), flush=True)
        time.sleep(0.002)
    """
    code = code.replace("NET", COMPILE.format("Net()")).replace("FUNCTION", COMPILE.format("alone"))
    with Edited(tmp_path, code, modules={"helper.py": "def scale(x):\n    return x * 2\n"}) as training:
        assert training.says(1, deadline=100)[0] == [3.0, 20.0]
        training.edit("x * 2", "x * 3", "helper.py")
        training.reloaded(timeout=100)
        assert training.says(1, len(training.said), 100)[0] == [4.0, 30.0]
        training.edit("+ 1", "+ 100")
        training.edit("* 10", "* 1000")
        training.reloaded(timeout=100)
        assert training.says(1, len(training.said), 100)[0] == [103.0, 3000.0]


SAVED = """
import copy, io, json, pickle, time
import torch
import spark_fast as spark

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)

    def forward(self, x):
        return self.layer(x), "old"

net = spark.persist("net", Net)
for number in spark.track(range(10**6), key="number"):
    buffer = io.BytesIO()
    torch.save(net, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    again = pickle.loads(pickle.dumps(net))
    deep = copy.deepcopy(net)
    fresh = Net()
    fresh.load_state_dict(net.state_dict())
    same = all(
        torch.equal(other.layer.weight, net.layer.weight) and type(other) is Net and isinstance(net, Net)
        for other in (loaded, again, deep, fresh)
    )
    print(json.dumps([number, same, net(torch.ones(2))[1], deep(torch.ones(2))[1]]), flush=True)
    time.sleep(0.002)
"""


def test_models_are_saved_loaded_copied_and_pickled_after_a_reload(tmp_path: Path) -> None:
    with Edited(tmp_path, SAVED) as training:
        assert training.says(2)[0][1:] == [True, "old", "old"]
        training.edit('"old"', '"new"')
        training.reloaded()
        count = len(training.said)
        assert training.says(3, count)[0][1:] == [True, "new", "new"]


@pytest.mark.tier("all")
@pytest.mark.timeout(200)
def test_a_training_that_was_steered_by_hand_has_the_same_weights_when_it_is_replayed(tmp_path: Path) -> None:
    (tmp_path / "steered").mkdir()
    script = tmp_path / "steered" / "project" / "train.py"
    with Edited(tmp_path / "steered", source(pause=0.004)) as training:
        training.says(10, deadline=100)
        run = training.run()
        run.pause(timeout=60)
        run.advance(5, timeout=60)
        run.resume(timeout=60)
        training.edit("loss.backward()", "(loss * 0.5).backward()")
        training.reloaded(timeout=60)
        training.says(90, deadline=100)
        training.edit("lr=0.01", "lr=undefined")  # of an initializer that has run: changes nothing
        training.edit("loss = step", "loss = undefined; loss = step")
        assert training.reload(timeout=60).fate.state == "failed"
        training.edit("loss = undefined; ", "")
        training.edit("return loss\n", "optim.param_groups[0]['lr'] *= 0.99\n    return loss\n")
        training.reloaded(timeout=60)
        said = training.over(deadline=100)
    (path,) = journal.folder().glob("*.jsonl")
    training.write("train.py", source(pause=0.004))
    command = ["-m", "spark_fast.worker", "run", str(script)]
    told = json.dumps({"replay": str(path), "journal": "off"})
    done = subprocess.run(
        [sys.executable, *command],
        env=os.environ | {"SPARK_FAST_RUNNER": told, "SPARK_FAST_RUN": "test"},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == said
    assert said[-1] != straight(tmp_path / "straight")[-1]
