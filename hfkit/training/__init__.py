"""Training: one module a method over transformers.Trainer."""
