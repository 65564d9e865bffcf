"""What is measured of a trained model, and against what. The door is `registry`."""
