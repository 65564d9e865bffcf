"""Ray Tune and what people see of it: the only room that knows Ray."""
