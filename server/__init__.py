"""How is it asked? The HTTP API over the service."""
