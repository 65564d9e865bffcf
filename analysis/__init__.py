"""Reads what a sweep logged to MLflow and redraws the paper's scaling curves; no torch, nothing on import."""
