"""Cover a region of an image, or paste it into a different image, and measure how the model's score changes.

The score is a margin: the cosine of the image with its own caption, minus the highest cosine with captions of other
images (foils). A cosine alone may hardly change if the image contains a second cue for the same caption.

Masks refer to the preprocessed image and are True inside the region. Embeddings are normalized and float64.
"""

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_cdt
from torch import Tensor

from m2ib.analysis.masks import extent_of, is_frame
from m2ib.encoders import DualEncoder

Fill = Literal["mean", "blur", "swap"]
Pixels = Float[Tensor, "images 3 height width"]
Masks = Bool[Tensor, "images height width"]
MaskArray = Bool[np.ndarray, "images masks height width"]
BATCH = 64


def fill_masks(pixels: Pixels, masks: Masks, how: Fill, donors: Pixels | None = None) -> Pixels:
    """Replace the masked pixels of images by values that do not depend on the masked pixels.

    An empty mask changes nothing, and a mask must not cover a whole image. The fill `mean` is the mean of a ring around
    the region, for each image and channel. The fill `blur` is a Gaussian blur of the unmasked pixels. For thin strokes
    (masks that fill less than half of their bounding box and are no frame) both fills use the neighborhood of each
    pixel. The fill `swap` is the pixels at the same place in `donors`, which has another image for each image.

    Raises:
        ValueError: If a mask covers a whole image, or `donors` are missing for `swap`.
    """
    if how == "swap":
        if donors is None:
            raise ValueError("donors: got None, expected another image for each image, because the fill is swap")
        filling = donors
    elif bool(masks.flatten(1).all(dim=1).any()):
        raise ValueError("masks: got a mask that covers the whole image, expected some unmasked pixels")
    else:
        filling = _ring_mean(pixels, masks) if how == "mean" else _normalized_blur(pixels, masks)
    return torch.where(masks[:, None], filling.to(pixels.dtype), pixels)


def cover_images(pixels: Pixels, masks: Bool[np.ndarray, "images height width"], how: Fill) -> Pixels:
    """Replace the masked pixels of images; see `fill_masks`."""
    return fill_masks(pixels, torch.from_numpy(masks), how)


def _ring_mean(pixels: Pixels, masks: Masks) -> Pixels:
    reach = max(2, masks.shape[-1] // 16)
    inside = masks[:, None].float()
    ring = F.max_pool2d(inside, 2 * reach + 1, stride=1, padding=reach) - inside
    total = (pixels.float() * ring).sum(dim=(2, 3), keepdim=True)
    means = (total / ring.sum(dim=(2, 3), keepdim=True).clamp(min=1)).repeat(1, 1, *pixels.shape[2:])
    for index in _find_strokes(masks):
        # Large enough that the neighborhood of each masked pixel contains unmasked pixels.
        side = 2 * (reach + _depth(masks[index])) + 1
        free = (~masks[index]).to(means.dtype)[None]
        sums = (F.avg_pool2d(part[None], side, 1, side // 2)[0] for part in (pixels[index].float() * free, free))
        means[index] = next(sums) / next(sums)
    return means


def _normalized_blur(pixels: Pixels, masks: Masks) -> Pixels:
    """Blur the unmasked pixels by normalized convolution: blur(pixels * (1 - mask)) / blur(1 - mask).

    The standard deviation is half the side of a square with the area of the mask, or half the width of thin strokes.
    The computation is float64, because the weights far inside a mask are tiny.
    """
    sigma = masks.sum(dim=(1, 2)).double().sqrt().div(2).clamp(min=1.0)
    for index in _find_strokes(masks):
        sigma[index] = _depth(masks[index])
    down, across = (_gaussian(size, sigma)[:, None] for size in masks.shape[1:])
    unmasked = (~masks)[:, None].double()
    weighted = down @ (pixels.double() * unmasked) @ across
    return weighted / (down @ unmasked @ across).clamp(min=torch.finfo(torch.float64).tiny)


def _find_strokes(masks: Masks) -> list[int]:
    """Return the indices of thin strokes: masks that fill less than half of their bounding box and are no frames."""
    found = []
    for index, mask in enumerate(masks.cpu().numpy()):
        if mask.any() and not is_frame(mask):
            first, last, near, far = extent_of(mask)
            if mask[first:last, near:far].mean() < 0.5:
                found.append(index)
    return found


def _depth(mask: Bool[Tensor, "height width"]) -> int:
    """Return the largest Chebyshev distance, in pixels, of a masked pixel from the nearest unmasked pixel."""
    return int(distance_transform_cdt(mask.cpu().numpy(), "chessboard").max())


def _gaussian(size: int, sigma: Float[Tensor, " images"]) -> Float[Tensor, "images size size"]:
    places = torch.arange(size, dtype=torch.float64, device=sigma.device)
    return torch.exp(-0.5 * ((places[:, None] - places[None]) / sigma[:, None, None]) ** 2)


def embed_occluded(
    encoder: DualEncoder,
    pixels: Pixels | Sequence[Tensor],
    masks: MaskArray,
    how: Fill,
    donors: Pixels | None = None,
    chosen: Bool[np.ndarray, "images masks"] | None = None,
) -> Float[np.ndarray, "images masks embed"]:
    """Embed each image once for each of its masks, with the masked pixels replaced by `fill_masks`.

    The images are a tensor, or a list of images that is joined here. With `chosen`, only these masks are covered, and
    the embeddings of the others are zero.
    """
    chosen = np.ones(masks.shape[:2], np.bool_) if chosen is None else chosen
    images = pixels if isinstance(pixels, Tensor) else torch.stack(list(pixels))
    places, boolean = torch.from_numpy(np.argwhere(chosen)), torch.from_numpy(masks)

    def fill_batch(batch: Tensor) -> Tensor:
        image, mask = batch.unbind(1)
        return fill_masks(images[image], boolean[image, mask], how, None if donors is None else donors[image])

    embedded = _embed_batches(encoder, map(fill_batch, places.split(BATCH)))
    embeddings = np.zeros((*masks.shape[:2], embedded.shape[-1]))
    embeddings[chosen] = embedded
    return embeddings


def embed_images(encoder: DualEncoder, pixels: Pixels) -> Float[np.ndarray, "images embed"]:
    """Return the normalized embeddings of preprocessed images."""
    return _embed_batches(encoder, pixels.split(BATCH))


def embed_captions(encoder: DualEncoder, captions: Sequence[str]) -> Float[np.ndarray, "texts embed"]:
    """Return the normalized embeddings of captions."""
    batches = [captions[start : start + BATCH] for start in range(0, len(captions), BATCH)]
    with encoder.frozen():
        parts = [encoder.embed_texts(encoder.tokenize(batch)).double().cpu() for batch in batches]
    return torch.cat(parts).numpy()


def _embed_batches(encoder: DualEncoder, batches: Iterable[Tensor]) -> NDArray[np.float64]:
    with encoder.frozen():
        parts = [encoder.embed_images(encoder.prepare_images(batch)).double().cpu() for batch in batches]
    return torch.cat(parts).numpy()


def foil_margin(
    images: Float[np.ndarray, "pairs *versions embed"],
    own: Float[np.ndarray, "pairs embed"],
    foils: Float[np.ndarray, "pairs foils embed"],
) -> Float[np.ndarray, "pairs ..."]:
    """Return the cosine with the pair's own caption minus the highest cosine with a foil (a caption of another pair).

    A positive margin means that the model prefers the pair's own caption. The highest cosine is determined for each
    version of a pair's image. Margins are between -2 and 2.

    Args:
        images: Embeddings of one or more versions of each pair's image, such as the original and a covered one.
        own: Embedding of each pair's caption.
        foils: Embeddings of the foils of each pair.
    """
    versions = images.reshape(images.shape[0], -1, images.shape[-1])
    cosine = np.einsum("pve,pe->pv", versions, own)
    best = np.einsum("pve,pfe->pvf", versions, foils).max(axis=-1)
    return (cosine - best).reshape(images.shape[:-1])
