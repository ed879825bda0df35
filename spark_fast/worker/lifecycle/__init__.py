"""How a worker begins and ends: its rank, its forks, its stop."""
