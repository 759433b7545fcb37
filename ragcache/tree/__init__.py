"""What is known? Segments, and the tree of documents in context."""
