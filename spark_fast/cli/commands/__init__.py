"""The commands of `spark-fast`, a module for each group. See cli/app.py, which registers them.

A command imports what it needs when it is called: `--help` loads all of these modules, and needs nothing else.
"""
