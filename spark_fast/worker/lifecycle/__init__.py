"""The beginning and the end of a worker: its rank, its forks, its stop."""
