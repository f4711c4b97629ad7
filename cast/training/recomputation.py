"""Activations computed again in the backward pass, not kept (gradient checkpointing, arXiv 1604.06174)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

# How the libraries and this package name what is repeated in depth: SwinLayer, Sam2MultiScaleBlock, Block …
LAYER_NAMES = ("Layer", "Block")


def repeated_layers(model: nn.Module) -> list[nn.Module]:
    """The outermost layers of all encoders and decoders, by the names of their classes."""
    found: list[nn.Module] = []
    for child in model.children():
        if type(child).__name__.endswith(LAYER_NAMES):
            found.append(child)
        else:
            found += repeated_layers(child)
    return found


@contextmanager
def recomputed(model: nn.Module, enabled: bool) -> Iterator[None]:
    """Within the context every layer of `model` keeps its inputs alone and runs again in the backward pass.

    Results and gradients stay the same, random numbers included; a step takes about a third longer.

    Args:
        model: a student or composite teacher.
        enabled: False changes nothing.
    """
    layers = repeated_layers(model) if enabled else []
    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward  # the class's own comes back
