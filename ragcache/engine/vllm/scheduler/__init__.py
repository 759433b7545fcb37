"""The connector in vLLM's scheduler: what to load, keep and give up."""
