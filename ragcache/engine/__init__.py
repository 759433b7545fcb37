"""Who computes? One protocol, and the engines behind it."""
