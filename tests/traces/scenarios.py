"""The scripts of which traces are taken. Each asks itself for what it then does, so the order of calls is fixed."""

HEAD = """
import os, signal, sys, threading, time
import spark_fast as spark
from spark_fast import _core, client

def me():
    return client.attach("trace")

def when_paused(act, blocks=True):
    # From another thread, once this process is parked. An event loop that is parked does not block its thread.
    def wait():
        run = me()
        while run.status != "paused":
            time.sleep(0.001)
        if blocks:
            waits()
        act(run)
    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread

def waits():
    # Until the thread that is parked has done what was asked, and waits again.
    while not _core.worker.waiting:
        time.sleep(0.001)

def steps(count=1):
    for _ in range(count):
        spark.checkpoint()
"""

PLAIN = {
    "a loop that ends": "steps(3)",
    "an error ends it": "steps(2)\nraise ValueError('broken')",
    "it exits with a status": "steps(2)\nsys.exit(3)",
    "a pause and a resume": """
steps(2)
me().pause(wait=False)
thread = when_paused(lambda run: run.resume())
steps(2)
thread.join()
""",
    "a pause that ends by itself": """
steps(2)
me().pause(wait=False, resume_after=0.05)
steps(2)
""",
    "a pause that is resumed before the checkpoint": """
steps(2)
me().pause(wait=False)
me().resume(wait=False)
steps(2)
""",
    "two pauses, one after the other": """
steps(1)
me().pause(wait=False)
me().pause(wait=False)
thread = when_paused(lambda run: run.resume())
steps(2)
thread.join()
""",
    "steps one by one": """
steps(2)
me().pause(wait=False)
def act(run):
    run.advance(2)
    waits()
    run.resume()
thread = when_paused(act)
steps(5)
thread.join()
""",
    "a stop that is caught": """
steps(2)
me().stop(wait=False)
try:
    steps(2)
except spark.SparkStopError as stop:
    print("stopped at", stop.step)
    steps(2)
""",
    "a stop that ends it": "steps(2)\nme().stop(wait=False)\nsteps(2)",
    "a stop that is swallowed": """
steps(2)
me().stop(wait=False)
for _ in range(3):
    try:
        spark.checkpoint()
    except BaseException:
        print("swallowed")
""",
    "a stop with a function to call": """
spark.on_stop(lambda: print("saved"))
steps(2)
me().stop(wait=False)
steps(2)
""",
    "a stop of two threads": """
steps(2)
me().stop(wait=False)
def work():
    try:
        spark.checkpoint()
    except spark.SparkStopError:
        print("thread stopped")
thread = threading.Thread(target=work)
thread.start()
while thread.is_alive():  # a thread that joins it would be spared the stop
    time.sleep(0.001)
try:
    spark.checkpoint()
except spark.SparkStopError:
    print("main stopped")
""",
    "a value": """
state = spark.expose(lr=0.1)
steps(2)
me().set("lr", 0.5, wait=False)
steps(1)
print(state.lr)
""",
    "several values": """
state = spark.expose(lr=0.1, n=1)
steps(2)
me().set({"lr": 0.5, "n": 2}, wait=False)
steps(1)
print(state.lr, state.n)
""",
    "a value that does not fit": """
state = spark.expose(lr=spark.value(0.1, max=1.0))
steps(2)
from spark_fast.errors import SparkError
request = me().set("lr", 5.0, wait=False)
steps(1)
print(state.lr, request.fate.state)
""",
    "a value whose function raises": """
def refuse(value):
    raise ValueError("not now")
state = spark.expose(lr=spark.value(0.1, on_set=refuse))
steps(2)
request = me().set("lr", 0.5, wait=False)
steps(1)
print(state.lr, request.fate.state)
""",
    "a value while it is paused": """
state = spark.expose(lr=0.1)
steps(2)
me().pause(wait=False)
def act(run):
    run.set("lr", 0.5)
    waits()
    run.resume()
thread = when_paused(act)
steps(2)
thread.join()
print(state.lr)
""",
    "a function": """
def double(n):
    return 2 * n
spark.expose(double=double)
steps(2)
thread = threading.Thread(target=lambda: print(me().call("double", 21)))
thread.start()
while thread.is_alive():
    if spark.pending():
        spark.checkpoint()
    time.sleep(0.001)
""",
    "a function that raises": """
def broken():
    raise ValueError("broken")
spark.expose(broken=broken)
steps(2)
def ask():
    try:
        me().call("broken")
    except Exception as error:
        print(type(error).__name__)
thread = threading.Thread(target=ask)
thread.start()
while thread.is_alive():
    if spark.pending():
        spark.checkpoint()
    time.sleep(0.001)
""",
    "a value that is set within a function": """
def double():
    me().set("lr", 1.0, wait=False)
    spark.checkpoint()
    return state.lr
state = spark.expose(lr=0.1)
spark.expose(double=double)
steps(2)
thread = threading.Thread(target=lambda: print(me().call("double")))
thread.start()
while thread.is_alive():
    if spark.pending():
        spark.checkpoint()
    time.sleep(0.001)
print(state.lr)
""",
    "a pause within a function": """
def wait():
    me().pause(wait=False)
    thread = when_paused(lambda run: run.resume())
    spark.checkpoint()
    return "waited"
spark.expose(wait=wait)
steps(2)
thread = threading.Thread(target=lambda: print(me().call("wait")))
thread.start()
while thread.is_alive():
    if spark.pending():
        spark.checkpoint()
    time.sleep(0.001)
""",
    "a stop within a function": """
def save():
    me().stop(wait=False)
    spark.checkpoint()
    return "saved"
spark.expose(save=save)
steps(2)
def ask():
    try:
        me().call("save")
    except client.SparkCallError:
        print("left")
thread = threading.Thread(target=ask)
thread.start()
while not spark.pending():
    time.sleep(0.001)
try:
    spark.checkpoint()
    spark.checkpoint()
except spark.SparkStopError:
    thread.join()
    print("stopped")
""",
    "hooks of a pause that pass checkpoints": """
spark.on_pause(lambda: (print("pauses"), spark.checkpoint()))
spark.on_resume(lambda: (print("resumes"), spark.checkpoint()))
steps(2)
me().pause(wait=False)
thread = when_paused(lambda run: run.resume())
steps(2)
thread.join()
""",
    "a hook that raises": """
spark.on_pause(lambda: 1 / 0)
steps(2)
me().pause(wait=False)
thread = when_paused(lambda run: run.resume())
steps(2)
thread.join()
""",
    "a controller in the training": """
steps(2)
control = spark.create_controller()
print(control.status)
control.pause()
thread = when_paused(lambda run: run.resume())
steps(2)
thread.join()
control.stop()
try:
    steps(2)
except spark.SparkStopError:
    print("stopped")
""",
    "a child that is forked before the first checkpoint": """
pid = os.fork()
if pid == 0:
    os._exit(0)
os.waitpid(pid, 0)
steps(2)
""",
    "a child that trains": """
steps(2)
pid = os.fork()
if pid == 0:
    steps(2)
    os._exit(0)
os.waitpid(pid, 0)
steps(2)
""",
    "a signal before the first checkpoint": """
spark.configure(stop_signals=("SIGTERM",))
steps(1)
os.kill(os.getpid(), signal.SIGTERM)
try:
    steps(3)
except spark.SparkStopError:
    print("stopped")
""",
    "a checkpoint of an event loop": """
import asyncio
async def train():
    await spark.checkpoint_async()
    me().pause(wait=False)
    thread = when_paused(lambda run: run.resume(), blocks=False)
    await spark.checkpoint_async()
    thread.join()
asyncio.run(train())
""",
    "loops with keys": """
for each in spark.track(range(3), key="epochs"):
    for item in spark.track("ab", key="items"):
        spark.checkpoint()
""",
    "what is persisted": """
state = spark.persist("state", lambda: {"n": 0})
steps(2)
print(spark.has_persisted("state"), spark.persist("state", lambda: {"n": 9}))
spark.clear_persisted("state")
print(spark.has_persisted("state"))
""",
}

RELOADING = """
import json, os, pathlib, sys, threading, time
import spark_fast as spark
from spark_fast import _core, client

FILE = pathlib.Path(__file__)

def edit(old, new, file=FILE):
    file.write_text(file.read_text().replace(old, new))

def reload(**options):
    client.attach("trace").reload(wait=False, **options)
"""

_KEPT = """
WORD = "old"
done = spark.persist("done", lambda: [])
"""

_TRAIN = """
for item in spark.track(range(3), key="items"):
    done.append((item, WORD))
    if item == 1 and len(done) == 2:
        edit('WORD = "ol' + 'd"', 'WORD = "new"')
        reload()
    spark.checkpoint()
print(done)
""".lstrip()
"""A loop with a key. In its second item it edits its own file and asks for a reload."""

RELOADS = {
    "a reload": _KEPT + _TRAIN,
    "a reload of code that raises": _KEPT
    + """if WORD == "new":
    raise ValueError("broken")
"""
    + _TRAIN,
    "a reload of code that does not compile": _KEPT + _TRAIN.replace('WORD = "new"', 'WORD = = "new"'),
    "a reload whose module does not import": _KEPT + _TRAIN.replace('WORD = "new"', "import not_there"),
    "a reload whose class can't be made": _KEPT
    + """class Meta(type):
    def __init__(cls, name, bases, space):
        if WORD == "new":
            raise TypeError("no such class")
class Thing(metaclass=Meta):
    word = WORD
"""
    + _TRAIN,
    "a reload that would start over": """
WORD = "old"
for item in range(4):
    print(item, WORD)
    if item == 1 and WORD == "old":
        edit('WORD = "ol' + 'd"', 'WORD = "new"')
        reload()
    spark.checkpoint()
""",
    "a reload that is to start over": """
WORD = "old"
for item in range(3):
    print(item, WORD)
    if item == 1 and WORD == "old":
        edit('WORD = "ol' + 'd"', 'WORD = "new"')
        reload(restart=True)
    spark.checkpoint()
""",
    "a reload with a value that is set": """
WORD = "old"
state = spark.expose(lr=0.1)
done = spark.persist("done", lambda: [])
for item in spark.track(range(3), key="items"):
    done.append((item, WORD, state.lr))
    if item == 1 and WORD == "old":
        client.attach("trace").set("lr", 0.5, wait=False)
        edit('WORD = "ol' + 'd"', 'WORD = "new"')
        reload()
    spark.checkpoint()
print(done)
""",
    "a reload, and a stop behind it": """
WORD = "old"
done = spark.persist("done", lambda: [])
try:
    for item in spark.track(range(3), key="items"):
        done.append((item, WORD))
        if item == 1 and len(done) == 2:
            edit('WORD = "ol' + 'd"', 'WORD = "new"')
            reload()
            client.attach("trace").stop(wait=False)
        spark.checkpoint()
except spark.SparkStopError:
    print("stopped")
print(done)
""",
    "an error after a reload, and a stop": """
WORD = "old"
done = spark.persist("done", lambda: [])
spark.on_stop(lambda: print("saved"))
def stop():
    run = client.attach("trace")
    while run.error is None or not _core.worker.waiting:
        time.sleep(0.001)
    run.stop(wait=False)
for item in spark.track(range(4), key="items"):
    done.append((item, WORD))
    if item == 2 and WORD == "new":
        threading.Thread(target=stop, daemon=True).start()
        raise ValueError("broken")
    if item == 1 and WORD == "old":
        edit('WORD = "ol' + 'd"', 'WORD = "new"')
        reload()
    spark.checkpoint()
print(done)
""",
}
