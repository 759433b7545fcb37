"""Which KV may serve a prompt? Plans, and the rule that makes them."""
