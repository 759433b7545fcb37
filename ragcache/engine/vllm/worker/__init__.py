"""The connector in vLLM's workers: moves blocks of KV."""
