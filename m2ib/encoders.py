"""Dual encoders cut in two at the bottleneck: a prefix that runs once and a suffix that runs at every step.

Both halves call the model's own modules in the model's own order; nothing of the model is changed or copied.
"""

import contextlib
import difflib
import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import open_clip
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.transform import PreprocessCfg, image_transform_v2
from open_clip.transformer import TextTransformer, VisionTransformer
from PIL import Image
from torch import Tensor, nn

from m2ib.errors import ModelLoadError, UnsupportedModelError

Images = Sequence[Image.Image] | Float[Tensor, "images 3 height width"]

CONTENT, FIRST_SPECIAL, LAST_SPECIAL = 0, 1, 2
KINDS = 3
_PLAIN = (int, float, str, tuple, type(None))
_PROBES = ["", "A chest X-ray, 3/4 view: nodule (5 mm)!", "Größe, 大小, حجم", "a " * 200]
_CHECKPOINT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")


@dataclass(frozen=True)
class HiddenTokens:
    """Hidden states of S inputs at the bottleneck, padded to T tokens.

    lengths: real tokens of each input. kinds: CONTENT (patch, word), FIRST_SPECIAL (CLS, SOS) or LAST_SPECIAL (EOS).
    pooled: index of the token that the tower pools.
    """

    hidden: Float[Tensor, "inputs tokens width"]
    lengths: Int[Tensor, " inputs"]
    kinds: Int[Tensor, "inputs tokens"]
    pooled: Int[Tensor, " inputs"]

    @property
    def valid(self) -> Bool[Tensor, "inputs tokens"]:
        """Real tokens, as against padding."""
        positions = torch.arange(self.hidden.shape[1], device=self.hidden.device)
        return positions[None, :] < self.lengths[:, None]

    def __getitem__(self, rows: Tensor | slice) -> "HiddenTokens":
        return HiddenTokens(self.hidden[rows], self.lengths[rows], self.kinds[rows], self.pooled[rows])


class Tower(Protocol):
    """One half of a dual encoder, cut after block `layer` (-1: after the embeddings)."""

    blocks: int
    width: int

    def prefix(self, inputs: Tensor, layer: int) -> HiddenTokens:
        """Hidden states at the cut, without gradient."""

    def suffix(
        self, hidden: Float[Tensor, "codes tokens width"], pooled: Int[Tensor, " codes"], layer: int
    ) -> Float[Tensor, "codes embed"]:
        """Embedding (not normalised) from hidden states at the cut; `pooled` as in HiddenTokens."""


class ImageTower:
    """open_clip's VisionTransformer."""

    def __init__(self, visual: nn.Module) -> None:
        if not isinstance(visual, VisionTransformer):
            raise UnsupportedModelError(
                f"image tower: got {type(visual).__name__}, expected open_clip's VisionTransformer; "
                "use an architecture whose vision_cfg has neither timm_model_name nor a list of layers"
            )
        self._visual = visual
        self.blocks = len(visual.transformer.resblocks)
        self.width = visual.transformer.width
        self.grid: tuple[int, int] = visual.grid_size
        self.image_size: tuple[int, int] = visual.image_size

    @torch.no_grad()
    def prefix(self, inputs: Float[Tensor, "inputs 3 height width"], layer: int) -> HiddenTokens:
        """Hidden states at the cut: CLS, then the patches row by row."""
        x = self._visual._embeds(inputs)
        for block in self._visual.transformer.resblocks[: layer + 1]:
            x = block(x)
        count, tokens, _ = x.shape
        kinds = torch.full((count, tokens), CONTENT, device=x.device)
        kinds[:, 0] = FIRST_SPECIAL
        return HiddenTokens(
            hidden=x,
            lengths=torch.full((count,), tokens, device=x.device),
            kinds=kinds,
            pooled=torch.zeros(count, dtype=torch.long, device=x.device),
        )

    def suffix(
        self, hidden: Float[Tensor, "codes tokens width"], pooled: Int[Tensor, " codes"], layer: int
    ) -> Float[Tensor, "codes embed"]:
        """Embedding from hidden states at the cut."""
        del pooled  # the tower knows which token it pools
        x = hidden
        for block in self._visual.transformer.resblocks[layer + 1 :]:
            x = block(x)
        embedding: Tensor = self._visual._pool(x)[0]
        return embedding if self._visual.proj is None else embedding @ self._visual.proj


class TextTower:
    """open_clip's text transformer, as a part of CLIP or as the TextTransformer of CustomTextCLIP.

    Texts are cut at their end-of-text token: exact under the causal mask, as nothing later is ever looked at.
    """

    def __init__(self, model: nn.Module) -> None:
        text = model.text if isinstance(model, CustomTextCLIP) else model
        if not isinstance(text, TextTransformer | CLIP):
            raise UnsupportedModelError(
                f"text tower: got {type(text).__name__}, expected open_clip's own text transformer; "
                "use an architecture whose text_cfg has no hf_model_name"
            )
        pool_type = text.text_pool_type if isinstance(text, CLIP) else text.pool_type
        if pool_type not in ("argmax", "eos") or text.attn_mask is None or getattr(text, "cls_emb", None) is not None:
            raise UnsupportedModelError(
                f"text tower: pooling {pool_type!r}, causal mask {text.attn_mask is not None}, appended CLS "
                f"{getattr(text, 'cls_emb', None) is not None}; expected a causal one that pools its end-of-text token"
            )
        self._text = text
        self._eos_id: int | None = None
        if pool_type == "eos":
            self._eos_id = text.text_eos_id if isinstance(text, CLIP) else text.eos_id
        self.blocks = len(text.transformer.resblocks)
        self.width = text.transformer.width
        self.context_length = text.context_length

    def end_of_text(self, inputs: Int[Tensor, "inputs context"]) -> Int[Tensor, " inputs"]:
        """Index of the token that the model pools."""
        hits = inputs if self._eos_id is None else (inputs == self._eos_id).int()
        return hits.argmax(dim=-1)

    def _mask(self, tokens: int) -> Float[Tensor, "tokens tokens"]:
        mask: Tensor = self._text.attn_mask[:tokens, :tokens]
        return mask

    @torch.no_grad()
    def prefix(self, inputs: Int[Tensor, "inputs context"], layer: int) -> HiddenTokens:
        """Hidden states at the cut, up to the longest text's end."""
        end = self.end_of_text(inputs)
        tokens = int(end.max()) + 1
        kinds = torch.full((len(inputs), tokens), CONTENT, device=inputs.device)
        kinds[:, 0] = FIRST_SPECIAL
        kinds[torch.arange(len(inputs), device=inputs.device), end] = LAST_SPECIAL
        dtype = self._text.transformer.get_cast_dtype()
        x = self._text.token_embedding(inputs[:, :tokens]).to(dtype)
        x = x + self._text.positional_embedding[:tokens].to(dtype)
        for block in self._text.transformer.resblocks[: layer + 1]:
            x = block(x, attn_mask=self._mask(tokens))
        return HiddenTokens(hidden=x, lengths=end + 1, kinds=kinds, pooled=end)

    def suffix(
        self, hidden: Float[Tensor, "codes tokens width"], pooled: Int[Tensor, " codes"], layer: int
    ) -> Float[Tensor, "codes embed"]:
        """Embedding from hidden states at the cut."""
        x = hidden
        for block in self._text.transformer.resblocks[layer + 1 :]:
            x = block(x, attn_mask=self._mask(x.shape[1]))
        x = self._text.ln_final(x[torch.arange(len(x), device=x.device), pooled])
        projection = self._text.text_projection
        if projection is None:
            return x
        return projection(x) if isinstance(projection, nn.Linear) else x @ projection


class DualEncoder:
    """A CLIP-like model, its preprocessing and its tokenizer, ready to be attributed.

    model: open_clip's CLIP or CustomTextCLIP. preprocess: PIL image -> (3, height, width); default: the model's own
    evaluation transform. tokenizer: list of texts -> (texts, context) ids. name: how to refer to it in results.
    Raises UnsupportedModelError, with the reason, for a model that the engine cannot attribute faithfully.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, preprocess: Any = None, name: str = "") -> None:
        if not isinstance(model, CLIP | CustomTextCLIP):
            raise UnsupportedModelError(
                f"model: got {type(model).__name__}, expected open_clip's CLIP or CustomTextCLIP"
            )
        self.model = model
        self.tokenizer = tokenizer
        self.name = name
        self.preprocess_cfg = PreprocessCfg(**model.visual.preprocess_cfg)
        self.preprocess = preprocess or image_transform_v2(self.preprocess_cfg, is_train=False)
        self.image = ImageTower(model.visual)
        self.text = TextTower(model)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    @cached_property
    def digest(self) -> str:
        """sha256 over weights, structure, preprocessing and tokenizer: the same model has the same, whatever its file.

        Structure is each module's class and plain settings: equal weights with another activation, number of heads or
        pooling are another model. The tokenizer counts by what it makes of a few texts.
        """
        sha = hashlib.sha256()
        for path, module in self.model.named_modules():
            plain = {
                key: value for key, value in vars(module).items() if isinstance(value, _PLAIN) and key != "training"
            }
            sha.update(f"{path}\x1f{type(module).__qualname__}\x1f{sorted(plain.items())}\x1e".encode())
        sha.update(self.tokenizer(_PROBES).numpy().data)
        for key, tensor in sorted(self.model.state_dict().items()):
            sha.update(f"{key}\x1f{tensor.dtype}\x1f{tuple(tensor.shape)}\x1e".encode())
            sha.update(tensor.detach().contiguous().cpu().flatten().view(torch.uint8).numpy().data)
        sha.update(json.dumps(vars(self.preprocess_cfg), sort_keys=True, default=str).encode())
        return sha.hexdigest()

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Evaluation mode without parameter gradients, and everything put back, whatever happens inside."""
        training = {module: module.training for module in self.model.modules()}
        trainable = {parameter: parameter.requires_grad for parameter in self.model.parameters()}
        try:
            self.model.eval().requires_grad_(False)
            yield
        finally:
            for module, was_training in training.items():
                module.training = was_training
            for parameter, was_trainable in trainable.items():
                parameter.requires_grad_(was_trainable)

    def pixels(self, images: Images) -> Float[Tensor, "images 3 height width"]:
        """Preprocess as the model does when it is deployed; a tensor is taken as preprocessed."""
        if isinstance(images, Tensor):
            return images.to(self.device)
        return self.stack([self.preprocess(image) for image in images]).to(self.device)

    def stack(self, images: Sequence[Float[Tensor, "3 height width"]]) -> Float[Tensor, "images 3 height width"]:
        """A batch of what `preprocess` returned; empty for no image."""
        return torch.stack(list(images)) if images else torch.empty(0, 3, *self.image.image_size)

    def token_ids(self, texts: Sequence[str]) -> Int[Tensor, "texts context"]:
        """Tokenize as the model does when it is deployed (long texts are cut by the tokenizer)."""
        ids: Tensor = self.tokenizer(list(texts))
        return ids.to(self.device)

    def token_strings(self, ids: Int[Tensor, " tokens"]) -> list[str]:
        """One readable string a token."""
        return [self.tokenizer.decode([int(token)]).strip() for token in ids]

    def field_of_view(self, width: int, height: int) -> tuple[float, float, float, float]:
        """The box (x0, y0, x1, y1) of a width x height image that the model sees, in shares of the image.

        Below 0 or above 1 where the preprocessing pads. Follows open_clip's resize modes: `shortest` crops the centre,
        `longest` pads, `squash` keeps all.
        """
        size = self.preprocess_cfg.size
        target_h, target_w = (size, size) if isinstance(size, int) else (size[0], size[1])
        if self.preprocess_cfg.resize_mode == "squash":
            return (0.0, 0.0, 1.0, 1.0)
        pick = max if self.preprocess_cfg.resize_mode == "longest" else min
        ratio = pick(height / target_h, width / target_w)
        seen_w, seen_h = target_w * ratio / width, target_h * ratio / height
        return ((1 - seen_w) / 2, (1 - seen_h) / 2, (1 + seen_w) / 2, (1 + seen_h) / 2)

    @torch.no_grad()
    def embed_images(self, pixels: Float[Tensor, "images 3 height width"]) -> Float[Tensor, "images embed"]:
        """Normalised clean embeddings, by the model's own forward."""
        return F.normalize(self.model.encode_image(pixels).float(), dim=-1)

    @torch.no_grad()
    def embed_texts(self, ids: Int[Tensor, "texts context"]) -> Float[Tensor, "texts embed"]:
        """Normalised clean embeddings, by the model's own forward."""
        return F.normalize(self.model.encode_text(ids).float(), dim=-1)


def load_encoder(architecture: str, pretrained: str | None = None, device: str | torch.device = "cpu") -> DualEncoder:
    """Load a model as open_clip names it.

    architecture: a name of `open_clip.list_models()`, `hf-hub:org/name`, or `local-dir:/folder` with open_clip's
    configuration and weights. pretrained: a tag of that architecture or a local checkpoint file (safetensors, or a
    state dict that `torch.load(weights_only=True)` accepts); must be None for the two forms with a prefix.
    Raises ModelLoadError, UnsupportedModelError.
    """
    prefixed = architecture.startswith((open_clip.factory.HF_HUB_PREFIX, open_clip.factory.LOCAL_DIR_PREFIX))
    if not prefixed and architecture not in open_clip.list_models():
        near = difflib.get_close_matches(architecture, open_clip.list_models(), n=3, cutoff=0.0)
        raise ModelLoadError(
            f"model: got {architecture!r}, expected a name of open_clip.list_models() (nearest: {', '.join(near)}), "
            "hf-hub:org/name or local-dir:/folder"
        )
    named = not prefixed
    if named and not pretrained:
        raise ModelLoadError(
            f"model {architecture!r}: no weights named; give `pretrained` a tag of "
            f"open_clip.list_pretrained_tags_by_model({architecture!r}) or a local checkpoint file"
        )
    if not named and pretrained:
        raise ModelLoadError(
            f"model {architecture!r} brings its own weights: leave `pretrained` out, got {pretrained!r}"
        )
    looks_like_a_file = "/" in (pretrained or "") or Path(pretrained or "").suffix in _CHECKPOINT_SUFFIXES
    if named and looks_like_a_file and not Path(str(pretrained)).is_file():
        raise ModelLoadError(f"pretrained: no file at {pretrained!r}; check the path of the checkpoint")
    try:
        with _quiet_open_clip():
            model, _, preprocess = open_clip.create_model_and_transforms(
                architecture, pretrained=pretrained, device=device, weights_only=True, require_pretrained=True
            )
            tokenizer = open_clip.get_tokenizer(architecture)
    except UnsupportedModelError:
        raise
    except Exception as error:  # open_clip and torch raise a dozen kinds for a wrong name, file or network
        raise ModelLoadError(
            f"model {architecture!r} with weights {pretrained!r} could not be loaded: {type(error).__name__}: {error}"
        ) from error
    name = architecture if not pretrained else f"{architecture}/{pretrained}"
    return DualEncoder(model, tokenizer, preprocess, name=name)


@contextlib.contextmanager
def _quiet_open_clip() -> Iterator[None]:
    """open_clip logs each step of loading on the root logger; a library should not print it for the caller."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(max(level, logging.WARNING))
    try:
        yield
    finally:
        root.setLevel(level)


def devices(wanted: str = "auto") -> list[str]:
    """Devices to fan out over: for `auto` every CUDA device, else the CPU. Raises ModelLoadError for one not there."""
    if wanted == "auto":
        return [f"cuda:{index}" for index in range(torch.cuda.device_count())] or ["cpu"]
    try:
        torch.empty(0, device=wanted)
    except (RuntimeError, AssertionError) as error:
        raise ModelLoadError(
            f"device: got {wanted!r}, which this machine does not offer ({error}); try 'auto'"
        ) from error
    return [wanted]
