"""Text towers of open_clip's own transformer, which is part of its classes CLIP, CustomTextCLIP and CoCa."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Int
from open_clip.model import CLIP
from open_clip.transformer import TextTransformer
from torch import Tensor, nn

from m2ib.errors import UnsupportedModelError
from m2ib.towers.attention import BlockwiseTower, run_blocks
from m2ib.towers.base import CONTENT, FIRST_SPECIAL, LAST_SPECIAL, PADDING, HiddenTokens, Ids

APPENDED = -1  # value of `HiddenTokens.ids` for a CLS token that the tower appends


@dataclass(frozen=True)
class Vocabulary:
    """Token ids of padding and markers (SOS, EOS, CLS, SEP), as far as the tokenizer declares them."""

    pad: int | None = None  # id of padding
    markers: frozenset[int] | None = None  # ids of SOS, EOS, CLS and SEP

    @classmethod
    def from_tokenizer(cls, tokenizer: Any) -> "Vocabulary":
        """Read the ids of padding and markers (SOS, EOS) from open_clip's tokenizer, or from the one that it wraps."""
        inner = getattr(tokenizer, "tokenizer", tokenizer)
        names = ("sot_token_id", "eot_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")
        found = {getattr(inner, name, None) for name in names}
        markers = frozenset(value for value in found if isinstance(value, int))
        pad = getattr(inner, "pad_token_id", None)
        return cls(pad if isinstance(pad, int) else None, markers or None)

    def is_marker(self, ids: Int[Tensor, "*shape"], unknown: bool) -> Bool[Tensor, "*shape"]:
        """Return True for each id of a marker (SOS, EOS), or `unknown` for all ids if no markers are declared."""
        if self.markers is None:
            return torch.full_like(ids, unknown, dtype=torch.bool)
        return torch.isin(ids, torch.tensor(sorted(self.markers), device=ids.device))


class OpenClipTextTower(BlockwiseTower):
    """Text tower with open_clip's transformer, causal or bidirectional.

    A causal tower that pools the end-of-text token never attends to padding, so batches are truncated to their longest
    text (unless `cut` is False). The embedding of other towers depends on padding: bidirectional towers attend to it
    (MobileCLIP), SigLIP and CLIPA pool the last position, and CoCa appends a CLS token that attends to one position
    past the text.

    The token embeddings of padding contain nothing about the text and pass the bottleneck unchanged. After the first
    block, padding contains information about the words. If the pooled token attends to it, it is gated like a special
    token.
    """

    POOLING: ClassVar = {"argmax": "end of text", "eos": "end of text", "last": "last token", "first": "first token"}

    def __init__(self, text: TextTransformer | CLIP, vocabulary: Vocabulary, *, cut: bool = True) -> None:
        self._text = text
        self._vocabulary = vocabulary
        self._appends = getattr(text, "cls_emb", None) is not None
        own = text.text_pool_type if isinstance(text, CLIP) else text.pool_type
        self._pool_type = "appended" if self._appends else str(own)
        if self._pool_type not in ("appended", *self.POOLING):
            raise UnsupportedModelError(
                f"text tower: got the pooling {self._pool_type!r}, which does not give a single embedding; "
                f"expected one of {', '.join(self.POOLING)}"
            )
        self._pools_end = self._pool_type in ("argmax", "eos")
        self._cut = cut and self._pools_end and text.attn_mask is not None
        self._blocks = text.transformer.resblocks
        self.num_blocks = len(self._blocks)
        self.pooling = "appended CLS token" if self._appends else self.POOLING[self._pool_type]

    def _embed(self, ids: Ids) -> tuple[Tensor, Tensor | None]:
        """Return the token embeddings with positions, and the additive attention mask, as the model computes them."""
        text = self._text
        if isinstance(text, TextTransformer) and not self._cut:
            x, mask = text._embeds(ids)
            return x, mask
        dtype, length = text.transformer.get_cast_dtype(), ids.shape[1]
        mask = None if text.attn_mask is None else text.attn_mask[:length, :length]
        return text.token_embedding(ids).to(dtype) + text.positional_embedding[:length].to(dtype), mask

    def _find_pooled(self, ids: Ids) -> Int[Tensor, " inputs"]:
        """Return the index of the token that the model pools for each text."""
        match self._pool_type:
            case "argmax":
                return ids.argmax(dim=-1)
            case "eos":
                end = self._text.text_eos_id if isinstance(self._text, CLIP) else self._text.eos_id
                return (ids == end).int().argmax(dim=-1)
            case "first":
                return torch.zeros_like(ids[:, 0])
            case _:
                return torch.full_like(ids[:, 0], ids.shape[1] - (not self._appends))

    def _classify(
        self, ids: Ids, pooled: Int[Tensor, " inputs"]
    ) -> tuple[Int[Tensor, "inputs tokens"], Bool[Tensor, "inputs tokens"]]:
        """Return the kind of each token (such as `CONTENT`), and a mask of the tokens that may be gated.

        The mask contains the text up to its end, and the pooled token (at index `pooled`) even if it is padding.
        """
        pad = self._vocabulary.pad
        pad = int(getattr(self._text, "pad_id", 0)) if pad is None else pad
        positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        if self._pools_end:
            end = pooled
        else:
            words = ids != pad
            if self._pool_type == "last":
                words = words & (positions < pooled[:, None])
            end = (words * (positions + 1)).amax(dim=1) - 1
            if self._vocabulary.markers is not None and pad in self._vocabulary.markers:
                end = (end + 1).clamp_max(ids.shape[1] - 1)  # SigLIP pads with EOS, and its first EOS ends the text
        kinds = torch.full(ids.shape, CONTENT, device=ids.device)
        ends = positions == end[:, None]
        kinds[ends & self._vocabulary.is_marker(ids, unknown=False)] = LAST_SPECIAL
        kinds[:, 0][self._vocabulary.is_marker(ids[:, 0], unknown=self._cut)] = FIRST_SPECIAL
        valid = positions <= end[:, None]
        if self._appends:
            kinds = torch.cat([kinds, torch.full_like(kinds[:, :1], LAST_SPECIAL)], dim=1)
            valid = torch.cat([valid, torch.ones_like(valid[:, :1])], dim=1)
        at_pooled = torch.arange(kinds.shape[1], device=ids.device) == pooled[:, None]
        kinds[at_pooled] = FIRST_SPECIAL if self._pool_type == "first" else LAST_SPECIAL
        return kinds, valid | at_pooled

    @torch.no_grad()
    def run_prefix(self, inputs: Ids, layer: int) -> HiddenTokens:
        """Return the hidden states after block `layer`."""
        pooled = self._find_pooled(inputs)
        ids = inputs[:, : int(pooled.max()) + 1] if self._cut else inputs
        kinds, valid = self._classify(ids, pooled)
        context: dict[str, Tensor] = {"pooled": pooled}
        shared: dict[str, Tensor] = {}
        x, mask = self._embed(ids)
        for block in self._blocks[: layer + 1]:
            x = block(x, attn_mask=mask)
        read = torch.ones_like(valid)  # tokens that the pooled token attends to
        if mask is not None and mask.ndim == 3:  # (inputs * heads, tokens, tokens)
            context["mask"] = mask.unflatten(0, (len(ids), -1))
            read = ~torch.isneginf(context["mask"][torch.arange(len(ids), device=ids.device), 0, pooled])
        elif mask is not None:
            shared["mask"] = mask
            read = ~torch.isneginf(mask[pooled])
        if layer >= 0:
            kinds, valid = torch.where(read & ~valid, PADDING, kinds), valid | read
        if self._appends:
            ids = torch.cat([ids, torch.full_like(ids[:, :1], APPENDED)], dim=1)
        return HiddenTokens(hidden=x, valid=valid, kinds=kinds, grid=None, ids=ids, context=context, shared=shared)

    def _embed_codes(self, x: Tensor, context: dict[str, Tensor], _grid: tuple[int, int] | None, layer: int) -> Tensor:
        pooled, mask, rest = context["pooled"], context.get("mask"), self._blocks[layer + 1 :]
        if mask is not None and mask.ndim == 4:  # one mask per text
            mask = mask.flatten(0, 1)
            for block in rest:
                x = block(x, attn_mask=mask)
            x = x[torch.arange(len(x), device=x.device), pooled]
        else:
            x = run_blocks(rest, x, mask, pooled, self.run_block)[:, 0]
        x, projection = self._text.ln_final(x), self._text.text_projection
        if projection is None:
            return x
        return projection(x) if isinstance(projection, nn.Module) else x @ projection
