"""Datasets: what they are, where their files come from, images and latents on disk. The door is `registry`."""
