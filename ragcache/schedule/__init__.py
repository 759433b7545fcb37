"""Whose turn is it? The order of waiting requests, admission, generation and speculation."""
