"""The kill-and-fault campaign: real jobs under random requests, kills, faults and bad inputs, and what must hold.

    python -m tests.campaign --hours 8 --seed 1

docs/reliability.md says what it does and has the figures, which the campaign writes there itself.
"""
