"""hfkit: one recipe from documents and examples to a fine-tuned, evaluated, retrieval-augmented assistant."""

__version__ = "0.1.0"
