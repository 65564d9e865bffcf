"""Names of layers and weights in two programs at once, made from tables: ours -> theirs."""

from collections.abc import Iterable, Mapping

from torch import Tensor

from harness.errors import ConfigError

WITHOUT_BIAS = {"label"}


def of_layers(outside: Mapping[str, str], block: Mapping[str, str], blocks: str, depth: int) -> dict[str, str]:
    """The table of a whole network, from that of what lies outside its blocks and that of one block.

    Our blocks are `blocks.0`, `blocks.1`, ...; `blocks` is their name for it.
    """
    inside = {f"blocks.{i}.{a}": f"{blocks}.{i}.{b}" for i in range(depth) for a, b in block.items()}
    return {**outside, **inside}


def of_weights(layers: Mapping[str, str]) -> dict[str, str]:
    """The weights and biases of these layers."""
    parts = {a: ("weight",) if a in WITHOUT_BIAS else ("weight", "bias") for a in layers}
    return {f"{a}.{part}": f"{b}.{part}" for a, b in layers.items() for part in parts[a]}


def require(found: Iterable[str], needed: Iterable[str], what: str) -> None:
    """Raises ConfigError for the first name that is missing or too many."""
    found, needed = set(found), set(needed)
    for wrong, word in ((needed - found, "lacks"), (found - needed, "has an unknown")):
        if wrong:
            raise ConfigError(f"{what} {word} '{min(wrong)}'{f' and {len(wrong) - 1} more' if len(wrong) > 1 else ''}")


def to_convolution(weight: Tensor, patch: int) -> Tensor:
    """A linear layer over `patchify`'s tokens (D, P*P*C) as a convolution of stride P (D, C, P, P)."""
    return weight.view(len(weight), patch, patch, -1).permute(0, 3, 1, 2).contiguous()  # (D, C, P, P)


def from_convolution(weight: Tensor) -> Tensor:
    """The inverse of `to_convolution`."""
    return weight.permute(0, 2, 3, 1).reshape(len(weight), -1)  # (D, P*P*C)
