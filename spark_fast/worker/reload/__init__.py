"""Takes new code into a running script."""
