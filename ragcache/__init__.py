"""Whose KV do we have? Prompts, the knowledge tree, its policies and tiers, and the service that answers from them."""
