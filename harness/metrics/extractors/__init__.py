"""One file a feature extractor. The door is `registry`."""
