"""What training will hold in memory, reckoned from a model's configuration before anything is loaded."""
