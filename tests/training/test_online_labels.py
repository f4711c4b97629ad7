"""What makes the online methods themselves: who labels, from when, what is kept, what it counts."""

import itertools

import pytest
import torch
from torch import nn

from cast.config import ContrastiveSettings, InferenceSettings, OnlineSettings, TrainSettings
from cast.data.batch import Batch, Instances, LearnerOutput, Target
from cast.losses.objective import Objective
from cast.training.loop import train
from cast.training.online_labels import OnlineLabeller

SIDE = 8


def instances(scores, classes=None, confidences=None):
    """Bars of two columns each, side by side."""
    masks = torch.zeros(len(scores), SIDE, SIDE, dtype=torch.bool)
    for index in range(len(scores)):
        masks[index, :, 2 * index : 2 * index + 2] = True
    labels = torch.tensor(classes or [0] * len(scores), dtype=torch.int64)
    return Instances(masks, labels, torch.tensor(scores), confidences)


class Scripted(nn.Module):
    """Predicts what it is told, if its scores reach the threshold."""

    def __init__(self, *found):
        super().__init__()
        self.found, self.seen = found, []

    def predict(self, images, inference, cores=None):
        assert not self.training
        self.seen.append((images, inference))
        return [one[one.scores >= inference.score_threshold] for one in self.found]


def batch(size=2, valid=True):
    weak, strong = torch.rand(2, size, 3, SIDE, SIDE)
    nothing = Target(torch.zeros(0, SIDE, SIDE, dtype=torch.bool), torch.zeros(0, dtype=torch.int64))
    whole = torch.full((size, SIDE, SIDE), valid)
    return Batch(weak, strong, [nothing] * size, whole, list(range(10, 10 + size)))


def test_the_weak_views_are_labelled_and_images_without_labels_left_out():
    model = Scripted(instances([0.9, 0.6], [1, 0]), instances([0.5]))
    given = batch()
    labelled = OnlineLabeller(model, OnlineSettings(), InferenceSettings())(given)
    assert model.seen[0][0] is given.weak_images
    assert labelled.image_ids == [10]
    assert torch.equal(labelled.strong_images, given.strong_images[:1])
    assert labelled.targets[0].labels.tolist() == [1]
    assert labelled.targets[0].weights is None
    assert OnlineLabeller(model, OnlineSettings(score_threshold=0.95), InferenceSettings())(given) is None


def test_padding_and_small_instances_are_no_labels():
    given = batch(1)
    given.valid[0, :, 2:] = False  # the second bar lies on padding
    model = Scripted(instances([0.9, 0.9]))
    labelled = OnlineLabeller(model, OnlineSettings(min_area=5), InferenceSettings())(given)
    assert len(labelled.targets[0].labels) == 1
    assert OnlineLabeller(model, OnlineSettings(min_area=16), InferenceSettings())(given) is None


def test_duplicates_are_suppressed():
    twice = instances([0.9])
    both = Instances(twice.masks.repeat(2, 1, 1), torch.zeros(2, dtype=torch.int64), torch.tensor([0.8, 0.9]))
    labelled = OnlineLabeller(Scripted(both), OnlineSettings(), InferenceSettings())(batch(1))
    assert len(labelled.targets[0].labels) == 1


def test_quality_weights_are_class_score_and_predicted_iou():
    confidences = torch.tensor([[0.5, 0.8], [0.3, 0.4]])
    model = Scripted(instances([0.4, 0.12], confidences=confidences))
    settings = OnlineSettings(score_threshold=0.1, weighting="quality")
    target = OnlineLabeller(model, settings, InferenceSettings())(batch(1)).targets[0]
    assert torch.equal(target.weights, confidences)


class Drifting(nn.Module):
    """One weight, which every step lowers; labels every image while it trains."""

    feature_dim = 1

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.0))
        self.log = []

    def __deepcopy__(self, memo):
        copy = Drifting()
        copy.log = self.log  # the averaged copy reports to the same log
        return copy

    def predict(self, images, inference, cores=None):
        self.log.append(("labels", round(self.weight.item(), 6)))
        return [instances([1.0])] * len(images)

    def forward(self, images, targets):
        labels = sum(len(target.labels) for target in targets)
        self.log.append(("learns", round(self.weight.item(), 6), len(images), labels))
        features = self.weight * torch.ones(len(images), 1, 1, 1)
        valid = torch.zeros(len(images), 1, dtype=torch.bool)
        return LearnerOutput({"loss": self.weight}, features, features, torch.ones(len(images), 1, 2), valid)

    def encode(self, images):
        return torch.zeros(len(images), 1, 1, 1)


@pytest.mark.parametrize("burn_in", [0, 2])
def test_labels_begin_after_the_burn_in_with_a_copy_of_the_weights(tmp_path, burn_in):
    model = Drifting()
    settings = TrainSettings(
        steps=4, image_size=(SIDE, SIDE), lr=1.0, schedule="constant", clip_norm=None, weight_decay=0.0,
        online={"burn_in_steps": burn_in, "ema_decay": 0.5},
    )  # fmt: skip
    objective = Objective(model, 1.0, 0.0, "fusion", ContrastiveSettings())
    unlabelled = itertools.chain([None] * burn_in, itertools.repeat(batch(3)))
    trained = train(
        model, objective, itertools.repeat(batch(1)), unlabelled, settings, ContrastiveSettings(), "test",
        tmp_path / "training.csv", InferenceSettings(),
    )  # fmt: skip
    kinds = ["labels" if entry[0] == "labels" else entry[2:] for entry in model.log]
    online = ["labels", (1, 0), (3, 3)]
    assert kinds == [(1, 0)] * burn_in + online * (4 - burn_in)
    averages = [entry[1] for entry in model.log if entry[0] == "labels"]
    before = [entry[1] for entry in model.log if entry[0] == "learns" and entry[2] == 1]  # of each step
    after = [*before[1:], model.weight.item()]
    assert after == sorted(after, reverse=True) and after[0] < 0
    expected = before[:1] if burn_in == 0 else []
    average = None
    for weight in after[max(burn_in - 1, 0) :]:
        average = weight if average is None else (average + weight) / 2
        expected.append(average)
    assert averages == pytest.approx(expected[:-1], abs=1e-4)
    assert trained.weight.item() == pytest.approx(expected[-1], abs=1e-4)
