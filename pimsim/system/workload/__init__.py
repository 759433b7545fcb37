"""The requests of a run: when they come, how long they are, and which documents they find."""
