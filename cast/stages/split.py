"""Stage split: which training images keep their labels (D_l) and which lose them (D_u)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from cast.artefacts import artefact_folder
from cast.config import SplitSettings
from cast.config_files import parse
from cast.data.coco import Annotation, CocoData, read_coco, write_coco
from cast.data.splits import appearance_groups, split_labelled, split_listed
from cast.errors import CastError


class SplitRun(SplitSettings):
    """Settings of the stage: the `split` section and the dataset's stratification."""

    stratify: Literal["none", "appearance"] = "none"


def run(settings: dict[str, Any], data: Path, seed: int, out: Path) -> None:
    """Split `data`/train.json into labelled.json, unlabelled.json and hidden.json.

    hidden.json holds the truth of the unlabelled images: for audits of pseudo-labels, never for training.

    Args:
        settings: of a `SplitRun`.
        data: dataset folder made by stage prepare.
        seed: of the choice.
        out: folder to make.

    Raises:
        CastError: the dataset or the list is missing, a listed image is not in the dataset, or the labelled
            part would hold no image or no instance.
    """
    split = parse(SplitRun, settings)
    inputs = [data, *([Path(split.labelled_list)] if split.labelled_list else [])]
    with artefact_folder(out, "split", settings, inputs, seed) as folder:
        train = read_coco(data / "train.json")
        groups = appearance_groups(train.images, train.image_root) if split.stratify == "appearance" else None
        ids = [image.id for image in train.images]
        if split.labelled_list is None:
            labelled_ids, unlabelled_ids = split_labelled(ids, split.labelled_fraction, seed, groups)
        else:
            labelled_ids, unlabelled_ids = split_listed(train.images, Path(split.labelled_list))
        labelled, hidden = train.subset(labelled_ids), train.subset(unlabelled_ids)
        if not any(not annotation.is_crowd for annotation in labelled.annotations):
            raise CastError(
                f"{train.path}: the {len(labelled_ids)} labelled images of seed {seed} hold no instance; "
                "raise split.labelled_fraction or take another seed"
            )
        _write(folder / "labelled.json", labelled, labelled.annotations, seed)
        _write(folder / "unlabelled.json", hidden, [], seed)
        _write(folder / "hidden.json", hidden, hidden.annotations, seed)


def _write(path: Path, part: CocoData, annotations: list[Annotation], seed: int) -> None:
    info = {**part.info, "split_seed": seed}
    write_coco(path, part.images, annotations, part.categories, part.image_root, info)
