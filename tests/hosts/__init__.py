"""Tests of jobs of several hosts."""
