"""Examples: studies of a few lines. `python -m pimsim.examples.placement OUT` sweeps, and draws into the folder OUT."""
