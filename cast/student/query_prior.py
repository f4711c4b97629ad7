"""A spatial prior for queries trained from scratch in few steps; not part of the paper's model.

Learned queries must first discover where to look, which takes a pretrained encoder or many steps. Here each
query starts from the content of one cell of a coarse grid and prefers a mask near it.
Letters in shapes: B images, Q queries = rows × columns of the grid, D channels, h×w cells of a map.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

INITIAL_WIDTH = 0.6  # σ in cells of the grid; learned from there


class QueryPrior(nn.Module):
    """Grid-pooled contents of the queries and a Gaussian on their mask logits, for any image size."""

    def __init__(self, num_queries: int, encoder_dim: int, decoder_dim: int) -> None:
        """The grid is the most nearly square one with `num_queries` cells."""
        super().__init__()
        rows = next(r for r in range(math.isqrt(num_queries), 0, -1) if num_queries % r == 0)
        self.grid = (rows, num_queries // rows)
        self.project = nn.Linear(encoder_dim, decoder_dim)
        # log σ in cells of the grid and the logit at the centre: every query starts with a disc of its own to
        # attend to, of radius σ√(2·peak), a little less than a cell.
        self.log_width = nn.Parameter(torch.tensor(INITIAL_WIDTH).log())
        self.peak = nn.Parameter(torch.ones(()))

    def contents(self, features: Tensor) -> Tensor:
        """(B, Q, decoder_dim) from the deepest encoder map (B, D, h, w)."""
        return self.project(F.adaptive_avg_pool2d(features, self.grid).flatten(2).transpose(1, 2))

    def mask_offsets(self, size: Sequence[int]) -> Tensor:
        """(Q, h, w) added to mask logits: peak − d²/2σ², a Gaussian about each query's cell in the odds."""
        rows, columns = (
            self._squared_distances(cells, length) for cells, length in zip(self.grid, size, strict=True)
        )
        squared = rows[:, None, :, None] + columns[None, :, None, :]
        return self.peak - squared.flatten(0, 1) / (2 * torch.exp(2 * self.log_width))

    def _squared_distances(self, cells: int, length: int) -> Tensor:
        """(cells, length): squared distance, in cells, of each pixel centre from each cell centre."""
        like = self.log_width
        centres = torch.arange(cells, device=like.device, dtype=like.dtype) + 0.5
        pixels = (torch.arange(length, device=like.device, dtype=like.dtype) + 0.5) * (cells / length)
        return (pixels[None] - centres[:, None]) ** 2
