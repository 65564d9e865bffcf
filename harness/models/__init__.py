"""Backbones: the parts that transformers share, one file a backbone. The door is `registry`."""
