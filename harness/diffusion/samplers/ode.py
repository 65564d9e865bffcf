"""What `euler` and `heun` share: the probability-flow equation dz/dt = a' x0 + b' noise of an objective's path.

On the line of `flow` that is the velocity itself; of `edm`, whose time is sigma, (z - D(z)) / sigma (its equation 3).
"""

from torch import Tensor

from harness.diffusion.base import Model
from harness.diffusion.objectives.base import Objective


def slope(objective: Objective, model: Model, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
    """dz/dt (N, C, S, S) at one time t () for the whole batch."""
    times = t.to(z).expand(len(z))  # (N,)
    found = objective.predict(model, z, times, y)
    along_image, along_noise = objective.rates(times)  # (N, 1, 1, 1) each
    return along_image * found.x0 + along_noise * found.noise
