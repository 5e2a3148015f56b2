"""Every family of towers: split anywhere it gives the embedding of the model, and its maps equal the oracle's."""

import functools
import itertools
from dataclasses import replace

import families
import open_clip
import pytest
import torch
import torch.nn.functional as F
from open_clip.coca_model import CoCa
from open_clip.model import CustomTextCLIP

from m2ib import DualEncoder, GateConfig, UnsupportedModelError, attribute, preset
from m2ib.attribution import gate_masks
from m2ib.towers import find_image_tower, find_text_tower
from m2ib.towers.base import CONTENT, FIRST_SPECIAL, LAST_SPECIAL, PADDING
from m2ib.towers.check import check_embeddings

PAIRS = pytest.mark.parametrize("pair", families.PAIRS, ids=" | ".join)
PAPER = replace(preset("paper"), steps=2, draws=2)


@functools.cache
def get_encoder(pair):
    return families.build(*pair)


def list_towers(encoder):
    model = encoder.model
    return [
        (encoder.image, families.pixels(encoder), model.encode_image),
        (encoder.text, encoder.tokenize(families.TEXTS), model.encode_text),
    ]


def test_all_families_are_covered():
    assert {image for image, _ in families.PAIRS} == set(families.IMAGES)
    assert {text for _, text in families.PAIRS} == set(families.TEXT_TOWERS)


@PAIRS
def test_tower_split_at_any_layer_gives_the_embedding_of_the_model(pair):
    encoder = get_encoder(pair)
    with encoder.frozen(), torch.no_grad():
        for tower, inputs, embed in list_towers(encoder):
            expected = F.normalize(embed(inputs), dim=-1)
            assert (expected[0] - expected[1]).norm() > 0.05, "the inputs of this test must differ"
            for layer in sorted({-1, 0, tower.num_blocks // 2, tower.num_blocks - 1}):
                tokens = tower.run_prefix(inputs, layer)
                got = tower.run_suffix(torch.stack([tokens.hidden, tokens.hidden]), tokens, layer)
                for draw in F.normalize(got, dim=-1):
                    torch.testing.assert_close(draw, expected, rtol=1e-5, atol=2e-6)


@PAIRS
def test_grid_and_kinds_describe_the_tokens(pair):
    encoder = get_encoder(pair)
    with encoder.frozen():
        for layer in range(-1, encoder.image.num_blocks):
            tokens = encoder.image.run_prefix(families.pixels(encoder), layer)
            rows, columns = tokens.grid
            assert bool((((tokens.kinds == CONTENT).sum(dim=1)) == rows * columns).all())
            height, width = encoder.image_size
            assert rows * width == columns * height, "cells are square"
            assert bool(tokens.valid.all())
        ids = encoder.tokenize(families.TEXTS)
        tokens = encoder.text.run_prefix(ids, 0)
        words = [min(len(text.split()), families.CONTEXT) for text in families.TEXTS]
        assert tokens.ids.shape == tokens.kinds.shape == tokens.valid.shape
        assert bool(((tokens.kinds != CONTENT) <= tokens.valid).all()), "special tokens are no padding"
        if not isinstance(encoder.tokenizer, open_clip.SimpleTokenizer):
            content = ((tokens.kinds == CONTENT) & tokens.valid).sum(dim=1).tolist()
            assert content[0] == words[0]
            assert content[2] == words[2]


def _maps_equal_the_oracle(pair, config):
    encoder = get_encoder(pair)
    pixels, texts = families.pixels(encoder, 1), families.TEXTS[:1]
    result = attribute(encoder, pixels, texts, config, keys=["key"])
    ids = encoder.tokenize(texts)
    with encoder.frozen():
        nats, cosine = families.oracle_map(encoder, "image", config, pixels, encoder.embed_texts(ids), "key")
        patches = result.image_map[0].numel()
        _close(result.image_map[0].flatten(), nats[-patches:])
        _close(result.image_special_nats[0], nats[:-patches].sum())
        _close(result.image_cosine[0], cosine)
        nats, cosine = families.oracle_map(encoder, "text", config, ids, encoder.embed_images(pixels), "key")
        tokens = encoder.text.run_prefix(ids, config.text.resolve_layer(encoder.text.num_blocks))
        shown = (tokens.valid & (tokens.kinds != PADDING))[0, : len(nats)]
        _close(result.text_map[0], nats[shown])
        _close(result.text_padding_nats[0], nats[~shown].sum())
        _close(result.text_cosine[0], cosine)
    assert result.image_map.std() > 1e-4


def _close(got, expected):
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=2e-4)


@PAIRS
def test_maps_equal_the_oracle_at_the_papers_depth(pair):
    _maps_equal_the_oracle(pair, PAPER)


@PAIRS
def test_maps_equal_the_oracle_early(pair):
    for layer in (-1, 0):
        gate = GateConfig(layer=layer, beta=0.3)
        _maps_equal_the_oracle(pair, replace(PAPER, image=gate, text=gate, steps=1))


@PAIRS
def test_model_is_unchanged_bit_by_bit(pair, monkeypatch):
    encoder = get_encoder(pair)
    model = encoder.model.train()
    model.zero_grad(set_to_none=True)  # the oracle leaves weight gradients behind, as the paper's code does
    arguments = (encoder, families.pixels(encoder, 1), families.TEXTS[:1], replace(PAPER, steps=1))
    before = {key: value.clone() for key, value in model.state_dict().items()}

    def unchanged():
        assert model.training
        assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
        assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
        for module in model.modules():
            assert not module._forward_hooks
            assert not module._forward_pre_hooks

    attribute(*arguments)
    unchanged()
    for stop in (RuntimeError("broken"), KeyboardInterrupt()):
        with monkeypatch.context() as patch:
            patch.setattr(encoder.text, "run_suffix", lambda *_args, stop=stop: (_ for _ in ()).throw(stop))
            with pytest.raises(type(stop)):
                attribute(*arguments)
        unchanged()


def test_a_hugging_face_encoder_is_left_without_hooks_when_it_fails(monkeypatch):
    encoder = get_encoder(("EVA", "BERT, CLS"))
    transformer = encoder.model.text.transformer

    def interrupted(*_args, **_kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(transformer.embeddings, "forward", interrupted)
        with pytest.raises(KeyboardInterrupt):
            encoder.text.run_prefix(encoder.tokenize(["x"]), 0)
    assert all(not module._forward_pre_hooks for module in transformer.modules())


def test_padding_is_gated_if_it_depends_on_words():
    encoder = get_encoder(("SigLIP", "SigLIP, padded with EOS"))
    ids = encoder.tokenize(["a nodule"])
    tokens = encoder.text.run_prefix(ids, -1)
    assert tokens.valid[0].tolist() == [True] * 3 + [False] * 6 + [True]
    assert tokens.kinds[0, [2, 9]].tolist() == [LAST_SPECIAL, LAST_SPECIAL]
    assert tokens.kinds[0, :2].tolist() == [CONTENT, CONTENT]
    tokens = encoder.text.run_prefix(ids, 0)
    assert bool(tokens.valid.all())
    assert tokens.kinds[0].tolist() == [CONTENT] * 2 + [LAST_SPECIAL] + [PADDING] * 6 + [LAST_SPECIAL]


TEXT_PAIRS = list({text: (image, text) for image, text in families.PAIRS}.values())


@pytest.mark.parametrize("pair", TEXT_PAIRS, ids=" | ".join)
def test_no_word_bypasses_the_gates(pair):
    """With noise instead of all gated tokens, the embedding no longer depends on the words.

    An open pooled token passes what it has read, so this test replaces it by noise as well.
    """
    encoder = get_encoder(pair)
    for layer, special in itertools.product((0, 1), ("learned", "closed", "open")):
        _no_word_bypasses_the_gates(encoder, layer, special)


def _no_word_bypasses_the_gates(encoder, layer, special):
    first, second = (encoder.tokenize([text]) for text in ("a dog on the left", "no cat in this house"))
    with encoder.frozen(), torch.no_grad():
        one, other = (encoder.text.run_prefix(ids, layer) for ids in (first, second))
        assert torch.equal(one.valid, other.valid), "texts of equal length"
        noise = torch.randn(one.hidden.shape, generator=torch.Generator().manual_seed(0))
        codes = []
        for tokens in (one, other):
            learned, closed = gate_masks(tokens, GateConfig(special=special))
            opened = tokens.valid & ((tokens.kinds == FIRST_SPECIAL) | (tokens.kinds == LAST_SPECIAL))
            covered = learned | closed | opened
            codes.append(torch.where(covered[..., None], noise, tokens.hidden)[None])
        embeddings = [encoder.text.run_suffix(code, t, layer) for code, t in zip(codes, (one, other), strict=True)]
    torch.testing.assert_close(*embeddings)


def test_appended_class_token_has_a_name():
    encoder = get_encoder(("CoCa ViT", "CoCa"))
    result = attribute(encoder, families.pixels(encoder, 1), ["a nodule"], replace(PAPER, steps=1))
    assert result.tokens[0][-1] == "<cls>"
    assert result.special[0][0]
    assert result.special[0][-1]


@pytest.mark.parametrize(
    ("vision", "text", "reason"),
    [
        ({"attentional_pool": "parallel"}, {}, "got attentional_pool 'parallel'"),
        ({"attentional_pool": "cascade"}, {}, "got attentional_pool 'cascade'"),
        ({"pool_type": "none"}, {}, "image tower: got the pooling 'none'"),
        ({}, {"pool_type": "none"}, "text tower: got the pooling 'none'"),
    ],
)
def test_messages_name_the_unsupported_part(vision, text, reason):
    vision_cfg = {**families.IMAGES["ViT"], "attn_pooler_heads": 2, **vision}
    text_cfg = {**families.TEXT_TOWERS["causal"][0], **text}
    model = CustomTextCLIP(embed_dim=24, vision_cfg=vision_cfg, text_cfg=text_cfg)
    tower = find_text_tower if text else find_image_tower
    with pytest.raises(UnsupportedModelError, match=reason):
        tower(model)


def test_unsupported_trunks_are_rejected_by_name():
    model = CustomTextCLIP(
        embed_dim=24,
        vision_cfg={"timm_model_name": "ghostnet_050", "image_size": 64},
        text_cfg=families.TEXT_TOWERS["causal"][0],
    )
    with pytest.raises(UnsupportedModelError, match="timm trunk timm's GhostNet, expected one of ConvNeXt, Eva"):
        find_image_tower(model)


def test_unsupported_encoders_and_poolers_are_rejected_by_name():
    model = get_encoder(("EVA", "BERT, CLS")).model
    text = model.text
    kept = text.pooler
    try:
        text.pooler = open_clip.hf_model.MaxPooler()
        with pytest.raises(UnsupportedModelError, match="pooling MaxPooler"):
            find_text_tower(model)
    finally:
        text.pooler = kept
    text.config.model_type = "albert"
    try:
        with pytest.raises(UnsupportedModelError, match="'albert' encoder, expected one of bert"):
            find_text_tower(model)
    finally:
        del text.config.model_type
    assert text.config.model_type == "bert"


def test_coca_with_one_output_is_rejected():
    text_cfg = {**families.TEXT_TOWERS["CoCa"][0], "output_tokens": False}
    vision_cfg = {**families.IMAGES["CoCa ViT"], "output_tokens": False}
    multimodal = {"width": 32, "heads": 2, "layers": 1, "context_length": families.CONTEXT}
    model = CoCa(embed_dim=24, vision_cfg=vision_cfg, text_cfg=text_cfg, multimodal_cfg=multimodal)
    with pytest.raises(UnsupportedModelError, match="image tower: got output_tokens = false"):
        find_image_tower(model)
    with pytest.raises(UnsupportedModelError, match="text tower: got output_tokens = false"):
        find_text_tower(model)


def test_model_with_another_computation_is_rejected():
    encoder = families.build("ViT", "causal")
    visual = encoder.model.visual
    whole = visual.transformer.forward
    visual.transformer.forward = lambda x: whole(x) + x.flip(-1)
    with pytest.raises(UnsupportedModelError, match="image tower, split after block 0, gives a different embedding"):
        DualEncoder(encoder.model, encoder.tokenizer)


def test_failing_model_is_rejected_with_its_error():
    encoder = families.build("ViT", "causal")
    with pytest.raises(UnsupportedModelError, match=r"text tower fails when it is split after block .*IndexError"):
        DualEncoder(encoder.model, lambda texts: torch.full((len(texts), families.CONTEXT), 60000))


def test_embeddings_of_another_shape_are_rejected():
    encoder = get_encoder(("ViT", "causal"))

    def embed(pixels):
        return encoder.embed_images(pixels)[:, None]

    with pytest.raises(UnsupportedModelError, match=r"expected \(inputs, features\) from both"):
        check_embeddings("image", encoder.image, lambda: families.pixels(encoder), embed)


@pytest.mark.parametrize("pair", [("ViT", "causal"), ("ConvNeXt", "SigLIP2"), ("EVA", "BERT, CLS")], ids=" | ".join)
def test_half_precision_is_accepted_and_explained(pair):
    encoder = families.build(*pair)
    half = DualEncoder(encoder.model.bfloat16(), encoder.tokenizer)
    result = attribute(half, families.pixels(half, 1), ["a nodule"], replace(PAPER, steps=1), keys=["key"])
    assert result.image_map.isfinite().all()
    assert result.image_map.std() > 0


def test_image_size_can_be_forced():
    model = open_clip.create_model("ViT-S-32-alt", force_image_size=(96, 128), load_weights=False)
    other = DualEncoder(model, open_clip.SimpleTokenizer(context_length=77))
    assert other.image.run_prefix(families.pixels(other, 1), 0).grid == (3, 4)
