"""The words of this room."""

from collections.abc import Callable

import torch
from torch import Tensor

Model = Callable[[Tensor, Tensor, Tensor], Tensor]
Random = torch.Generator | None
