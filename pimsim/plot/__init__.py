"""Plots of sweeps: the Pareto front, lines and tornados. They need matplotlib, the extra `plot`."""
