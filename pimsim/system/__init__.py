"""System: a whole retrieval-augmented system, HeterRAG and its baselines, as a discrete-event model over a workload."""
