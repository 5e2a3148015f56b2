"""Which of open_clip's models are supported, without building their weights."""

import copy
import re
from pathlib import Path

import families
import open_clip
import pytest
import torch

from m2ib import BottleneckConfig, DualEncoder
from m2ib.towers.catalog import ON_THE_HUB, describe_models

SOME = ["ViT-B-32", "coca_ViT-B-32", "convnext_tiny", "RN50", "nllb-clip-base-siglip", "ViTamin-S"]


def describe_variants(monkeypatch, **configurations):
    """Describe variants of ViT-B-32, given by name and changes to its configuration."""
    base = open_clip.get_model_config("ViT-B-32")

    def configuration(name):
        parts = copy.deepcopy(base)
        for key, value in configurations[name].items():
            parts[key] = {**parts[key], **value} if isinstance(value, dict) and key in parts else value
        return parts

    monkeypatch.setattr(open_clip, "list_models", lambda: list(configurations))
    monkeypatch.setattr(open_clip, "get_model_config", configuration)
    return {facts.name: facts for facts in describe_models()}


def test_facts_of_some_models(monkeypatch):
    monkeypatch.setattr(open_clip, "list_models", lambda: SOME)
    facts = {facts.name: facts for facts in describe_models()}
    assert list(facts) == SOME
    assert all(model.supported and not model.reason for model in facts.values())
    plain = facts["ViT-B-32"]
    assert (plain.image.pooling, plain.image.num_blocks, plain.image.grid) == ("CLS token", 12, (7, 7))
    assert plain.image.layer == BottleneckConfig().image.resolve_layer(12)
    assert (plain.text.pooling, plain.text.num_blocks, plain.text.grid) == ("end of text", 12, None)
    assert facts["coca_ViT-B-32"].text.pooling == "appended CLS token"
    assert facts["convnext_tiny"].image.num_blocks == 3 + 3 + 9 + 3
    assert facts["RN50"].image.pooling == "attention"
    assert facts["nllb-clip-base-siglip"].text.pooling == "CLS token"
    assert ON_THE_HUB in facts["nllb-clip-base-siglip"].text.note


def test_reasons_name_the_unsupported_part(monkeypatch):
    facts = describe_variants(
        monkeypatch,
        contrastive={"vision_cfg": {"attentional_pool": "parallel"}},
        trunk={"vision_cfg": {"timm_model_name": "ghostnet_050"}},
        unknown={"text_cfg": {"hf_model_name": "someone/gpt-neo"}},
        pooler={"text_cfg": {"hf_model_name": "bert-base-uncased", "hf_pooler_type": "max_pooler"}},
        silent={
            "text_cfg": {"hf_model_name": "roberta-base"}, "vision_cfg": {"output_tokens": True},
            "multimodal_cfg": {}, "custom_text": True,
        },
        missing={"vision_cfg": {"timm_model_name": "no_such_trunk"}},
    )  # fmt: skip
    assert "attentional_pool 'parallel'" in facts["contrastive"].reason
    assert facts["contrastive"].text.supported
    assert "GhostNet" in facts["trunk"].reason
    assert "got 'someone/gpt-neo', expected an encoder of one of the families" in facts["unknown"].reason
    assert "MaxPooler" in facts["pooler"].reason
    assert "output_tokens" in facts["silent"].reason
    assert "no_such_trunk" in facts["missing"].reason
    assert not any(model.supported for model in facts.values())


def test_no_weights_are_allocated(monkeypatch):
    monkeypatch.setattr(open_clip, "list_models", lambda: ["ViT-S-32-alt"])
    models = []
    monkeypatch.setattr(torch.nn.Module, "eval", lambda self: models.append(self) or self)
    next(describe_models())
    assert models
    assert all(parameter.is_meta for model in models for parameter in model.parameters())


@pytest.mark.slow
def test_at_least_95_percent_of_open_clips_models_have_both_towers():
    facts = list(describe_models())
    assert [model.name for model in facts] == open_clip.list_models()
    supported = sum(model.supported for model in facts)
    assert supported >= 0.95 * len(facts), [(model.name, model.reason) for model in facts if not model.supported]


class Words(families.WordTokenizer):
    """A tokenizer with valid ids for models of open_clip."""

    def __init__(self, model):
        text = getattr(model, "text", model)
        super().__init__(context=int(text.context_length), pad=0, eos=int(text.vocab_size) - 1, start=2)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["ViT-S-32-alt", "ViT-B-16-SigLIP", "ViT-B-32-SigLIP2-256", "EVA02-B-16", "PE-Core-T-16-384", "MobileCLIP-B",
     "MobileCLIP-S1", "MobileCLIP2-S0", "ViTamin-S", "convnext_tiny", "RN50", "coca_ViT-B-32",
     "swin_base_patch4_window7_224", "vit_medium_patch16_gap_256", "vit_relpos_medium_patch16_cls_224"],
)  # fmt: skip
def test_real_architectures_are_what_the_catalog_says(monkeypatch, name):
    monkeypatch.setattr(open_clip, "list_models", lambda: [name])
    facts = next(describe_models())
    model = open_clip.create_model(name, load_weights=False)
    encoder = DualEncoder(model, Words(model))
    assert (facts.image.num_blocks, facts.text.num_blocks) == (encoder.image.num_blocks, encoder.text.num_blocks)
    assert (facts.image.pooling, facts.text.pooling) == (encoder.image.pooling, encoder.text.pooling)
    with encoder.frozen():
        assert encoder.image.run_prefix(families.pixels(encoder, 1), facts.image.layer).grid == facts.image.grid


@pytest.mark.slow
def test_the_example_in_the_documentation_prints_what_it_says(capsys):
    text = (Path(__file__).parents[2] / "docs" / "architectures.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    printed = re.search(r"It prints\n\n```\n(.*?)```", text, re.DOTALL)[1]
    exec(compile(code, "docs/architectures.md", "exec"), {})  # noqa: S102  # an example of the documentation
    assert capsys.readouterr().out == printed
