"""What do people read of it? Streams that are safe for terminals and pipes, and the log."""
