"""An image takes over the colors or the spectrum of another image, and the statistics show it."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from m2ib.analysis.image_wide import PROPERTIES, describe_image, match_property


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return [rng.normal(mean, 18, (32, 40, 3)).clip(0, 255).astype(np.uint8) for mean in (90, 140)]


def test_colors_of_the_model_image_are_taken_over(images):
    image, model = images
    model = (model * np.array([1.2, 1.0, 0.7])).astype(np.uint8)
    assert describe_image(model)["color"]["warmth"] > 0.3 > describe_image(image)["color"]["warmth"]
    matched = match_property(image, model, "color")
    for channel in range(3):
        assert matched[..., channel].mean() == pytest.approx(model[..., channel].mean(), abs=0.5)
        assert matched[..., channel].std() == pytest.approx(model[..., channel].std(), abs=0.5)
        # The content is still that of the image.
        assert np.corrcoef(matched[..., channel].ravel(), image[..., channel].ravel())[0, 1] > 0.99
    wanted = describe_image(model)["color"]
    assert describe_image(matched)["color"] == pytest.approx(wanted, abs=0.5)


def test_sharpness_of_the_model_image_is_taken_over_and_colors_stay(images):
    image, model = images
    model = gaussian_filter(model, (0.7, 0.7, 0))
    sharp, blurred = (describe_image(each)["spectrum"]["fine detail"] for each in (image, model))
    assert sharp > blurred + 0.5
    matched = match_property(image, model, "spectrum")
    assert describe_image(matched)["spectrum"]["fine detail"] == pytest.approx(blurred, abs=0.3)
    np.testing.assert_allclose(matched.mean(axis=(0, 1)), image.mean(axis=(0, 1)), atol=1)


@pytest.mark.parametrize("name", PROPERTIES)
def test_an_image_that_is_its_own_model_stays_the_same(images, name):
    np.testing.assert_allclose(match_property(images[0], images[0], name), images[0], atol=1)


@pytest.mark.parametrize("name", PROPERTIES)
def test_even_images_are_described_and_matched(images, name):
    even = np.full((32, 40, 3), 128, np.uint8)
    assert np.isfinite(list(describe_image(even)[name].values())).all()
    assert match_property(even, images[0], name).shape == even.shape
    assert match_property(images[0], even, name).shape == even.shape
