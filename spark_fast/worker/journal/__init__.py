"""The journal as the worker writes it, and as it replays one."""
