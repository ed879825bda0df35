"""What lies in a run's folder, as both the worker and its controllers read it."""
