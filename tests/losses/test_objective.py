import pytest
import torch
from torch import nn

from cast.config import ContrastiveSettings
from cast.data.batch import Batch, LearnerOutput, Target
from cast.losses.objective import Objective

SETTINGS = ContrastiveSettings(num_negatives=4, embedding_dim=8)


class Learner(nn.Module):
    """A linear encoder; its loss is the mean of its features, `shift` apart for recognition."""

    feature_dim = 5

    def __init__(self, queries=3, classes=2):
        super().__init__()
        self.queries, self.classes = queries, classes
        self.encoder = nn.Conv2d(3, self.feature_dim, 2, stride=2)
        self.seen = []

    def encode(self, images):
        return self.encoder(images)

    def forward(self, images, targets):
        self.seen.append((images, targets))
        features = self.encode(images)
        queries = self.queries if len(self.seen) == 1 else self.queries + 2
        shape = (len(images), queries)
        return LearnerOutput(
            {"first": features.mean(), "second": 2 * features.pow(2).mean()},
            features,
            torch.randn(*shape, 4, 4),
            torch.rand(*shape, self.classes + 1).softmax(-1),
            torch.ones(shape, dtype=torch.bool),
        )


def make_batch(size=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(2, size, 3, 8, 8, generator=generator)
    targets = [Target(torch.ones(1, 8, 8, dtype=torch.bool), torch.zeros(1, dtype=torch.int64))] * size
    return Batch(images[0], images[1], targets, torch.ones(size, 8, 8, dtype=torch.bool), list(range(size)))


def evaluate(lambda_semi, lambda_pxl, labelled, unlabelled, **options):
    torch.manual_seed(0)
    learner = Learner()
    objective = Objective(learner, lambda_semi, lambda_pxl, "fusion", SETTINGS, **options)
    return learner, objective, objective(labelled, unlabelled, 0.1)


def test_labels_alone_are_the_sum_of_the_supervised_terms():
    learner, objective, terms = evaluate(0.0, 0.0, make_batch(), None)
    features = learner.encode(make_batch().weak_images)
    assert terms.total.item() == pytest.approx(
        (features.mean() + 2 * features.pow(2).mean()).item(), rel=1e-5
    )
    assert set(terms.named) == {"sup", "sup_first", "sup_second"}
    assert objective.head is None


@pytest.mark.parametrize("lambda_semi", [0.5, 1.0])
def test_terms_are_weighted(lambda_semi):
    _, _, terms = evaluate(lambda_semi, 0.1, make_batch(), make_batch(3, seed=1))
    expected = terms.named["sup"] + lambda_semi * terms.named["semi"] + 0.1 * terms.named["pxl"]
    assert terms.total.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_share_of_each_kind_of_image_is_compared():
    labelled, unlabelled = make_batch(4), make_batch(3, seed=1)
    settings = SETTINGS.model_copy(update={"image_share": 0.5})
    torch.manual_seed(0)
    objective = Objective(Learner(), 1.0, 0.1, "fusion", settings)
    terms = objective(labelled, unlabelled, 0.1)
    assert {kind: batch.image_ids for kind, batch in terms.compared.items()} == {
        "sup": [0, 1],
        "semi": [0, 1],
    }
    pixels = terms.feature_size[0] * terms.feature_size[1]
    assert sorted(terms.contrastive.anchors.tolist()) == list(range(4 * pixels))
    # L_sup and L_semi are those of all images.
    _, _, of_all = evaluate(1.0, 0.1, labelled, unlabelled)
    for name in ("sup", "semi"):
        assert terms.named[name] == pytest.approx(of_all.named[name].item())


def test_labelled_images_are_learnt_weak_and_unlabelled_ones_strong():
    labelled, unlabelled = make_batch(), make_batch(3, seed=1)
    learner, _, _ = evaluate(1.0, 0.0, labelled, unlabelled)
    assert torch.equal(learner.seen[0][0], labelled.weak_images)
    assert torch.equal(learner.seen[1][0], unlabelled.strong_images)
    learner, _, _ = evaluate(1.0, 0.0, labelled, unlabelled, strong_labelled=True)
    assert torch.equal(learner.seen[0][0], labelled.strong_images)


def test_unlabelled_images_alone():
    _, _, terms = evaluate(1.0, 0.1, None, make_batch(3))
    assert set(terms.named) == {"semi", "semi_first", "semi_second", "pxl"}


def test_pixel_term_alone_teaches_encoder_and_head_through_the_weak_view():
    labelled, unlabelled = make_batch(), make_batch(3, seed=1)
    learner, objective, _ = evaluate(1.0, 0.1, labelled, unlabelled)
    learner.seen.clear()
    terms = objective(labelled, unlabelled, 0.1)
    terms.contrastive.loss.backward()
    assert learner.encoder.weight.grad.abs().sum() > 0
    assert all(parameter.grad.abs().sum() > 0 for parameter in objective.head.parameters())


def test_strong_view_gets_no_gradient_from_the_pixel_term():
    labelled = make_batch()
    labelled.weak_images.requires_grad_()
    labelled.strong_images.requires_grad_()
    _, _, terms = evaluate(0.0, 0.1, labelled, None)
    terms.contrastive.loss.backward()
    assert labelled.weak_images.grad.abs().sum() > 0
    assert labelled.strong_images.grad is None


def test_padding_is_neither_anchor_nor_negative():
    labelled = make_batch()
    labelled.valid[:, :, 4:] = False
    _, _, terms = evaluate(0.0, 0.1, labelled, None)
    columns = torch.cat([terms.contrastive.anchors, terms.contrastive.negatives.flatten()]) % 16 % 4
    assert columns.max() < 2 and terms.feature_size == (4, 4)
