"""Metrics as modules of Hugging Face `evaluate`: each file also loads by its path with `evaluate.load`."""
