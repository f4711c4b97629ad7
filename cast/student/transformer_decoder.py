"""Mask2Former's masked-attention transformer decoder (arXiv 2112.01527, section 3.2).

Letters in shapes: B images, Q queries, C classes without no-object, D decoder channels, h×w cells.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cast.config import StudentSettings
from cast.errors import CastError
from cast.student.pixel_decoder import NUM_SCALES
from cast.student.query_prior import QueryPrior


class TransformerDecoder(nn.Module):
    """Queries that attend, within their own predicted masks, to three scales in turn."""

    def __init__(self, settings: StudentSettings, num_classes: int) -> None:
        """Build the decoder for `num_classes` classes (no-object is added).

        Raises:
            CastError: the width does not suit the heads.
        """
        super().__init__()
        dim = settings.decoder_dim
        if dim % settings.decoder_heads or dim % 4:
            raise CastError(
                f"student.decoder_dim: {dim} must be a multiple of 4 and of "
                f"decoder_heads ({settings.decoder_heads})"
            )
        self.query_content = nn.Parameter(torch.randn(settings.num_queries, dim))
        self.query_position = nn.Parameter(torch.randn(settings.num_queries, dim))
        self.level_embedding = nn.Parameter(torch.randn(NUM_SCALES, dim))
        self.input_projections = nn.ModuleList(
            nn.Identity() if settings.feature_dim == dim else nn.Conv2d(settings.feature_dim, dim, 1)
            for _ in range(NUM_SCALES)
        )
        self.layers = nn.ModuleList(
            DecoderLayer(dim, settings.decoder_heads, settings.decoder_feedforward)
            for _ in range(settings.decoder_layers)
        )
        self.norm = nn.LayerNorm(dim)
        self.class_head = nn.Linear(dim, num_classes + 1)
        self.mask_head = nn.Sequential(
            nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim)
        )

    def forward(
        self,
        pyramid: Sequence[Tensor],
        mask_features: Tensor,
        prior: QueryPrior | None = None,
        features: Tensor | None = None,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Predictions of the learned queries and after every layer (deep supervision).

        Args:
            pyramid: three maps (B, feature_dim, h, w), coarse to fine.
            mask_features: (B, D, h', w').
            prior: contents and mask offsets of the queries; None in the paper's model.
            features: the encoder's deepest map, needed by the prior.

        Returns:
            mask logits (B, Q, h', w') and class logits (B, Q, C+1), no-object last, layer by layer.
        """
        memories, positions = self._memories(pyramid)
        queries = self.query_content.expand(mask_features.shape[0], -1, -1)
        if prior is not None:
            assert features is not None
            queries = queries + prior.contents(features)
        mask_logits, class_logits = [], []
        for index in range(len(self.layers) + 1):
            masks, classes = self._heads(queries, mask_features, prior)
            mask_logits.append(masks)
            class_logits.append(classes)
            if index < len(self.layers):
                level = index % NUM_SCALES
                allowed = attention_mask(masks, pyramid[level].shape[-2:])
                queries = self.layers[index](
                    queries, self.query_position, memories[level], positions[level], allowed
                )
        return mask_logits, class_logits

    def _memories(self, pyramid: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Per level: (B, hw, D) keys and values, and their (hw, D) position encodings."""
        memories, positions = [], []
        for level, (features, project) in enumerate(zip(pyramid, self.input_projections, strict=True)):
            memories.append(project(features).flatten(2).transpose(1, 2) + self.level_embedding[level])
            height, width = features.shape[-2:]
            positions.append(sine_positions(height, width, self.norm.normalized_shape[0], features))
        return memories, positions

    def _heads(
        self, queries: Tensor, mask_features: Tensor, prior: QueryPrior | None
    ) -> tuple[Tensor, Tensor]:
        queries = self.norm(queries)
        masks = torch.einsum("bqd,bdhw->bqhw", self.mask_head(queries), mask_features)
        if prior is not None:
            masks = masks + prior.mask_offsets(queries, masks.shape[-2:])
        return masks, self.class_head(queries)


class DecoderLayer(nn.Module):
    """Masked cross-attention, self-attention, feed-forward; each followed by its norm (post-norm)."""

    def __init__(self, dim: int, heads: int, feedforward: int) -> None:
        """Xavier initialisation, as Mask2Former's."""
        super().__init__()
        self.cross_attention = Attention(dim, heads)
        self.cross_norm = nn.LayerNorm(dim)
        self.self_attention = Attention(dim, heads)
        self.self_norm = nn.LayerNorm(dim)
        self.feedforward = nn.Sequential(nn.Linear(dim, feedforward), nn.ReLU(), nn.Linear(feedforward, dim))
        self.feedforward_norm = nn.LayerNorm(dim)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(
        self, queries: Tensor, query_position: Tensor, memory: Tensor, position: Tensor, allowed: Tensor
    ) -> Tensor:
        """Update the queries.

        Args:
            queries: (B, Q, D).
            query_position: (Q, D).
            memory: (B, hw, D).
            position: (hw, D).
            allowed: bool (B, 1, Q, hw), True where a query may attend.

        Returns:
            (B, Q, D).
        """
        attended = self.cross_attention(queries + query_position, memory + position, memory, allowed)
        queries = self.cross_norm(queries + attended)
        placed = queries + query_position
        queries = self.self_norm(queries + self.self_attention(placed, placed, queries))
        return self.feedforward_norm(queries + self.feedforward(queries))


class Attention(nn.Module):
    """Multi-head attention on torch's fused kernel; the mask is shared by the heads, never repeated."""

    def __init__(self, dim: int, heads: int) -> None:
        """`dim` must be a multiple of `heads`."""
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None = None) -> Tensor:
        """(B, Q, D) from query (B, Q, D), key and value (B, N, D) and allowed, bool (B, 1, Q, N)."""
        attended = F.scaled_dot_product_attention(
            self._split(self.query(query)),
            self._split(self.key(key)),
            self._split(self.value(value)),
            attn_mask=allowed,
        )
        return self.out(attended.transpose(1, 2).flatten(2))

    def _split(self, tokens: Tensor) -> Tensor:
        """(B, N, D) to (B, heads, N, D / heads)."""
        return tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def attention_mask(mask_logits: Tensor, size: Sequence[int]) -> Tensor:
    """Where each query may attend: inside its own mask, or everywhere when that is empty (equation 2).

    Args:
        mask_logits: (B, Q, h, w).
        size: cells of the level attended to.

    Returns:
        bool (B, 1, Q, cells), True where probability is at least a half.
    """
    resized = F.interpolate(mask_logits.detach(), size=tuple(size), mode="bilinear", align_corners=False)
    allowed = resized.flatten(2) >= 0  # sigmoid ≥ 0.5
    # A query with nothing to attend to would get NaN from the softmax.
    return (allowed | ~allowed.any(-1, keepdim=True)).unsqueeze(1)


def sine_positions(height: int, width: int, dim: int, like: Tensor) -> Tensor:
    """DETR's sine encoding of cells, normalised to 2π over the map: (hw, dim), rows then columns.

    Normalised coordinates make the encoding independent of the image's size.
    """
    half = dim // 2
    exponents = torch.arange(half, device=like.device, dtype=torch.float32).div(2, rounding_mode="floor")
    frequencies = 10000 ** (2 * exponents / half)

    def encode(cells: int) -> Tensor:
        place = torch.arange(1, cells + 1, device=like.device, dtype=torch.float32) / (cells + 1e-6)
        angles = place[:, None] * 2 * math.pi / frequencies
        return torch.stack([angles[:, 0::2].sin(), angles[:, 1::2].cos()], -1).flatten(1)

    rows = encode(height)[:, None].expand(height, width, half)
    columns = encode(width)[None].expand(height, width, half)
    return torch.cat([rows, columns], -1).flatten(0, 1).to(like.dtype)
