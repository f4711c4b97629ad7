"""The benchmark of L_pxl: its peer computes the same loss, and every measurement runs, at toy size."""

from __future__ import annotations

import pytest
import torch

from cast.benchmarks import contrastive
from cast.benchmarks.contrastive import Case, inputs, loss_alone, measure, render
from cast.benchmarks.dense_contrastive import dense_pixel_contrastive_loss
from cast.benchmarks.report import write_section
from cast.config import ContrastiveSettings
from cast.losses.pixel_contrastive import PixelContrastiveLoss

CPU = torch.device("cpu")


def test_the_peer_computes_the_same_loss_and_gradient():
    case = Case("dense", 2, (4, 8))
    weak, strong, pseudo = inputs(case, CPU)
    every = 2 * 4 * 8 - 1  # all candidates: nothing is left to chance
    settings = ContrastiveSettings(num_negatives=every, cross_image_masks=True)
    ours = PixelContrastiveLoss(settings)(weak, strong, pseudo, 0.1).loss
    dense = dense_pixel_contrastive_loss(weak, strong, pseudo, 0.1, every)
    torch.testing.assert_close(ours, dense, atol=1e-5, rtol=0)
    first, second = (torch.autograd.grad(loss, weak)[0] for loss in (ours, dense))
    torch.testing.assert_close(first, second, atol=1e-6, rtol=0)


def test_the_peer_draws_from_the_same_distribution():
    case = Case("dense", 2, (8, 8))
    weak, strong, pseudo = inputs(case, CPU)
    weak.requires_grad_(False)
    ours = PixelContrastiveLoss(ContrastiveSettings(num_negatives=10, cross_image_masks=True))
    losses = torch.tensor(
        [
            [
                ours(weak, strong, pseudo, 0.1).loss,
                dense_pixel_contrastive_loss(weak, strong, pseudo, 0.1, 10),
            ]
            for _ in range(60)
        ]
    )
    gap, deviation = losses.mean(0).diff().abs(), losses.std(0).norm() / 60**0.5
    assert gap < 4 * deviation


def test_inputs_hold_instances_and_repeat_themselves():
    weak, _, pseudo = inputs(Case("ours", 2, (8, 12)), CPU)
    assert weak.shape == (2, 96, contrastive.CHANNELS)
    assert torch.equal(weak, inputs(Case("ours", 2, (8, 12)), CPU)[0])
    assert 0.3 < pseudo.masks.amax(-1).mean() < 1.0  # neither noise nor one mask for all
    assert pseudo.masks.argmax(-1).unique().numel() > 10


@pytest.mark.parametrize("what", ["dense", "ours"])
def test_both_are_timed_with_their_memory(monkeypatch, what):
    monkeypatch.setattr(contrastive, "NEGATIVES", 8)
    found = measure(Case(what, 2, (8, 12), repeats=1))
    assert found["seconds"] > 0
    assert found["megabytes"] >= 0
    run = loss_alone(Case(what, 1, (8, 12), num_anchors=20, candidate_pool=30), CPU)
    assert run() == {}


def test_the_parts_of_a_step_are_timed():
    found = measure(Case("step", 1, (28, 56), repeats=1))
    assert 0 < found["L_pxl"] + found["second view and head"] < found["seconds"]


def test_the_section_says_what_is_met_and_what_is_missed(tmp_path):
    def run(seconds, megabytes):
        return {"seconds": seconds, "megabytes": megabytes}

    found = {
        "dense": [run(9.0, 900.0), run(10.0, 900.0), run(30.0, 900.0)],
        "ours": [run(1.0, 450.0)] * 3,
        "fixed": [run(1.0, 1.0)] * 3,
        "doubled": [run(2.0, 1.0)] * 3,
    }
    step = run(10.0, 1.0) | {"L_pxl": 0.4, "second view and head": 2.0}
    text = render(found, step, step | {"seconds": 9.0, "second view and head": 1.0})
    lines = text.splitlines()
    assert any("**10.00** (9.00 to 30.00) times faster" in line and "met" in line for line in lines)
    assert any("**0.50**" in line and "MISSED" in line for line in lines)
    assert any("**0.05** of a full-size" in line and "met" in line for line in lines)
    path = tmp_path / "measurements.md"
    begin, end = "<!-- make bench-x: begin -->", "<!-- make bench-x: end -->"
    path.write_text(f"before\n{begin}\nold\n{end}\nafter\n")
    write_section(text, "bench-x", path)
    assert path.read_text() == f"before\n{begin}\n{text}\n{end}\nafter\n"
    path.write_text("no markers")
    with pytest.raises(SystemExit, match=r"measurements\.md: lacks the lines"):
        write_section(text, "bench-x", path)
