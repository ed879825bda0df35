"""Replaces the code of a running script."""
