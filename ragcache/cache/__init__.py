"""Whose KV do we have? Leases, tiers and the moves between them."""
