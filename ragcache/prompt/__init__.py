"""What does the model read, and what is its answer's text?"""
