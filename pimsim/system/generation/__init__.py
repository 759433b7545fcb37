"""Generation: the engines that prefill and decode, and what that costs."""
