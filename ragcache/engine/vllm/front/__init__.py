"""vLLM as the engine of a RagService."""
