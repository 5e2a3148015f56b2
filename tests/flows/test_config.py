"""AUDIT.toml: each fault is reported with what to change, and valid settings reach the stages."""

import json
import pickle
from pathlib import Path

import pytest
from PIL import Image
from pydantic import ValidationError

import m2ib
from corpora import Limits, Sampling
from flows.config import AuditConfig, config_digest, load, parse
from tasks.errors import BadInputError
from tasks.settings import ConfirmConfig, NotifyConfig

MINIMAL = {"corpus": {"path": "images"}, "model": {"architecture": "demo/clean", "device": "cpu"}}


def make_config(**sections):
    return parse({key: {**MINIMAL.get(key, {}), **sections.get(key, {})} for key in MINIMAL | sections}, "audit.toml")


def read_fault(data):
    with pytest.raises(BadInputError) as raised:
        parse(data, "audit.toml")
    return str(raised.value)


@pytest.fixture
def write_config(tmp_path):
    """write_config(text): write an AUDIT.toml and return its path."""

    def write(text):
        path = tmp_path / "AUDIT.toml"
        path.write_text(text)
        return path

    return write


def test_minimal_configuration_has_defaults():
    config = make_config()
    assert config.corpus.caption_column is None  # the default of the format
    assert config.confirm == ConfirmConfig()
    assert config.seed == 0
    assert config.mask_boxes == config.custom_rules == {}
    assert config.bottleneck_config() == m2ib.preset("audit")
    assert config.lake.path == Path("lake")


def test_notification_settings_do_not_change_the_digest():
    """Otherwise a run could not be resumed after a change, and the next run could not resolve its alerts."""
    config = make_config(notify={"digest": True, "tell": ["still_firing"]})
    assert config.notify == NotifyConfig(tell=("still_firing",), digest=True)
    assert config.resolve_settings() == make_config().resolve_settings()
    assert "notify.tell.0" in read_fault(MINIMAL | {"notify": {"tell": ["all"]}})


@pytest.mark.parametrize(
    ("data", "key", "suggestion"),
    [
        ({"corpse": {}}, "corpse", "corpus"),
        ({"corpus": {"path": "x", "image_colum": "a"}}, "corpus.image_colum", "image_column"),
        ({"model": {"architecture": "x", "batchsize": 3}}, "model.batchsize", "batch_size"),
        ({"bottleneck": {"pre_set": "audit"}}, "bottleneck.pre_set", "preset"),
        ({"bottleneck": {"image": {"betta": 1}}}, "bottleneck.image.betta", "beta"),
        ({"bottleneck": {"text": {"Layer": 1}}}, "bottleneck.text.Layer", "layer"),
        ({"notify": {"digests": True}}, "notify.digests", "digest"),
        ({"regions": {"corners": 0.1}}, "regions.corners", "corner"),
        ({"alerts": {"min_pair": 3}}, "alerts.min_pair", "min_pairs"),
        ({"confirm": {"pair": 3}}, "confirm.pair", "pairs"),
        ({"lake": {"shards": 3}}, "lake.shards", "shard_size"),
        ({"lake": {"zzzzzz": 3}}, "lake.zzzzzz", None),
    ],
)
def test_unknown_key_suggests_the_nearest_valid_one(data, key, suggestion):
    text = read_fault({**MINIMAL, **data})
    assert f"  {key}: unknown key; did you mean " in text
    if suggestion:
        assert f"did you mean {suggestion!r}?" in text
    assert "valid here: " in text


def test_all_faults_are_reported_at_once():
    text = read_fault({"corpus": {"path": 3}, "modle": {}, "alerts": {"factor": "high"}})
    assert text.startswith("audit.toml: the configuration is invalid:\n")
    assert "model: required key is missing" in text
    assert "modle: unknown key; did you mean 'model'?" in text
    assert "corpus.path: " in text
    assert "alerts.factor: " in text
    assert "got 'high'" in text


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        ({}, "corpus: required key is missing"),
        ({"corpus": {"path": "x"}}, "model: required key is missing"),
        ({"corpus": {}}, "corpus.path: required key is missing"),
        ({"model": {}}, "model.architecture: required key is missing"),
        ({"corpus": "images"}, "corpus: "),
        ({**MINIMAL, "model": {"architecture": 3}}, "model.architecture: "),
        ({**MINIMAL, "model": {"architecture": "x", "batch_size": 0}}, "model.batch_size: "),
        ({**MINIMAL, "model": {"architecture": "x", "batch_size": 1.5}}, "model.batch_size: "),
        ({**MINIMAL, "bottleneck": {"preset": "fast"}}, "bottleneck.preset: .*'audit' or 'paper'"),
        ({**MINIMAL, "bottleneck": {"seed": "x"}}, "bottleneck.seed: "),
        ({**MINIMAL, "bottleneck": {"seed": 2**63}}, "bottleneck.seed: "),
        ({**MINIMAL, "bottleneck": {"seed": -(2**63) - 1}}, "bottleneck.seed: "),
        ({**MINIMAL, "bottleneck": {"steps": 0}}, "bottleneck.steps: "),
        ({**MINIMAL, "bottleneck": {"draws": 3}}, "draws: got 3, expected an even number"),
        ({**MINIMAL, "bottleneck": {"calibration_pairs": 1}}, "bottleneck.calibration_pairs: "),
        ({**MINIMAL, "bottleneck": {"image": {"beta": -1}}}, "bottleneck.image.beta: "),
        ({**MINIMAL, "bottleneck": {"image": {"beta": float("nan")}}}, "beta"),
        ({**MINIMAL, "bottleneck": {"image": {"beta": float("inf")}}}, "beta"),
        ({**MINIMAL, "bottleneck": {"image": {"depth": 1.5}}}, "bottleneck.image.depth: "),
        ({**MINIMAL, "bottleneck": {"image": {"statistics": "batch"}}}, "bottleneck.image.statistics: "),
        ({**MINIMAL, "bottleneck": {"text": {"statistics": "position"}}}, "captions have no grid"),
        ({**MINIMAL, "regions": {"frame": 0.6}}, "regions.frame: "),
        ({**MINIMAL, "regions": {"corner": -0.1}}, "regions.corner: "),
        ({**MINIMAL, "regions": {"corner": float("nan")}}, "regions.corner: "),
        ({**MINIMAL, "regions": {"boxes": {"a": [0, 0, 1]}}}, "regions.boxes.a"),
        ({**MINIMAL, "regions": {"boxes": {"a": [0.5, 0, 0.2, 1]}}}, "boxes.a: got .*expected 0 <= x0 < x1 <= 1"),
        ({**MINIMAL, "regions": {"boxes": {"a": [0, 0, 80, 80]}}}, "boxes.a: got .*in shares of the image"),
        ({**MINIMAL, "regions": {"boxes": {"frame": [0, 0, 1, 1]}}}, "built-in regions: .*frame"),
        ({**MINIMAL, "regions": {"columns": {"corner top-left": "c"}}}, "built-in regions: .*corner top-left"),
        (
            {**MINIMAL, "regions": {"boxes": {"a": [0, 0, 1, 1]}, "columns": {"a": "c"}}},
            r"must be distinct.*\['a'\]",
        ),
        ({**MINIMAL, "alerts": {"factor": 0}}, "alerts.factor: "),
        ({**MINIMAL, "alerts": {"factor": float("inf")}}, "alerts.factor: "),
        ({**MINIMAL, "alerts": {"min_pairs": 0}}, "alerts.min_pairs: "),
        ({**MINIMAL, "confirm": {"pairs": 7}}, "confirm.pairs: "),
        ({**MINIMAL, "confirm": {"controls": 1}}, "confirm.controls: "),
        ({**MINIMAL, "confirm": {"level": 1}}, "confirm.level: "),
        ({**MINIMAL, "lake": {"shard_size": 0}}, "lake.shard_size: "),
        ({**MINIMAL, "corpus": {"path": "x", "max_pixels": 0}}, "corpus.max_pixels: "),
        ({**MINIMAL, "corpus": {"path": "x", "sample": 0}}, "corpus.sample: "),
        ({**MINIMAL, "corpus": {"path": "x", "stratify": "site"}}, "stratify: got 'site' without sample"),
    ],
    ids=lambda value: None if isinstance(value, dict) else value[:40],
)
def test_fault_is_reported_with_its_key(data, fault):
    with pytest.raises(BadInputError, match=f"(?s)audit.toml: .*{fault}"):
        parse(data, "audit.toml")


def test_file_overrides_settings_of_the_preset():
    config = make_config(
        bottleneck={"preset": "paper", "seed": 7, "steps": 3, "image": {"beta": 0.5}, "text": {"layer": 1}}
    ).bottleneck_config()
    paper = m2ib.preset("paper")
    assert (config.seed, config.steps, config.draws, config.antithetic) == (7, 3, paper.draws, False)
    assert config.image == m2ib.GateConfig(depth=paper.image.depth, beta=0.5, statistics="unit", special="learned")
    assert config.text == m2ib.GateConfig(layer=1)


def test_zero_and_false_override_the_preset():
    config = make_config(bottleneck={"antithetic": False, "draws": 1, "image": {"layer": 0, "beta": 0}})
    assert (config.bottleneck_config().antithetic, config.bottleneck_config().draws) == (False, 1)
    assert (config.bottleneck_config().image.layer, config.bottleneck_config().image.beta) == (0, 0)


def test_settings_reach_the_stages():
    config = make_config(
        corpus={"max_pixels": 9, "max_file_bytes": 8, "sample": 7, "stratify": "site"},
        model={"batch_size": 3},
        bottleneck={"seed": 6},
    )
    assert config.corpus.limits == Limits(max_pixels=9, max_file_bytes=8)
    assert config.corpus.sampling(config.seed) == Sampling(7, 6, "site")
    assert make_config().corpus.sampling(0) is None
    assert config.corpus.root.is_absolute()
    assert config.corpus.absolute().path == str(config.corpus.root)
    (model,) = config.models()
    assert model.architecture == "demo/clean"
    assert (model.pretrained, model.device, model.batch_size, model.compile) == (None, "cpu", 3, False)


def test_missing_device_is_bad_input():
    with pytest.raises(BadInputError, match="device: got 'cuda:99'"):
        make_config(model={"device": "cuda:99"}).models()


def test_a_configuration_cannot_be_changed():
    config = make_config()
    with pytest.raises(ValueError, match="frozen"):
        config.lake.shard_size = 3


def test_paths_are_relative_to_the_file(write_config, tmp_path, monkeypatch):
    path = write_config('[corpus]\npath = "data/images"\n[model]\narchitecture = "demo/clean"\n')
    expected = tmp_path / "data" / "images"
    assert load(path).corpus.root == expected
    monkeypatch.chdir(tmp_path)
    assert load(Path("AUDIT.toml")).corpus.root == expected
    # So a run can be resumed from any folder.
    assert load(Path("AUDIT.toml")).resolve_settings() == load(path).resolve_settings()
    absolute = write_config(f'[corpus]\npath = "{tmp_path / "elsewhere"}"\n[model]\narchitecture = "demo/clean"\n')
    assert load(absolute).corpus.root == tmp_path / "elsewhere"


def test_url_is_unchanged(write_config):
    path = write_config('[corpus]\npath = "s3://bucket/some/images"\n[model]\narchitecture = "demo/clean"\n')
    config = load(path)
    assert str(config.corpus.root) == config.corpus.place == "s3://bucket/some/images"
    assert config.corpus.name == "images"
    assert config.resolve_settings()["corpus"]["path"] == "s3://bucket/some/images"
    source = config.corpus
    assert pickle.loads(pickle.dumps(source)) == source
    assert hash(source) == hash(load(path).corpus)


def test_url_with_credentials_is_rejected_and_not_repeated():
    text = read_fault({**MINIMAL, "corpus": {"path": "s3://KEY:hidden@bucket/images"}})
    assert "corpus.path: The corpus's URL holds a user, password or key" in text
    assert "hidden" not in text


@pytest.mark.parametrize("url", ["s3://KEY:hidden@bucket/x", "simplecache::s3://KEY:hidden@bucket/x"])
@pytest.mark.parametrize("section", ["corpus", "lake"])
def test_message_of_pydantic_repeats_no_credentials(section, url):
    """The message appears in the traceback of code that builds the models without an AUDIT.toml."""
    with pytest.raises(ValidationError, match=f"The {section}'s URL") as raised:
        AuditConfig.model_validate({**MINIMAL, section: {"path": url}})
    assert "hidden" not in str(raised.value)


def test_checkpoint_next_to_the_file_is_found_and_a_tag_is_unchanged(write_config, tmp_path):
    text = '[corpus]\npath = "x"\n[model]\narchitecture = "ViT-B-32"\npretrained = "{}"\n'
    (tmp_path / "weights.safetensors").touch()
    assert load(write_config(text.format("weights.safetensors"))).model.pretrained == str(
        tmp_path / "weights.safetensors"
    )
    assert load(write_config(text.format("openai"))).model.pretrained == "openai"
    assert load(write_config(text.format("gone.safetensors"))).model.pretrained == "gone.safetensors"


def test_folder_of_a_model_is_relative_to_the_file(write_config, tmp_path):
    text = '[corpus]\npath = "x"\n[model]\narchitecture = "local-dir:ckpt"\n'
    config = load(write_config(text))
    assert config.model.architecture == f"local-dir:{tmp_path / 'ckpt'}"


def test_folder_named_like_a_tag_is_not_a_checkpoint(write_config, tmp_path):
    (tmp_path / "openai").mkdir()
    text = '[corpus]\npath = "x"\n[model]\narchitecture = "ViT-B-32"\npretrained = "openai"\n'
    assert load(write_config(text)).model.pretrained == "openai"


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"[corpus\n", "not valid TOML"),
        (b"\xff\xfe", "not valid TOML"),
        (b"corpus = 1\ncorpus = 2", "not valid TOML"),
        (b"", "corpus: required key is missing"),
    ],
)
def test_invalid_file_is_bad_input(tmp_path, content, fault):
    path = tmp_path / "AUDIT.toml"
    path.write_bytes(content)
    with pytest.raises(BadInputError, match=f"(?s)AUDIT.toml: .*{fault}"):
        load(path)


def test_missing_file_is_bad_input(tmp_path):
    for path in (tmp_path / "AUDIT.toml", tmp_path):
        with pytest.raises(BadInputError, match="cannot be read"):
            load(path)


def test_digest_covers_all_settings_that_change_results():
    config = make_config(regions={"boxes": {"a": [0, 0, 1, 1]}})
    text = json.dumps(config.resolve_settings(), allow_nan=False)
    assert config_digest(json.loads(text)) == config_digest(config.resolve_settings())
    digests = {
        config_digest(make_config(**sections).resolve_settings())
        for sections in (
            {}, {"bottleneck": {"seed": 1}}, {"bottleneck": {"image": {"beta": 3}}}, {"alerts": {"factor": 3}},
            {"regions": {"frame": 0.1}}, {"corpus": {"caption_column": "c"}}, {"bottleneck": {"calibration_pairs": 9}},
            {"model": {"architecture": "demo/shortcut"}}, {"corpus": {"max_pixels": 5}}, {"confirm": {"pairs": 9}},
            {"corpus": {"sample": 5}}, {"corpus": {"sample": 5, "stratify": "site"}},
        )
    }  # fmt: skip
    assert len(digests) == 12
    # Sizes of shards and batches, and the device, do not change results.
    lake = {"path": "x", "shard_size": 3, "incremental": True}
    for sections in ({"lake": lake}, {"model": {"batch_size": 2, "device": "auto"}}):
        assert config_digest(make_config(**sections).resolve_settings()) == config_digest(
            make_config().resolve_settings()
        )


RULE = "SELECT * FROM slice_shares"


def test_custom_rules_are_found_next_to_the_file_and_their_text_changes_the_digest(write_config, tmp_path):
    path = write_config('[corpus]\npath = "x"\n[model]\narchitecture = "demo/clean"\n[alerts]\nrules = "mine"\n')
    with pytest.raises(BadInputError, match=f"alerts.rules: got {tmp_path / 'mine'}, expected a folder"):
        load(path).resolve_settings()
    (tmp_path / "mine").mkdir()
    digests = set()
    for text in (RULE, f"{RULE} WHERE n > 3"):
        (tmp_path / "mine" / "a.sql").write_text(text)
        config = load(path)
        assert config.custom_rules == {"a": text}
        digests.add(config_digest(config.resolve_settings()))
        assert json.loads(json.dumps(config.resolve_settings()))["alerts"]["rules"].keys() == {"a"}
    assert len(digests) == 2
    (tmp_path / "mine").rename(tmp_path / "moved")  # read once: the rules that run are the rules in the manifest
    assert config.custom_rules == {"a": f"{RULE} WHERE n > 3"}


def test_mask_is_found_next_to_the_file_and_its_bytes_change_the_digest(write_config, tmp_path):
    path = write_config('[corpus]\npath="x"\n[model]\narchitecture="demo/clean"\n[regions.masks]\nlogo="logo.png"\n')
    with pytest.raises(BadInputError, match=r"regions.masks.logo: .*logo.png: The file does not exist"):
        load(path).resolve_settings()
    digests = set()
    for left in (0, 4):
        image = Image.new("L", (8, 4))
        image.paste(255, (left, 0, left + 4, 2))
        image.save(tmp_path / "logo.png")
        config = load(path)
        assert config.mask_boxes == {"logo": [(left / 8, 0, left / 8 + 0.5, 0.5)]}
        digests.add(config_digest(json.loads(json.dumps(config.resolve_settings()))))
    assert len(digests) == 2
    read_fault({**MINIMAL, "regions": {"boxes": {"a": [0, 0, 1, 1]}, "masks": {"a": "a.png"}}})


def test_explicit_default_has_the_same_digest():
    explicit = make_config(bottleneck={"preset": "audit", "steps": m2ib.preset("audit").steps})
    assert config_digest(explicit.resolve_settings()) == config_digest(make_config().resolve_settings())


def test_every_key_is_described():
    def undescribed(model):
        for name, field in model.model_fields.items():
            annotation = field.annotation
            if isinstance(annotation, type) and hasattr(annotation, "model_fields"):
                assert annotation.__doc__
                yield from undescribed(annotation)
            elif not (field.description or name in {"statistics", "special", "preset", "seed", *SELF_EXPLANATORY}):
                yield f"{model.__name__}.{name}"

    assert list(undescribed(AuditConfig)) == []


SELF_EXPLANATORY = ("steps", "draws", "antithetic")


def test_pattern_of_shards_reaches_the_reader_unchanged(write_config):
    path = write_config(
        '[corpus]\npath = "tars/s-{000..012}*.tar"\nformat = "webdataset"\n[model]\narchitecture = "demo/clean"'
    )
    assert load(path).corpus.root == path.parent.resolve() / "tars" / "s-{000..012}*.tar"
