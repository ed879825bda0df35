"""Tests of one worker in a process of its own."""
