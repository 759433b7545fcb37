"""vLLM joined, not forked: the knowledge tree as its outer cache, through the interfaces that vLLM releases."""
