"""vLLM as the engine of a RagService, in the service's process."""
