"""open_clip's own text transformer, as a part of CLIP or as the TextTransformer of CustomTextCLIP and CoCa."""

import torch
from jaxtyping import Float, Int
from open_clip.model import CLIP
from open_clip.transformer import TextTransformer
from torch import Tensor, nn

from m2ib.errors import UnsupportedModelError
from m2ib.towers.attention import run_blocks
from m2ib.towers.base import CONTENT, FIRST_SPECIAL, LAST_SPECIAL, HiddenTokens, repeat


class CausalTextTower:
    """A causal text transformer that pools its end-of-text token.

    Texts are cut at that token: exact under the causal mask, as nothing later is ever looked at.
    """

    pooling = "end of text"

    def __init__(self, text: TextTransformer | CLIP) -> None:
        pool_type = text.text_pool_type if isinstance(text, CLIP) else text.pool_type
        causal = text.attn_mask is not None and getattr(text, "cls_emb", None) is None
        if pool_type not in ("argmax", "eos") or not causal:
            raise UnsupportedModelError(
                f"text tower: pooling {pool_type!r}, causal without appended CLS: {causal}; "
                "expected a causal tower that pools its end-of-text token"
            )
        self._text = text
        self._eos_id = None
        if pool_type == "eos":
            self._eos_id = text.text_eos_id if isinstance(text, CLIP) else text.eos_id
        self._blocks = text.transformer.resblocks
        self.blocks = len(self._blocks)

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
        positions = torch.arange(tokens, device=inputs.device).expand(len(inputs), tokens)
        kinds = torch.full(positions.shape, CONTENT, device=inputs.device)
        kinds[:, 0] = FIRST_SPECIAL
        kinds[positions == end[:, None]] = LAST_SPECIAL
        dtype = self._text.transformer.get_cast_dtype()
        x = self._text.token_embedding(inputs[:, :tokens]).to(dtype)
        x = x + self._text.positional_embedding[:tokens].to(dtype)
        for block in self._blocks[: layer + 1]:
            x = block(x, attn_mask=self._mask(tokens))
        return HiddenTokens(
            hidden=x,
            valid=positions <= end[:, None],
            kinds=kinds,
            grid=None,
            ids=inputs[:, :tokens],
            context={"end": end},
        )

    def suffix(
        self, codes: Float[Tensor, "draws inputs tokens width"], tokens: HiddenTokens, layer: int
    ) -> Float[Tensor, "draws inputs embed"]:
        """Embeddings of codes at the cut."""
        x = codes.flatten(0, 1)
        end = repeat(tokens.context["end"], len(codes))
        x = run_blocks(self._blocks[layer + 1 :], x, self._mask(x.shape[1]), pooled=end)[:, 0]
        x = project(self._text.ln_final(x), self._text.text_projection)
        return x.unflatten(0, codes.shape[:2])


def project(pooled: Float[Tensor, "codes width"], projection: nn.Module | Tensor | None) -> Tensor:
    """A text tower's projection, in each of the forms that open_clip gives it."""
    if projection is None:
        return pooled
    return projection(pooled) if isinstance(projection, nn.Module) else pooled @ projection
