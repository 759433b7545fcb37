"""One request's life, from the question to its last token."""
