"""The scheduler's half of the connector: what to load, keep and give up."""
