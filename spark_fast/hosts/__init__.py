"""Jobs of several hosts: see `protocol` for how they agree."""
