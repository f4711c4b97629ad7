"""Batches of views for training and whole images for inference.

Batch k of a run is a pure function of (data, settings, seed, k): a resumed run sees the batches that the
uninterrupted one would have seen, and the number of worker processes changes nothing.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from cast.config import Reading, TrainSettings
from cast.data.batch import Batch
from cast.data.coco import CocoData, ImageRecord, load_image
from cast.data.transforms import Sample, views
from cast.errors import CastError

BYTES_PER_GIGABYTE = 10**9
# Spawn keys that keep the shuffling's and the views' random streams apart.
ORDER_STREAM, VIEW_STREAM = 0, 1


def training_batches(
    data: CocoData,
    train: TrainSettings,
    batch_size: int,
    seed: int,
    reading: Reading,
    strong: bool = True,
    start_step: int = 0,
) -> Iterator[Batch]:
    """Endless batches of weak and strong views, shuffled without replacement in each epoch.

    Args:
        data: images and instances; images without instances take part, crowd annotations do not.
        train: crop, views, number of workers and memory of the cache.
        batch_size: images per batch; may exceed the number of images.
        seed: of the order and the views.
        reading: as in the data's settings.
        strong: False where nothing looks at the strong views: they are the weak ones then, and cost nothing.
        start_step: number of the first batch.

    Raises:
        CastError: no images, or (from the iterator) an image that cannot be read or has another size than
            the annotations say.
    """
    _check_not_empty(data)
    batches = TrainingBatches(data, train, batch_size, seed, reading, strong)
    return _iterate(batches, train.workers, start_step)


def _iterate(batches: TrainingBatches, workers: int, start_step: int) -> Iterator[Batch]:
    steps = itertools.count(start_step)
    if workers == 0:
        yield from map(batches.batch, steps)
        return
    for item in DataLoader(batches, batch_size=None, sampler=steps, num_workers=workers):
        if isinstance(item, CastError):
            raise item
        yield item


class TrainingBatches(Dataset):
    """Batches of one run, addressed by step."""

    def __init__(
        self,
        data: CocoData,
        train: TrainSettings,
        batch_size: int,
        seed: int,
        reading: Reading,
        strong: bool,
    ) -> None:
        """Take the arguments of `training_batches`."""
        self._train, self._batch_size, self._seed, self._strong = train, batch_size, seed, strong
        limit = train.cache_gigabytes * BYTES_PER_GIGABYTE / max(1, train.workers)
        self._samples = SampleCache(data, reading, limit)

    def __getitem__(self, step: int) -> Batch | CastError:
        """Batch `step`, or the user's error, which would lose its one line on the way out of a worker."""
        try:
            return self.batch(step)
        except CastError as error:
            return error

    def batch(self, step: int) -> Batch:
        """Batch `step`, with a random stream for each position in it."""
        records, parts = [], []
        for position in range(self._batch_size):
            epoch, place = divmod(step * self._batch_size + position, len(self._samples))
            index = int(_order(len(self._samples), self._seed, epoch)[place])
            rng = _generator(self._seed, VIEW_STREAM, step, position)
            records.append(self._samples.records[index])
            parts.append(views(self._samples[index], self._train, rng, self._strong))
        weak_images = torch.stack([part.weak for part in parts])
        return Batch(
            weak_images=weak_images,
            strong_images=torch.stack([part.strong for part in parts]) if self._strong else weak_images,
            targets=[part.target for part in parts],
            valid=torch.stack([part.valid for part in parts]),
            image_ids=[record.id for record in records],
        )


class SampleCache:
    """Decoded images, kept in memory until `limit` bytes are taken; the rest are read each time."""

    def __init__(self, data: CocoData, reading: Reading, limit: float) -> None:
        """Read nothing yet."""
        self._data, self._reading = data, reading
        self._free = limit
        self._kept: dict[int, Sample] = {}

    @property
    def records(self) -> list[ImageRecord]:
        """The images in the file's order."""
        return self._data.images

    def __len__(self) -> int:
        return len(self._data.images)

    def __getitem__(self, index: int) -> Sample:
        """The sample of one image.

        Raises:
            CastError: the image cannot be read or has another size than its record.
        """
        if index in self._kept:
            return self._kept[index]
        sample = read_sample(self._data, self._data.images[index], self._reading)
        if sample.memory <= self._free:
            self._free -= sample.memory
            self._kept[index] = sample
        return sample


def read_sample(data: CocoData, record: ImageRecord, reading: Reading) -> Sample:
    """Read one image with its instances; crowd annotations are left out.

    Raises:
        CastError: the image cannot be read or has another size than its record.
    """
    return Sample.of(load_image(data.image_root, record, reading), data.annotations_of(record.id))


def image_tensors(
    data: CocoData, reading: Reading, short_side: int | None = None
) -> Iterator[tuple[ImageRecord, Tensor]]:
    """Whole images for inference, one at a time, in the file's order.

    Args:
        data: images; their annotations are not read.
        reading: as in the data's settings.
        short_side: length of the shorter side after an antialiased resize; native size when None.

    Yields:
        The record and a float32 image (3, H, W), RGB in 0 … 1.

    Raises:
        CastError: no images, or (from the iterator) one that is unreadable or not of its record's size.
    """
    _check_not_empty(data)
    return (_image_tensor(data, record, reading, short_side) for record in data.images)


def _image_tensor(
    data: CocoData, record: ImageRecord, reading: Reading, short_side: int | None
) -> tuple[ImageRecord, Tensor]:
    image = torch.from_numpy(load_image(data.image_root, record, reading)).permute(2, 0, 1).contiguous()
    if short_side is not None:
        image = F.resize(image, [short_side], InterpolationMode.BILINEAR, antialias=True)
    return record, F.to_dtype(image, torch.float32, scale=True)


def _check_not_empty(data: CocoData) -> None:
    if not data.images:
        raise CastError(f"{data.path}: lists no images; check the file or the split it comes from")


@functools.lru_cache(maxsize=8)
def _order(num_images: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return _generator(seed, ORDER_STREAM, epoch).permutation(num_images)


def _generator(seed: int, *key: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
