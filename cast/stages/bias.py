"""A figure of whether a student mends the mistakes of the pseudo-labels that it learnt from."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from pydantic import PositiveInt, model_validator

from cast.artefacts import describe_run, digest, write_json
from cast.config import Provenance, Reading, Settings
from cast.config_files import parse
from cast.data.coco import Annotation, CocoData, load_image, read_coco
from cast.data.pseudo_labels import count_instances
from cast.errors import CastError
from cast.evaluation.bias import compare
from cast.reporting.bias import bias_figure, bias_overlays, choose_differing


class BiasRun(Settings):
    """What a figure shows."""

    title: str
    provenance: Provenance
    before_name: str = "pseudo-labels"
    after_name: str = "refined student"
    images: PositiveInt = 6  # rows of the overlays
    reading: Reading = Reading()

    @model_validator(mode="after")
    def _columns_differ(self) -> BiasRun:
        if len({"truth", self.before_name, self.after_name}) < 3:
            raise ValueError("before_name and after_name head columns beside 'truth': make them differ")
        return self


def run(settings: dict[str, Any], truth: Path, before: Path, after: Path, out: Path) -> None:
    """Compare pseudo-labels and a student with the hidden truth of the unlabelled images.

    Args:
        settings: as `BiasRun`.
        truth: hidden.json of the split.
        before: the pseudo-labels that the student learnt from.
        after: the student's instances on the same images, also those with low scores.
        out: PNG file to write; .pdf, .csv, .manifest.json and the overlays, _overlays.png, go beside it.

    Raises:
        CastError: a file or image is unreadable, the truth is not known, or the files are of other images.
    """
    started = time.time()
    checked = parse(BiasRun, settings)
    data = read_coco(truth)
    if count_instances(data) == 0:
        raise CastError(
            f"{truth}: holds no instance, so nobody can tell what the pseudo-labels got wrong; "
            "this figure needs unlabelled images whose truth is known"
        )
    comparison = compare(data, _instances(before, data), _instances(after, data))
    chosen = choose_differing(comparison.by_image, checked.images)
    records = {image.id: image for image in data.images}
    images = {key: load_image(data.image_root, records[key], checked.reading) for key in chosen}
    names = (checked.before_name, checked.after_name)
    out.parent.mkdir(parents=True, exist_ok=True)
    comparison.table.to_csv(out.with_suffix(".csv"), index=False)
    bias_figure(comparison.table, checked.title, checked.provenance, names, out)
    overlays = out.with_name(f"{out.stem}_overlays.png")
    bias_overlays(comparison, data, images, checked.title, checked.provenance, names, overlays)
    digests = {str(path): digest(path) for path in (truth, before, after)}
    write_json(out.with_suffix(".manifest.json"), describe_run("bias", settings, digests, started))


def _instances(path: Path, truth: CocoData) -> list[Annotation]:
    """Scored instances on the images of `truth`."""
    data = read_coco(path)
    if data.category_ids != truth.category_ids or data.images != truth.images:
        raise CastError(f"{path}: has other images or categories than {truth.path}; label the same images")
    if any(item.score is None for item in data.annotations):
        raise CastError(f"{path}: holds instances without a score; give a pseudo_labels.json")
    return data.annotations
