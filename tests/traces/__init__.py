"""Traces of what a worker does, call by call, which stay the same while its code is restructured.

`record.py` runs a script with a core that logs its calls. `scenarios.py` holds the scripts: each asks itself for
pauses, values, reloads and stops, so that the order of all calls is fixed. A trace is the log, the journal and what the
script prints, without what differs from run to run: ids, times, process ids and paths. The expected traces lie in
`expected/`.

    python -m tests.traces            compares all of them
    python -m tests.traces --write    writes them anew, after a change of behaviour that is meant

Read how they differ before you write them anew: where a call moved, a lock or a line of the journal moved with it.
"""
