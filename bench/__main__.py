"""`make bench`, or `python -m bench [--quick]`: all figures, into docs/benchmarks.md, and some of them into README.

Exits with an error only when a measurement broke; a target that is missed is marked.
"""

import argparse
import compileall
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
README = ROOT / "README.md"
IMAGE = "benchmarks.svg"


def main() -> None:
    """Measure everything, and write the pages."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a smoke run of two minutes: its figures are rough")
    parser.add_argument(
        "--out",
        type=Path,
        default=DOCS,
        help="the folder for the page, its plot and README's part (default: docs, and README itself)",
    )
    options = parser.parse_args()
    quick: bool = options.quick

    from bench import hosts, idle, longest, parked, ranks, readme, reload, report, results, start, values, wake, web
    from bench.homes import become_worker

    began = time.monotonic()

    def say(what: str) -> None:
        print(f"[{time.monotonic() - began:4.0f} s] {what}", file=sys.stderr, flush=True)

    # An installed package has its bytecode. A clone may lack it, where the environment keeps Python from writing any.
    compileall.compile_dir(ROOT / "spark_fast", quiet=1)
    become_worker()
    say("a step, beside what people use instead")
    found_idle = idle.measure(rounds=15 if quick else 100, seconds=0.002 if quick else 0.005)
    say("from a resume to the loop running again")
    wakes = {"where the system puts them": wake.measure(50 if quick else 500)}
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) > 1:
        wakes["each on a CPU of its own"] = wake.measure(50 if quick else 500, (cpus[0], cpus[1]))
    say("parked")
    found_parked = parked.measure(5.0 if quick else 20.0)
    say("import")
    imports = start.measure_import(30 if quick else 200)
    say("the list of a thousand runs")
    listing = start.measure_list(runs=1000, live=100, rounds=3 if quick else 11)
    say("new code")
    reloads = reload.measure(quick=quick)
    say("values and calls")
    found_values = values.measure(quick=quick)
    say("many ranks")
    found_ranks = ranks.measure(quick=quick)
    say("many hosts")
    found_hosts = hosts.measure(quick=quick)
    say("the web server")
    found_web = web.measure(quick=quick)
    say("the longest of many calls")
    slow_calls = longest.measure(calls=300_000 if quick else 10_000_000, seconds=3.0 if quick else 60.0)

    found = results.Results(
        quick=quick,
        took=time.monotonic() - began,
        idle=found_idle,
        wakes=wakes,
        parked=found_parked,
        imports=imports,
        listing=listing,
        longest=slow_calls,
        reload=reloads,
        values=found_values,
        ranks=found_ranks,
        hosts=found_hosts,
        web=found_web,
    )
    options.out.mkdir(parents=True, exist_ok=True)
    report.plot(found, options.out / IMAGE)
    (options.out / "benchmarks.md").write_text(report.text(found, IMAGE), encoding="utf-8")
    say(f"wrote {options.out / 'benchmarks.md'}")
    if options.out == DOCS:
        readme.rewrite(README, found)
        say(f"wrote {README}")
    else:
        (options.out / "readme.md").write_text(readme.section(found), encoding="utf-8")
    print(report.summary(found))


if __name__ == "__main__":
    main()
