"""Batches: deterministic, addressable by step, indifferent to the number of workers."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cast.config import Reading, TrainSettings
from cast.data.batch import Batch
from cast.data.coco import Annotation, CocoData, ImageRecord, new_annotation, read_coco, write_coco
from cast.data.loader import SampleCache, image_tensors, training_batches
from cast.errors import CastError

CATEGORIES = [{"id": 7, "name": "car"}, {"id": 3, "name": "bus"}]


def train_settings(**changes: object) -> TrainSettings:
    return TrainSettings.model_validate({"steps": 1, "lr": 1.0, "image_size": (24, 32)} | changes)


@pytest.fixture
def data(tmp_path: Path) -> CocoData:
    """Seven noisy images; the last has no instance, image 103 a bright background."""
    rng = np.random.default_rng(0)
    records: list[ImageRecord] = []
    annotations: list[Annotation] = []
    for index in range(7):
        pixels = rng.integers(0, 100, (40, 30 + index, 3), dtype=np.uint8)
        Image.fromarray(pixels + np.uint8(150 * (index == 3))).save(tmp_path / f"{index}.png")
        records.append(ImageRecord(100 + index, f"{index}.png", 30 + index, 40))
        for _ in range(index < 6 and 3):
            mask = np.zeros((40, 30 + index), dtype=bool)
            mask[5:30, 8:25] = rng.random((25, 17)) < 0.7
            annotations.append(new_annotation(len(annotations) + 1, 100 + index, len(annotations) % 2, mask))
    write_coco(tmp_path / "instances.json", records, annotations, CATEGORIES, tmp_path)
    return read_coco(tmp_path / "instances.json")


def take(
    data: CocoData, count: int, start: int = 0, size: int = 3, seed: int = 5, **changes: object
) -> list[Batch]:
    stream = training_batches(data, train_settings(**changes), size, seed, Reading(), start_step=start)
    return list(itertools.islice(stream, count))


def same(one: Batch, other: Batch) -> bool:
    return (
        one.image_ids == other.image_ids
        and torch.equal(one.weak_images, other.weak_images)
        and torch.equal(one.strong_images, other.strong_images)
        and torch.equal(one.valid, other.valid)
        and all(
            torch.equal(a.masks, b.masks) and torch.equal(a.labels, b.labels)
            for a, b in zip(one.targets, other.targets, strict=True)
        )
    )


def test_shapes(data: CocoData) -> None:
    (batch,) = take(data, 1)
    assert batch.weak_images.shape == batch.strong_images.shape == (3, 3, 24, 32)
    assert batch.weak_images.dtype == torch.float32
    assert batch.valid.dtype == torch.bool
    assert batch.valid.shape == (3, 24, 32)
    assert [len(target.labels) for target in batch.targets] == [len(target.masks) for target in batch.targets]


def test_without_the_strong_view_nothing_else_changes(data: CocoData) -> None:
    (both,) = take(data, 1)
    weak = next(training_batches(data, train_settings(), 3, 5, Reading(), strong=False))
    assert weak.strong_images is weak.weak_images
    twice = Batch(both.weak_images, both.weak_images, both.targets, both.valid, both.image_ids)
    assert same(weak, twice)
    assert not torch.equal(both.strong_images, both.weak_images)


def test_batch_is_a_function_of_seed_and_step(data: CocoData) -> None:
    whole = take(data, 6)
    for resumed, batch in zip(take(data, 3, start=3), whole[3:], strict=True):
        assert same(resumed, batch)
    assert not same(take(data, 1, seed=6)[0], whole[0])


def test_every_step_and_position_has_its_own_view(data: CocoData) -> None:
    seen = [view for batch in take(data.subset([100]), 3, size=2) for view in batch.strong_images]
    assert all(not torch.equal(one, other) for one, other in itertools.combinations(seen, 2))


def test_workers_change_nothing(data: CocoData) -> None:
    for alone, shared in zip(take(data, 4, start=2), take(data, 4, start=2, workers=2), strict=True):
        assert same(alone, shared)


def test_cache_changes_nothing(data: CocoData) -> None:
    for kept, read in zip(take(data, 5), take(data, 5, cache_gigabytes=0.0), strict=True):
        assert same(kept, read)


def test_cache_keeps_within_its_limit(data: CocoData) -> None:
    one = SampleCache(data, Reading(), 1e9)[6].memory
    cache = SampleCache(data, Reading(), 1.5 * one)
    first, second = cache[6], cache[6]
    assert first is second
    assert cache[0] is not cache[0]


def test_epochs_shuffle_without_replacement(data: CocoData) -> None:
    ids = [image for batch in take(data, 14) for image in batch.image_ids]
    epochs = [ids[start : start + 7] for start in range(0, 42, 7)]
    assert all(sorted(epoch) == list(range(100, 107)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_batch_larger_than_the_dataset(data: CocoData) -> None:
    (batch,) = take(data.subset([100, 106]), 1, size=5)
    assert len(batch.image_ids) == 5
    assert set(batch.image_ids) == {100, 106}
    empty = [target for target, image in zip(batch.targets, batch.image_ids, strict=True) if image == 106]
    assert all(target.masks.shape == (0, 24, 32) for target in empty)


@pytest.mark.parametrize("workers", [0, 1])
def test_missing_image_is_one_line(data: CocoData, workers: int) -> None:
    (data.image_root / "2.png").unlink()
    with pytest.raises(CastError, match=r"2\.png") as caught:
        take(data, 3, workers=workers)
    assert "\n" not in str(caught.value)


def test_no_images(data: CocoData) -> None:
    with pytest.raises(CastError, match="no images"):
        training_batches(data.subset([]), train_settings(), 2, 0, Reading())
    with pytest.raises(CastError, match="no images"):
        image_tensors(data.subset([]), Reading())


def test_image_tensors(data: CocoData) -> None:
    items = list(image_tensors(data, Reading(invert_bright=True)))
    assert [record.id for record, _ in items] == list(range(100, 107))
    record, image = items[3]
    pixels = np.asarray(Image.open(data.image_root / record.file_name))
    assert image.dtype == torch.float32
    assert image.shape == (3, 40, 33)
    assert torch.allclose(image, torch.from_numpy((255 - pixels) / 255).permute(2, 0, 1).float(), atol=1e-6)
    assert next(image_tensors(data, Reading(), short_side=15))[1].shape == (3, 20, 15)
