"""Diffusion as functions of tensors: the process, what is predicted (`objectives`), how it is sampled (`samplers`)."""
