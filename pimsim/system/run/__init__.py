"""A run: the discrete-event simulation of one system over its workload."""
