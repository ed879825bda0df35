"""What the script declares to the worker: values, hooks, loops, persisted objects."""
