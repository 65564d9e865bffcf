"""A sheet of samples: what people look at beside the numbers."""

from torch import Tensor

from harness.data.base import to_rgb

COLUMNS = 8  # samples of each class on a sheet


def sheet(images: Tensor, classes: int) -> Tensor:
    """Samples in sequence order, uint8 (N, C, S, S) -> (rows*S, columns*S, 3): row r holds class r, at most 10 rows."""
    rows, side = min(classes, 10, len(images)), images.shape[-1]
    if classes > rows:  # too many classes for a row each: the first samples, in order
        rows = min(10, max(1, len(images) // COLUMNS))
        tiles = images[: rows * COLUMNS].unflatten(0, (rows, -1))
    else:
        columns = min(COLUMNS, len(images) // rows)
        tiles = images[: rows * columns].unflatten(0, (columns, rows)).transpose(0, 1)  # (rows, columns, C, S, S)
    rgb = to_rgb(tiles.flatten(0, 1)).unflatten(0, tiles.shape[:2])  # (rows, columns, 3, S, S)
    return rgb.permute(0, 3, 1, 4, 2).reshape(rows * side, -1, 3)
