"""The benchmark: `make bench`, or `python -m bench`. Every figure stands beside a twin, in one run."""
