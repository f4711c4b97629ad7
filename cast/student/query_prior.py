"""A spatial prior for queries trained from scratch in few steps; not part of the paper's model.

Learned queries must first discover where to look, which takes a pretrained encoder or many steps. Here each
query starts from the content of one cell of a coarse grid and prefers a mask near it; layer by layer it says
where, how wide and how strongly.
Letters in shapes: B images, Q queries = rows × columns of the grid, D channels, h×w cells of a map.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Every query starts with a disc of its own to attend to, of radius σ√(2·peak), a little less than a cell.
INITIAL_WIDTH = 0.6  # σ in cells of the grid
INITIAL_PEAK = 1.0  # logit at the centre


class QueryPrior(nn.Module):
    """Grid-pooled contents of the queries and a Gaussian on their mask logits, for any image size."""

    def __init__(self, num_queries: int, encoder_dim: int, decoder_dim: int) -> None:
        """The grid is the most nearly square one with `num_queries` cells."""
        super().__init__()
        rows = next(r for r in range(math.isqrt(num_queries), 0, -1) if num_queries % r == 0)
        self.grid = (rows, num_queries // rows)
        self.project = nn.Linear(encoder_dim, decoder_dim)
        # Per query: shift of the centre (row, column) and log σ (row, column), in cells, and the peak.
        self.gaussian = nn.Linear(decoder_dim, 5)
        nn.init.zeros_(self.gaussian.weight)
        width = math.log(INITIAL_WIDTH)
        with torch.no_grad():
            self.gaussian.bias.copy_(torch.tensor([0.0, 0.0, width, width, INITIAL_PEAK]))

    def contents(self, features: Tensor) -> Tensor:
        """(B, Q, decoder_dim) from the deepest encoder map (B, D, h, w)."""
        return self.project(F.adaptive_avg_pool2d(features, self.grid).flatten(2).transpose(1, 2))

    def mask_offsets(self, queries: Tensor, size: Sequence[int]) -> Tensor:
        """(B, Q, h, w) added to the mask logits of queries (B, Q, decoder_dim): a Gaussian in the odds.

        peak − (y − cy)²/2σy² − (x − cx)²/2σx², float32, in cells of the grid.
        """
        row, column, high, wide, peak = self.gaussian(queries).float().unbind(-1)
        rows, columns = self.grid
        query = torch.arange(rows * columns, device=queries.device)
        above = _exponents(query // columns + 0.5 + row, high, rows, size[0])
        beside = _exponents(query % columns + 0.5 + column, wide, columns, size[1])
        return (peak[..., None] - above)[..., None] - beside[..., None, :]


def _exponents(centres: Tensor, log_widths: Tensor, cells: int, length: int) -> Tensor:
    """(B, Q, length): d²/2σ² of each pixel centre along an axis of `cells` cells, from (B, Q) in cells."""
    pixels = (torch.arange(length, device=centres.device, dtype=centres.dtype) + 0.5) * (cells / length)
    return ((pixels - centres[..., None]) / log_widths.exp()[..., None]) ** 2 / 2
