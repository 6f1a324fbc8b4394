"""Publishing on the Hugging Face Hub: what of a run is pushed, its cards, and the one commit that it goes in."""
