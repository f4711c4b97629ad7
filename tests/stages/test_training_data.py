"""What each method learns from, step by step: the batches of labelled and unlabelled images."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from cast.config_files import load
from cast.data.coco import read_coco, write_coco
from cast.errors import CastError
from cast.plan import Plan
from cast.stages import prepare, split
from cast.stages.distill_student import DistillRun
from cast.stages.training import TrainingData, _batches

CONFIG = Path(__file__).parents[2] / "config"
PLAN = Plan(load(CONFIG / "smoke.yaml"), str(CONFIG))
STEPS = 30


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A split of six labelled and eighteen unlabelled images; half of the latter have pseudo-labels."""
    root = tmp_path_factory.mktemp("split")
    prepare.run(PLAN.stage_settings("prepare", {"domain": "target"}), None, root / "data")
    split.run(PLAN.stage_settings("split", {}), root / "data", 0, root / "split")
    hidden = read_coco(root / "split" / "hidden.json")
    kept = {image.id for image in hidden.images[::2]}
    found = [item for item in hidden.annotations if item.image_id in kept]
    write_coco(root / "pseudo_labels.json", hidden.images, found, hidden.categories, hidden.image_root)
    return root


def batches(folder, recipe, pseudo_labels=True, **train):
    settings = PLAN.stage_settings("distill_student", {"recipe": recipe})
    online = settings["train"]["online"]
    if online is not None:
        train = train | {"online": online | {"burn_in_steps": 3}}
    settings["train"] |= {"steps": STEPS} | train
    run = DistillRun.model_validate(settings)
    own = PLAN.config.recipes[recipe].pseudo_labels is not None and pseudo_labels
    data = TrainingData(
        read_coco(folder / "split/labelled.json"),
        folder / "pseudo_labels.json" if own else None,
        folder / "split/unlabelled.json",
    )
    labelled, unlabelled = _batches(run, data, seed=0)
    sources = (labelled or itertools.repeat(None), unlabelled or itertools.repeat(None))
    return [list(itertools.islice(source, STEPS)) for source in sources]


def instances(batch):
    return sum(len(target.labels) for target in batch.targets)


def ids(folder, name):
    return {image.id for image in read_coco(folder / f"split/{name}.json").images}


def test_controls_on_labels_see_as_many_images(folder):
    labelled, unlabelled = batches(folder, "student_supervised_finetune")
    assert {len(batch.image_ids) for batch in labelled} == {4}
    assert unlabelled == [None] * STEPS


def test_pseudo_labels_from_disk_come_with_their_images_alone(folder):
    labelled, unlabelled = batches(folder, "student_pseudo_labels")
    assert all(len(batch.image_ids) == 2 and instances(batch) > 0 for batch in [*labelled, *unlabelled])
    seen = {image for batch in unlabelled for image in batch.image_ids}
    assert seen <= ids(folder, "unlabelled") and len(seen) == 9


def test_vemulapalli_sees_no_label(folder):
    labelled, unlabelled = batches(folder, "student_vemulapalli")
    assert labelled == [None] * STEPS
    assert all(len(batch.image_ids) == 4 for batch in unlabelled)
    with pytest.raises(CastError, match="student_vemulapalli learns no others"):
        batches(folder, "student_vemulapalli", pseudo_labels=False)


def test_guided_distillation_burns_in_on_a_fixed_models_labels(folder):
    assert PLAN.config.recipes["student_guided_distillation"].pseudo_labels == "student_supervised_finetune"
    labelled, unlabelled = batches(folder, "student_guided_distillation")
    assert all(instances(batch) > 0 for batch in unlabelled[:3])
    assert all(instances(batch) == 0 for batch in unlabelled[3:])  # to be labelled as it trains
    later = {image for batch in unlabelled[3:] for image in batch.image_ids}
    assert later == ids(folder, "unlabelled")  # also those without a pseudo-label on disk
    assert all(len(batch.image_ids) == 2 for batch in labelled)


def test_pais_burns_in_on_labels_alone(folder):
    labelled, unlabelled = batches(folder, "student_pais", accumulate=2)
    assert unlabelled[:6] == [None] * 6  # three steps of two small batches
    assert all(instances(batch) == 0 and len(batch.image_ids) == 2 for batch in unlabelled[6:])
    assert all(len(batch.image_ids) == 2 for batch in labelled)
