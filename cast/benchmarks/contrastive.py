"""`make bench-contrastive`: time and memory of L_pxl against dense matrices, and its share of a step.

Every measurement is a process of its own, so that peak memory is its own; rounds alternate between what is
compared, and ratios are taken within a round.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from cast.benchmarks.dense_contrastive import dense_pixel_contrastive_loss
from cast.benchmarks.report import goal, machine, ratios, write_section
from cast.config import ContrastiveSettings, CriterionSettings, StudentSettings
from cast.data.batch import Batch, Target
from cast.losses.debiased_negatives import PseudoProbabilities, pseudo_probabilities
from cast.losses.mask_classification import MaskClassificationCriterion
from cast.losses.objective import Objective
from cast.losses.pixel_contrastive import PixelContrastiveLoss
from cast.student.learner import StudentLearner
from cast.student.model import Student

QUERIES, CLASSES, CHANNELS, NEGATIVES = 100, 8, 128, 200  # docs/method.md
TEMPERATURE = 0.07
MEGABYTE = 2**20


@dataclass(frozen=True)
class Case:
    """One measurement.

    Attributes:
        what: "dense" or "ours", the loss alone; "step", a training step with it.
        batch: B.
        size: (h, w) of the feature map; for "step" (H, W) of the images.
        num_anchors: of ours, all pixels when None.
        candidate_pool: of ours, all pixels when None.
        image_share: of "step".
        repeats: timed runs after one that is not.
    """

    what: str
    batch: int
    size: tuple[int, int]
    num_anchors: int | None = None
    candidate_pool: int | None = None
    image_share: float = 1.0
    repeats: int = 2


def inputs(case: Case, device: torch.device) -> tuple[Tensor, Tensor, PseudoProbabilities]:
    """Embeddings of both views (B, N, E), and pseudo-probabilities of smooth masks that tile the image."""
    generator = torch.Generator().manual_seed(0)
    (height, width), batch = case.size, case.batch
    coarse = 6 * torch.randn(batch, QUERIES, height // 4, width // 4, generator=generator)
    pseudo = pseudo_probabilities(
        F.interpolate(coarse, size=(4 * height, 4 * width), mode="bilinear").to(device),
        (2 * torch.randn(batch, QUERIES, CLASSES + 1, generator=generator)).softmax(-1).to(device),
        torch.ones(batch, QUERIES, dtype=torch.bool, device=device),
        case.size,
    )
    weak = F.normalize(torch.randn(batch, height * width, CHANNELS, generator=generator), dim=-1)
    noise = torch.randn(weak.shape, generator=generator)
    strong = F.normalize(weak + 0.05 * noise, dim=-1)
    return weak.to(device).requires_grad_(), strong.to(device), pseudo


def loss_alone(case: Case, device: torch.device) -> Callable[[], dict[str, float]]:
    """One forward and backward pass of the loss, as a function without arguments."""
    weak, strong, pseudo = inputs(case, device)
    ours = PixelContrastiveLoss(
        ContrastiveSettings(
            num_negatives=NEGATIVES, num_anchors=case.num_anchors, candidate_pool=case.candidate_pool
        )
    )

    def run() -> dict[str, float]:
        weak.grad = None
        if case.what == "dense":
            loss = dense_pixel_contrastive_loss(weak, strong, pseudo, TEMPERATURE, NEGATIVES)
        else:
            loss = ours(weak, strong, pseudo, TEMPERATURE).loss
        loss.backward()
        return {}

    return run


def training_step(case: Case, device: torch.device) -> Callable[[], dict[str, float]]:
    """A step of the full-size student, its parts timed: the second view's pass, L_pxl, and all of it."""
    student = Student(StudentSettings(encoder_pretrained=False), CLASSES).to(device)
    learner = StudentLearner(student, MaskClassificationCriterion(CriterionSettings(), CLASSES))
    settings = ContrastiveSettings(image_share=case.image_share)
    objective = Objective(learner, 1.0, 0.1, "fusion", settings).to(device)
    images = torch.rand(case.batch, 3, *case.size, device=device)
    masks = torch.zeros(10, *case.size, dtype=torch.bool, device=device)
    for index, mask in enumerate(masks):
        mask[:, 20 * index : 20 * index + 40] = True
    targets = [Target(masks, torch.arange(10, device=device) % CLASSES) for _ in range(case.batch)]
    valid = torch.ones(case.batch, *case.size, dtype=torch.bool, device=device)
    labelled = Batch(images, images, targets, valid, list(range(case.batch)))
    spent: dict[str, float] = {}
    timed(objective, "_embed", "second view and head", spent, device)
    timed(objective, "_contrast", "L_pxl", spent, device)

    def run() -> dict[str, float]:
        spent.clear()
        objective.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            total = objective(labelled, None, TEMPERATURE).total
        total.backward()
        return dict(spent)

    return run


def timed(owner: object, name: str, label: str, spent: dict[str, float], device: torch.device) -> None:
    """Have `owner.name` note the seconds of its calls under `label`."""
    inner = getattr(owner, name)

    def outer(*arguments: object) -> object:
        started = clock(device)
        found = inner(*arguments)
        spent[label] = clock(device) - started
        return found

    object.__setattr__(owner, name, outer)


def clock(device: torch.device) -> float:
    """Seconds, when all work on the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def measure(case: Case) -> dict[str, float]:
    """Median seconds and peak memory in MB, beyond what was held before, of one case in this process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    run = training_step(case, device) if case.what == "step" else loss_alone(case, device)
    before = memory(device, peak=False)
    run()
    peak = memory(device, peak=True) - before
    seconds, parts = [], []
    for _ in range(case.repeats):
        started = clock(device)
        parts.append(run())
        seconds.append(clock(device) - started)
    return {
        "seconds": median(seconds),
        "megabytes": peak,
        **{label: median(part[label] for part in parts) for label in parts[0]},
    }


def memory(device: torch.device, peak: bool) -> float:
    """MB held now, or the most since the last question about now."""
    if device.type == "cuda":
        if peak:
            return torch.cuda.max_memory_allocated(device) / MEGABYTE
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device) / MEGABYTE
    if not peak:
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): forgets the peak
    key = "VmHWM" if peak else "VmRSS"
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 1024


def in_a_process(case: Case) -> dict[str, float]:
    """`measure` in a process of its own."""
    command = [sys.executable, "-m", "cast.benchmarks.contrastive", "--case", json.dumps(asdict(case))]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise SystemExit(result.stderr)
    found: dict[str, float] = json.loads(result.stdout)
    print(f"  {case.what} {case.batch} × {case.size[0]}×{case.size[1]}: {found}", file=sys.stderr, flush=True)
    return found


DENSE = Case("dense", 4, (37, 74))
OURS = Case("ours", 4, (37, 74))
FIXED = Case("ours", 4, (37, 74), num_anchors=2048, candidate_pool=4096, repeats=5)
DOUBLED = Case("ours", 4, (74, 74), num_anchors=2048, candidate_pool=4096, repeats=5)


def step_case(image_share: float) -> Case:
    """A step at the paper's crop: its batch of 8 on a GPU, 2 on a CPU."""
    return Case(
        "step", 8 if torch.cuda.is_available() else 2, (518, 1036), image_share=image_share, repeats=1
    )


def report(rounds: int) -> str:
    """Measure everything and say it in Markdown."""
    cases = {"dense": DENSE, "ours": OURS, "fixed": FIXED, "doubled": DOUBLED}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, case in cases.items():
            found[name].append(in_a_process(case))
    step, half = in_a_process(step_case(1.0)), in_a_process(step_case(0.5))
    return render(found, step, half)


def render(found: dict[str, list[dict[str, float]]], step: dict[str, float], half: dict[str, float]) -> str:
    """The section of docs/measurements.md.

    Args:
        found: a list of one measurement per round for "dense", "ours", "fixed" and "doubled".
        step: of a full-size training step.
        half: of one whose second view is that of half of the images.
    """
    rows = []
    for name, words in (("dense", "dense matrices"), ("ours", "this package")):
        seconds, megabytes = (median(run[key] for run in found[name]) for key in ("seconds", "megabytes"))
        rows.append(f"| {words} | {seconds:.2f} s | {megabytes:,.0f} MB |")
    goals = [
        goal("times faster", ratios(found["dense"], found["ours"], "seconds"), 5.0, at_least=True),
        goal("of the memory", ratios(found["ours"], found["dense"], "megabytes"), 1 / 3, at_least=False),
        goal(
            "times the time for twice the pixels, 2,048 anchors and a pool of 4,096",
            ratios(found["doubled"], found["fixed"], "seconds"),
            2.1,
            at_least=False,
        ),
        goal(
            "of a full-size training step is L_pxl, the second view's pass apart",
            [step["L_pxl"] / (step["seconds"] - step["second view and head"])],
            0.1,
            at_least=False,
        ),
    ]
    case, apart = step_case(1.0), "second view and head"
    (height, width), (rows_of_map, columns_of_map) = case.size, OURS.size
    second, fewer = (run[apart] / run["seconds"] for run in (step, half))
    spared = half["seconds"] / step["seconds"]
    lines = [
        f"`make bench-contrastive`, {date.today()}, {machine()}, one thread.",
        f"Forward and backward of the loss at B = {OURS.batch},",
        f"{rows_of_map} × {columns_of_map} pixels of the map, {CHANNELS} channels,",
        f"R = {NEGATIVES}; medians of {len(found['ours'])} rounds, peak memory beyond that of the inputs.",
        "",
        "| | time | peak memory |",
        "|---|---|---|",
        *rows,
        "",
        *goals,
        f"- A step of the full-size student, {case.batch} images of {height} × {width} pixels, forward and",
        f"  backward, takes {step['seconds']:.1f} s. The second view's pass is {second:.0%} of it; with",
        f"  `contrastive.image_share: 0.5` it is {fewer:.0%}, and the step takes {spared:.2f} of the time.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Print the ratios and write them into docs/measurements.md."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="rounds of the comparison (default: 3)")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case is not None:
        fields = json.loads(arguments.case)
        print(json.dumps(measure(Case(**fields | {"size": tuple(fields["size"])}))))
        return
    text = report(arguments.rounds)
    print(text)
    write_section(text, "bench-contrastive")


if __name__ == "__main__":
    main()
