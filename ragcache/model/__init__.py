"""Which model? Where its weights lie, and its sizes."""
