"""Configuration of an audit: AUDIT.toml as frozen pydantic models.

Sections that stages take as parameters are defined in `tasks.settings`.
"""

import difflib
import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

import m2ib
import sql
from corpora import is_url
from m2ib.names import FOLDER
from stores import DEFAULT_LAKE, Root, lake_root
from stores.keys import SigningKey, load_key
from stores.ledger import check_signer
from tasks import settings
from tasks.custom_rules import read_rules
from tasks.errors import BadInputError
from tasks.inputs import load_corpus
from tasks.records import AttributionPlan, Box
from tasks.regions import detector_versions, read_mask


def _path_unless_url(given: object) -> object:
    if not isinstance(given, str):
        return given
    root = lake_root(given)
    return root if isinstance(root, Path) else given


LakePath = Annotated[Path | str, BeforeValidator(_path_unless_url)]


class GateSettings(settings.Section):
    """Settings of the bottleneck in one tower (image or text). The preset gives the values of missing keys."""

    depth: float | None = Field(
        None, ge=0, le=1, description="Position of the bottleneck, as a share of the tower's blocks before it."
    )
    layer: int | None = Field(
        None, ge=-1, description="Last block before the bottleneck, from 0, instead of depth; -1: the embeddings."
    )
    beta: float | None = Field(None, ge=0, description="Weight of the information, in cosine per mean nat.")
    portable: bool | None = Field(
        None, description="Scale beta so that it means the same for every grid and caption length."
    )
    statistics: Literal["unit", "feature", "position"] | None = Field(
        None, description="Noise statistics: unit variance, per feature, or per feature and position (images only)."
    )
    special: Literal["learned", "closed", "open"] | None = Field(
        None, description="Gate of the special tokens (CLS; SOS and EOS): learned, closed or open."
    )


class BottleneckSettings(settings.Section):
    """Settings of the attribution. The preset gives the values of missing keys."""

    preset: Literal["audit", "paper"] = Field("audit", description="Defaults of all other keys.")
    seed: int = Field(0, ge=-(2**63), lt=2**63, description="Seed of all random numbers.")  # the lake's column is int64
    steps: int | None = Field(None, ge=1, description="Optimization steps per pair.")
    draws: int | None = Field(None, ge=1, description="Noise samples per step.")
    antithetic: bool | None = Field(None, description="Draw noise samples in pairs of opposite sign.")
    tolerance: float | None = Field(
        None, ge=0, lt=1, description="Stop a pair early once a step changes its map by less than this share."
    )
    precision: Literal["float32", "bfloat16"] | None = Field(
        None, description="Precision of the blocks after the bottleneck."
    )
    second_seed: bool = Field(
        False, description="Attribute every pair twice and store the stability of its maps. Doubles the cost."
    )
    calibration_pairs: int = Field(512, ge=2, description="Number of pairs sampled to estimate the feature statistics.")
    image: GateSettings = GateSettings()
    text: GateSettings = GateSettings()


class AuditName(settings.Section):
    """Name of the audit. Its runs share one history of alerts and decisions, also after the model or a path changes."""

    name: str | None = Field(
        None,
        pattern=r"^[^\x00-\x1f\x7f]{1,100}$",
        description="Name of the audit. Default: its runs are those of one corpus and model.",
    )
    continues: str | None = Field(
        None,
        pattern="^[0-9a-f]{12}$",
        description="Id of an audit without a name whose history this one continues; see m2ib-audit runs.",
    )

    @model_validator(mode="after")
    def _check_name(self) -> Self:
        if self.continues and not self.name:
            raise ValueError("continues: got an audit id without a name, expected [audit] name as well")
        return self


class ReviewConfig(settings.Section):
    """Requirements for reviewers' decisions and signatures; they do not change the results of the run."""

    four_eyes: bool = Field(
        False,
        description="Require a second person's signature on decisions that close an alert and on sign-offs "
        "(four-eyes principle).",
    )


class LedgerConfig(settings.Section):
    """Signature of the run's records in the lake's ledger, and where its head is noted."""

    key: Path | None = Field(
        None,
        description="Private key that signs the run's records (see m2ib-audit key new). Relative to the AUDIT.toml.",
    )

    head_file: Path | None = Field(
        None,
        description="File outside of the lake to which each run appends the head of the ledger, for verify --head. "
        "Relative to the AUDIT.toml.",
    )

    def signer(self) -> SigningKey | None:
        """Return the signer of the run's records. Raises KeyFileError for a key that cannot be used."""
        return None if self.key is None else load_key(self.key)


class LakeConfig(settings.Section):
    """Where results are stored."""

    path: LakePath = Field(
        DEFAULT_LAKE,
        description="Folder or URL (s3://bucket/folder) of the lake. Relative to the working directory.",
    )
    shard_size: int = Field(256, ge=1, description="Number of pairs per shard (the work of one task).")
    incremental: bool = Field(False, description="Attribute only pairs that no earlier run in the lake has attributed.")

    @property
    def root(self) -> Root:
        """The location of the lake: an absolute local path, or a remote folder."""
        root = lake_root(str(self.path))
        return root.resolve() if isinstance(root, Path) else root


class RunConfig(settings.Section):
    """How an audit uses CPUs, GPUs and workers; these settings do not change its results."""

    gpu_limit: str | None = Field(
        None,
        pattern="^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="Prefix of Prefect's global concurrency limits, one per device (prefix-cuda-0). Default: none.",
    )
    metrics: str | None = Field(
        None,
        pattern=r"^[^:\s]+:\d{1,5}$|^\[[0-9a-fA-F:]+\]:\d{1,5}$",
        description="host:port on which to serve Prometheus metrics, such as 127.0.0.1:9464. Default: none.",
    )
    readers: int | None = Field(
        None, ge=1, description="Threads that read images. Default: one per core, or 16 for a remote corpus."
    )
    cache_bytes: int = Field(
        settings.CACHE_BYTES,
        ge=0,
        description="Size of the temporary file that keeps resized images for the tests. Further ones are read again.",
    )
    engine: Literal["local", "ray"] = Field("local", description="Where shards are attributed: local or ray.")
    ray_address: str | None = Field(
        None,
        pattern=r"^(auto|[^\s/]+:\d{1,5})$",
        description="host:port of the Ray cluster's head, or auto. Default: a temporary cluster on this host.",
    )
    gpus_per_task: float | None = Field(
        None, ge=0, le=1, description="GPUs per Ray task; 0 uses CPUs. Default: 1 if the cluster has any."
    )

    @model_validator(mode="after")
    def _check_ray(self) -> Self:
        for key in ("ray_address", "gpus_per_task"):
            if self.engine != "ray" and getattr(self, key) is not None:
                raise ValueError(f'{key}: got {getattr(self, key)!r} with engine = "local", expected engine = "ray"')
        return self


class AuditConfig(settings.Section):
    """Configuration of one audit: all sections of AUDIT.toml."""

    audit: AuditName = AuditName()
    corpus: settings.CorpusConfig
    model: settings.ModelConfig
    bottleneck: BottleneckSettings = BottleneckSettings()
    regions: settings.RegionsConfig = settings.RegionsConfig()
    discover: settings.DiscoverConfig = settings.DiscoverConfig()
    clusters: settings.ClustersConfig = settings.ClustersConfig()
    concepts: settings.ConceptsConfig = settings.ConceptsConfig()
    phrases: settings.PhrasesConfig = settings.PhrasesConfig()
    alerts: settings.AlertsConfig = settings.AlertsConfig()
    confirm: settings.ConfirmConfig = settings.ConfirmConfig()
    notify: settings.NotifyConfig = settings.NotifyConfig()
    review: ReviewConfig = ReviewConfig()
    ledger: LedgerConfig = LedgerConfig()
    lake: LakeConfig = LakeConfig()
    run: RunConfig = RunConfig()

    @model_validator(mode="after")
    def _check_bottleneck(self) -> Self:
        self.bottleneck_config()
        return self

    @property
    def seed(self) -> int:
        """The seed of all random numbers."""
        return self.bottleneck.seed

    @property
    def raises(self) -> str:
        """The weakest state of alerts that are raised: without tests no alert is confirmed, and all are raised."""
        return self.alerts.raise_ if self.confirm.enabled else "suspected"

    def bottleneck_config(self) -> m2ib.BottleneckConfig:
        """Return the settings of the attribution: those of the preset, with the values that the file overrides."""
        section = self.bottleneck
        config = m2ib.preset(section.preset, section.seed)
        own = {"preset", "seed", "calibration_pairs", "second_seed", "image", "text"}
        overrides = section.model_dump(exclude_none=True, exclude=own)
        for tower in ("image", "text"):
            overrides[tower] = replace(getattr(config, tower), **getattr(section, tower).model_dump(exclude_none=True))
        return replace(config, **overrides)

    def inputs(self) -> list[settings.Inputs]:
        """Return the inputs of the stages, one for each device. Raises BadInputError for an unavailable device."""
        corpus, run = self.corpus.absolute(), self.run
        return [
            settings.Inputs(corpus=corpus, model=model, readers=run.readers, cache_bytes=run.cache_bytes)
            for model in self.models()
        ]

    def models(self) -> list[settings.ModelConfig]:
        """Return one model specification for each device. Raises BadInputError for an unavailable device."""
        try:
            devices = m2ib.list_devices(self.model.device)
        except m2ib.M2IBError as error:
            raise BadInputError(f"[model] {error}") from error
        return [self.model.model_copy(update={"device": device}) for device in devices]

    def check(self) -> None:
        """Check what can be checked without importing PyTorch or Prefect, and without decoding images.

        These are the corpus (its path, format, columns and first row), the name of the model, the path of its weights,
        the files of masks and rules, and whether the key may sign. Raises InputError, and LakeError for the ledger.
        """
        load_corpus(self.corpus).check()
        try:
            m2ib.check_names(self.model.architecture, self.model.pretrained)
        except m2ib.M2IBError as error:
            raise BadInputError(f"[model] {error}") from error
        self.resolve_settings()
        check_signer(self.lake.root, self.ledger.signer())

    @cached_property
    def masks(self) -> dict[str, tuple[str, list[Box]]]:
        """The sha256 and the boxes of each mask, by name. Raises BadInputError for a mask that cannot be used."""
        return {name: read_mask(name, path, self.corpus.limits) for name, path in self.regions.masks.items()}

    @property
    def mask_boxes(self) -> dict[str, list[Box]]:
        """The boxes of each mask, by name."""
        return {name: boxes for name, (_, boxes) in self.masks.items()}

    @cached_property
    def custom_rules(self) -> dict[str, str]:
        """The SQL text of each custom rule, by name. Raises BadInputError for a rule that cannot be used."""
        return {} if self.alerts.rules is None else read_rules(self.alerts.rules)

    def resolve_settings(self) -> dict[str, Any]:
        """Return all settings that decide the results, as JSON: the manifest stores them."""
        sections = {"corpus", "model", "regions", "discover", "clusters", "concepts", "phrases", "alerts", "confirm"}
        # How the work is done, and who hears of it, does not decide the results.
        others = {"model": {"device", "batch_size", "compile"}, "alerts": {"raise_"}}
        dumped = self.model_dump(mode="json", include=sections, exclude=others)
        dumped["bottleneck"] = asdict(self.bottleneck_config()) | {
            key: getattr(self.bottleneck, key) for key in ("calibration_pairs", "second_seed")
        }
        dumped["regions"] |= {
            "masks": {name: sha256 for name, (sha256, _) in self.masks.items()},
            "detectors": detector_versions(self.regions.detectors),
        }
        dumped["alerts"] |= {"rules": {name: sql.text_digest(text) for name, text in self.custom_rules.items()}}
        return dumped

    def attribution_plan(self, record: Mapping[str, Any]) -> AttributionPlan:
        """Return the attribution settings of a run, given its manifest; the corpus must have been ingested."""
        calibrated_on = record["calibration_sha256"] or record["corpus_digest"]
        facts = record["model_digest"], calibrated_on, record["code_version"]
        depth = self.concepts.depth if self.concepts.enabled else None
        captured = [] if depth is None else [depth, record["projection_sha256"]]
        # Under which finished shards are cached.
        key = config_digest([self.resolve_settings()["bottleneck"], *facts, *captured])
        section = self.bottleneck
        return AttributionPlan(self.bottleneck_config(), section.calibration_pairs, section.second_seed, key, depth)


def config_digest(value: Any) -> str:
    """Return the sha256 of a JSON value in canonical form."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def load(path: Path) -> AuditConfig:
    """Read an AUDIT.toml, and make its relative paths absolute. Raises BadInputError if it is invalid; see `parse`."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInputError(f"{path}: cannot be read ({error.strerror}); give the path of an AUDIT.toml") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInputError(f"{path}: not valid TOML: {error}") from error
    config = parse(data, str(path))

    def absolute(relative: Path | str) -> Path:
        return (path.parent / relative).resolve()

    changes: dict[str, dict[str, Any]] = {
        "regions": {"masks": {name: absolute(mask) for name, mask in config.regions.masks.items()}},
        "alerts": {"rules": config.alerts.rules and absolute(config.alerts.rules)},
        "ledger": {
            name: path and absolute(path)
            for name, path in (("key", config.ledger.key), ("head_file", config.ledger.head_file))
        },
    }
    if not is_url(config.corpus.path):
        changes["corpus"] = {"path": str(absolute(config.corpus.path))}
    if config.model.architecture.startswith(FOLDER):
        folder = absolute(config.model.architecture.removeprefix(FOLDER))
        changes["model"] = {"architecture": f"{FOLDER}{folder}"}
    elif config.model.pretrained and absolute(config.model.pretrained).is_file():  # else a tag
        changes["model"] = {"pretrained": str(absolute(config.model.pretrained))}
    return config.model_copy(
        update={name: getattr(config, name).model_copy(update=changed) for name, changed in changes.items()}
    )


def parse(data: dict[str, Any], source: str) -> AuditConfig:
    """Validate a configuration, whose name in error messages is `source`, such as its path.

    Raises BadInputError, which lists all faults and, for an unknown key, the closest valid name.
    """
    try:
        return AuditConfig.model_validate(data)
    except ValidationError as error:
        faults = "\n".join(f"  {_fault(fault)}" for fault in error.errors())
        raise BadInputError(f"{source}: the configuration is invalid:\n{faults}") from error


def _fault(fault: Any) -> str:
    """Format a validation error of pydantic as one sentence."""
    location = [str(part) for part in fault["loc"]]
    name = ".".join(location) or "configuration"
    if fault["type"] == "extra_forbidden":
        valid = _keys_at(location[:-1])
        near = difflib.get_close_matches(location[-1], valid, n=1, cutoff=0.0)
        return f"{name}: unknown key; did you mean {near[0]!r}? valid here: {', '.join(sorted(valid))}"
    if fault["type"] == "missing":
        return f"{name}: required key is missing"
    if fault["type"] == "value_error":  # of a validator above, which already states what it got
        return f"{name}: {fault['ctx']['error']}"
    return f"{name}: {fault['msg']}, got {fault['input']!r}"


def _keys_at(location: list[str]) -> list[str]:
    """Return the valid keys of the section at `location`, a path of keys such as ["bottleneck", "image"]."""
    section: Any = AuditConfig
    for part in location:
        section = section.model_fields[part].annotation
    return [field.alias or name for name, field in section.model_fields.items()]
