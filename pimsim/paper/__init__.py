"""HeterRAG's evaluation on this model: its runs, its figures beside ours, and the plot of both."""
