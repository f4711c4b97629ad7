"""`cast <stage>`: every stage of the pipeline by hand, as the workflow calls it.

torch is imported only by the stages that need it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from cast.errors import CastError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="CAST: turn a few labelled and many unlabelled images into a small instance segmenter. "
    "Each stage is a command; `snakemake` runs them in order.",
)

SettingsOption = Annotated[
    str, typer.Option(help="The stage's settings: JSON, or a file (a manifest.json repeats its run).")
]
OutFolder = Annotated[Path, typer.Option(help="Folder to create; replaced when it exists.")]
Threads = Annotated[int, typer.Option(help="CPU threads of this process.", min=1)]
SeedOption = Annotated[int, typer.Option(help="Seed of the split or run.")]
SplitFolder = Annotated[Path, typer.Option(help="Folder made by `cast split`.")]
StartFolder = Annotated[Path, typer.Option(help="Model folder to start from.")]
PseudoLabelFile = Annotated[
    Path | None, typer.Option(help="pseudo_labels.json of `cast pseudo_label`; none: D_u = ∅.")
]


def stage(function: Callable[..., None]) -> Callable[..., None]:
    """Register a command under the function's own name."""
    return app.command(name=function.__name__)(function)


@stage
def prepare(
    settings: SettingsOption,
    out: OutFolder,
    data_root: Annotated[Path | None, typer.Option(help="Folder of the user's dataset.")] = None,
) -> None:
    """Write a dataset as COCO JSON: drawn scenes, or a checked copy of the user's annotations."""
    from cast.stages import prepare as implementation

    implementation.run(_read(settings), data_root, out)


@stage
def split(
    settings: SettingsOption,
    data: Annotated[Path, typer.Option(help="Dataset folder made by `cast prepare`.")],
    seed: SeedOption,
    out: OutFolder,
) -> None:
    """Choose which training images keep their labels."""
    from cast.stages import split as implementation

    implementation.run(_read(settings), data, seed, out)


@stage
def foundation(
    settings: SettingsOption,
    part: Annotated[str, typer.Option(help="detector, segmenter or student_encoder.")],
    data: Annotated[
        Path,
        typer.Option(help="Dataset folder: the source domain's, or the target's where weights are fetched."),
    ],
    out: OutFolder,
    threads: Threads = 1,
) -> None:
    """Provide pretrained weights: from a hub or folder, or trained on the source domain."""
    _limit_threads(threads)
    from cast.stages import foundation as implementation

    implementation.run(_read(settings), part, data, out)


@stage
def adapt_teacher(
    settings: SettingsOption,
    start: StartFolder,
    split: SplitFolder,
    seed: SeedOption,
    out: OutFolder,
    pseudo_labels: PseudoLabelFile = None,
    threads: Threads = 1,
) -> None:
    """Adapt the composite teacher to the target domain (stages 1a and 1b)."""
    _limit_threads(threads)
    from cast.stages import adapt_teacher as implementation

    implementation.run(_read(settings), start, split, pseudo_labels, seed, out)


@stage
def pseudo_label(
    settings: SettingsOption,
    model: Annotated[Path, typer.Option(help="Teacher or student folder.")],
    split: SplitFolder,
    out: OutFolder,
    threads: Threads = 1,
) -> None:
    """Label the unlabelled images with a model, and audit the labels where the truth is known."""
    _limit_threads(threads)
    from cast.stages import pseudo_label as implementation

    implementation.run(_read(settings), model, split, out)


@stage
def distill_student(
    settings: SettingsOption,
    start: StartFolder,
    split: SplitFolder,
    seed: SeedOption,
    out: OutFolder,
    pseudo_labels: PseudoLabelFile = None,
    threads: Threads = 1,
) -> None:
    """Train the student on labels and pseudo-labels (stage 2)."""
    _limit_threads(threads)
    from cast.stages import distill_student as implementation

    implementation.run(_read(settings), start, split, pseudo_labels, seed, out)


@stage
def refine_student(
    settings: SettingsOption,
    start: StartFolder,
    split: SplitFolder,
    seed: SeedOption,
    out: OutFolder,
    pseudo_labels: PseudoLabelFile = None,
    threads: Threads = 1,
) -> None:
    """Fine-tune the student on the labels alone (stage 3)."""
    _limit_threads(threads)
    from cast.stages import refine_student as implementation

    implementation.run(_read(settings), start, split, pseudo_labels, seed, out)


@stage
def evaluate(
    settings: SettingsOption,
    model: Annotated[Path, typer.Option(help="Teacher or student folder.")],
    data: Annotated[Path, typer.Option(help="COCO JSON with the truth, as written by `cast prepare`.")],
    out: OutFolder,
    threads: Threads = 1,
) -> None:
    """Predict a dataset and measure mask AP."""
    _limit_threads(threads)
    from cast.stages import evaluate as implementation

    implementation.run(_read(settings), model, data, out)


@stage
def tabulate(
    settings: SettingsOption,
    metrics: Annotated[list[str], typer.Argument(help="Evaluations as RECIPE:SEED:metrics.json.")],
    out: Annotated[Path, typer.Option(help="CSV file to write; .md and .tex go beside it.")],
) -> None:
    """Write a results table as CSV, Markdown and LaTeX."""
    from cast.stages import tabulate as implementation

    implementation.run(_read(settings), metrics, out)


@stage
def curves(
    settings: SettingsOption,
    logs: Annotated[list[str], typer.Argument(help="Training logs as RECIPE:SEED:training.csv.")],
    out: Annotated[Path, typer.Option(help="PNG file to write; .pdf and .csv go beside it.")],
) -> None:
    """Draw how the contrastive loss fares over training: margin, false negatives, raw loss."""
    from cast.stages import curves as implementation

    implementation.run(_read(settings), logs, out)


@stage
def bias(
    settings: SettingsOption,
    truth: Annotated[Path, typer.Option(help="hidden.json of `cast split`.")],
    before: Annotated[Path, typer.Option(help="pseudo_labels.json that the student learnt from.")],
    after: Annotated[Path, typer.Option(help="The student's scored instances on the same images.")],
    out: Annotated[Path, typer.Option(help="PNG file to write; .pdf, .csv and _overlays.png go beside it.")],
) -> None:
    """Draw which mistakes of the pseudo-labels the student mends, repeats and makes anew."""
    from cast.stages import bias as implementation

    implementation.run(_read(settings), truth, before, after, out)


@stage
def overlay(
    settings: SettingsOption,
    truth: Annotated[Path, typer.Option(help="COCO JSON with the images and their truth.")],
    predictions: Annotated[list[str], typer.Argument(help="Columns as TITLE=predictions.json.")],
    out: Annotated[Path, typer.Option(help="PNG file to write.")],
) -> None:
    """Draw images, truth and predictions side by side."""
    from cast.stages import overlay as implementation

    implementation.run(_read(settings), truth, predictions, out)


@stage
def efficiency(
    settings: SettingsOption,
    out: Annotated[Path, typer.Option(help="PNG file to write; .pdf, .csv and .md go beside it.")],
    data: Annotated[
        Path | None, typer.Option(help="COCO JSON for its classes; otherwise those of the settings.")
    ] = None,
    threads: Threads = 1,
) -> None:
    """Measure parameters, FLOPs and latency of teacher and student on this machine, without weights."""
    _limit_threads(threads)
    from cast.stages import efficiency as implementation

    implementation.run(_read(settings), data, out)


@app.command()
def plan(
    configuration: Annotated[Path, typer.Argument(help="An experiment: config/<name>.yaml.")],
    target: Annotated[str, typer.Option(help="A table or figure, `tables`, `figures` or `all`.")] = "all",
    data_root: Annotated[Path | None, typer.Option(help="Folder of the dataset, where it has one.")] = None,
    tflops: Annotated[
        float,
        typer.Option(
            help="10¹² FLOPs a second that the GPU does in practice; 50: an A100's at 16 %.", min=1e-3
        ),
    ] = 50.0,
) -> None:
    """Say what a target of the workflow would run and cost from nothing, and run nothing."""
    from cast.estimate import describe

    print(describe(configuration, target, data_root, tflops))


def _read(settings: str) -> dict[str, Any]:
    """JSON text, or a JSON file; a manifest's `settings` are taken out of it."""
    text, origin = settings, "--settings"
    if not settings.lstrip().startswith("{"):
        origin = settings
        try:
            text = Path(settings).read_text(encoding="utf-8")
        except OSError as error:
            raise CastError(
                f"{settings}: cannot be read ({error.strerror}); give JSON or a JSON file"
            ) from None
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise CastError(f"{origin}: not valid JSON ({error})") from None
    if not isinstance(content, dict):
        raise CastError(f"{origin}: must be a JSON object of settings")
    return content["settings"] if "inputs" in content and "settings" in content else content


def _limit_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


def main() -> None:
    """Entry point: errors a user can cause print one line and exit with status 1."""
    # The libraries' progress bars would break up the stages' own lines in the logs.
    os.environ.setdefault("TQDM_DISABLE", "1")
    try:
        app()
    except CastError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
