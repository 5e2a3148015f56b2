"""The shared part of training: positives, schedule and vocabulary."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from demo.contrastive import WARMUP_STEPS, Vocabulary, contrastive_loss, learning_rate_factor, pixel_batch

PREPROCESSING = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2]}
TEXT = {"text_cfg": {"context_length": 8, "vocab_size": 49408}}


def make_embeddings(seed, count=4):
    return functional.normalize(torch.randn(count, 8, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_loss_equals_infonce_if_each_image_has_one_true_caption():
    image, text, scale = make_embeddings(0), make_embeddings(1), torch.tensor(7.0)
    logits, targets = scale * image @ text.T, torch.arange(4)
    expected = (functional.cross_entropy(logits, targets) + functional.cross_entropy(logits.T, targets)) / 2
    torch.testing.assert_close(contrastive_loss(image, text, torch.eye(4), scale), expected)


def test_each_direction_divides_its_target_among_positives():
    image, text, scale = make_embeddings(2), make_embeddings(3), torch.tensor(7.0)
    positive = torch.eye(4)
    positive[0, 1] = 1  # caption 1 is true of image 0, too, but caption 0 not of image 1
    by_image, by_text = ((scale * image @ text.T).log_softmax(dim=d) for d in (1, 0))
    expected = -sum((positive[i] / positive[i].sum()) @ by_image[i] for i in range(4)) / 8
    expected -= sum((positive[:, j] / positive[:, j].sum()) @ by_text[:, j] for j in range(4)) / 8
    torch.testing.assert_close(contrastive_loss(image, text, positive, scale), expected)


@pytest.mark.parametrize("shape", [(6, 6), (6, 6, 3)], ids=str)
def test_gray_and_color_images_become_three_channels(shape):
    images = [np.full(shape, 255, np.uint8), np.zeros(shape, np.uint8)]
    white, black = pixel_batch(images, PREPROCESSING).expand(2, 3, 6, 6)
    torch.testing.assert_close(white[:, 0, 0], torch.tensor([2.5, 3.0, 3.5]))
    torch.testing.assert_close(black[:, 0, 0], torch.tensor([-2.5, -2.0, -1.5]))


def test_the_schedule_warms_up_and_ends_at_zero():
    factors = [learning_rate_factor(step, 600) for step in range(601)]
    assert max(factors) == factors[WARMUP_STEPS] == 1
    assert factors[:WARMUP_STEPS] == sorted(factors[:WARMUP_STEPS])
    assert factors[WARMUP_STEPS:] == sorted(factors[WARMUP_STEPS:], reverse=True)
    assert factors[-1] == 0


def test_unused_tokens_have_no_stored_embedding():
    vocabulary = Vocabulary(["a red circle", "a blue star"], TEXT)
    compact = vocabulary.encode(["a blue circle"])
    assert torch.equal(vocabulary.used[compact], vocabulary.tokenizer(["a blue circle"]))
    full = vocabulary.expand(torch.ones(len(vocabulary.used), 2))
    assert full.shape == (49408, 2)
    assert torch.equal(full.any(dim=1).nonzero().flatten(), vocabulary.used)
