"""Runs a script or a function whose code can be reloaded."""
