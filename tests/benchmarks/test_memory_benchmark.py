"""What the memory benchmark counts: tensors that autograd saves, once each, parameters apart."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from cast.benchmarks.memory import report, saved_bytes
from cast.config_files import load

CONFIG = Path(__file__).parents[2] / "config"


def test_inputs_of_layers_count_once_and_weights_do_not():
    model = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 4), nn.Linear(16, 4))
    images = torch.rand(5, 8)

    def run():
        hidden = model[0](images)
        return model[1](hidden) + model[2](hidden)  # both save the same tensor

    assert saved_bytes(run, model) == 4 * (5 * 8 + 5 * 16)
    with torch.no_grad():
        assert saved_bytes(run, model) == 0


def test_the_report_names_both_models():
    text = report(load(CONFIG / "smoke.yaml"))
    assert "| student | 96 × 96 | 0.0 GB |" in text and "| 96 × 96 |" in text.splitlines()[-1]
