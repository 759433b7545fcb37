"""The embedded engine: transformers' layers with our attention, over packed batches."""
