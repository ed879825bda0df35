"""The source files of a run: which they are, how they are read, and those of spawned processes."""
