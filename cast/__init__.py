"""CAST: contrastive adaptation and distillation of foundation models into small instance segmenters."""
