"""Experiments: each file is only its difference, `trials(scale) -> list[Trial]`, and imports only `harness.config`."""
