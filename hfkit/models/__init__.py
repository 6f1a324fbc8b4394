"""Models: where they come from, in which precision they run, and how they speak."""
