"""One file a sampler. The door is `registry`."""
