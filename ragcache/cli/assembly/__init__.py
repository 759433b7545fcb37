"""How a RagService is put together from its settings."""
