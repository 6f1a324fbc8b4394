"""Training data: sources, the exact tokens a model is trained on, and the prepared dataset."""
