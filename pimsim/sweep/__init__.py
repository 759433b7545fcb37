"""Design-space sweeps: many points of a simulator, their Pareto front, and which parameter matters."""
