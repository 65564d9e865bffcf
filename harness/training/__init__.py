"""The training loop, what it holds and how that is kept on disk."""
