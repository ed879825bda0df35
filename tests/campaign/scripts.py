"""The trainings that the campaign runs. Each writes down at each step its item, and what was set and called."""

__all__ = ["DDP", "LOOP", "THREADS"]

_BEGIN = """
import faulthandler, json, os, random, signal, time
#IMPORTS
import spark_fast as spark
from spark_fast._core import worker

faulthandler.register(signal.SIGUSR2, all_threads=True)
rank = int(os.environ["RANK"])
calls = spark.persist("calls", list)
untold = spark.persist("untold", list)
flags = os.O_CREAT | os.O_APPEND | os.O_WRONLY
told = spark.persist("told", lambda: os.open(f"{os.environ['TOLD']}.{rank}", flags, 0o600))
clock = spark.persist("clock", lambda: [0.0, time.time])

def note(number: int):
    calls.append(number)
    return [rank, number]

def jump(seconds: float):
    "Have the clock on the wall jump."
    clock[0] += seconds
    time.time = lambda: clock[1]() + clock[0]
    return clock[0]

def broken(number: int):
    raise ValueError(f"no data for {number}")

state = spark.expose(lr=0.1, note=note, jump=jump, broken=broken)

def tell(**what):
    "Write a line; while the disk is full, keep it for later."
    untold.append(json.dumps(what).encode() + b"\\n")
    while untold:
        try:
            written = os.write(told, untold[0])
        except OSError:
            return
        untold[0] = untold[0][written:]
        if not untold[0]:
            del untold[0]

sleeps = random.Random(rank)
#BEFORE
try:
    for item in spark.track(range(10**9), key="batch"):
        made = calls[:]
        del calls[: len(made)]  # another thread may add one meanwhile
        tell(step=worker.step(), item=item, lr=state.lr, calls=made)
        #BODY
        time.sleep(sleeps.random() * 0.004)
except spark.SparkStopError as stop:
    tell(stopped=stop.step)
#AFTER
"""

LOOP = _BEGIN
"""One keyed loop."""

THREADS = (
    _BEGIN.replace(
        "#BEFORE",
        """
import threading
ended = threading.Event()

def also():
    while not ended.is_set():
        try:
            spark.checkpoint()
        except spark.SparkStopError:
            return
        time.sleep(0.003)

threads = spark.persist("threads", lambda: [threading.Thread(target=also, daemon=True) for _ in range(2)])
for thread in threads:
    if not thread.ident:
        thread.start()
""",
    )
    .replace(
        "#BODY",
        """
        if item % 50 == 0:
            child = os.fork()
            if child == 0:
                os._exit(0)
            os.waitpid(child, 0)
""".strip(),
    )
    .replace("#AFTER", "ended.set()\nfor thread in threads:\n    thread.join()\n")
)
"""Two other threads pass checkpoints too, and the loop forks children."""

DDP = (
    _BEGIN.replace("#IMPORTS", "import torch\nimport torch.distributed as dist")
    .replace("#BEFORE", 'dist.init_process_group("gloo")\nweights = torch.ones(1000)')
    .replace("#BODY", "dist.all_reduce(weights)\n        weights /= dist.get_world_size()")
    .replace("#AFTER", "dist.barrier()\ndist.destroy_process_group()\n")
)
"""Ranks that meet in a collective of gloo in each step."""
