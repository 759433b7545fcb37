"""The cache alone: a trace replayed through it without tensors and without waiting."""
