"""The experiment machine: a config goes in, a trained and measured Diffusion Transformer comes out."""
