"""AUDIT.toml as frozen models: validated once, then handed on as plain settings."""

import difflib
import hashlib
import json
import re
import tomllib
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

import demo.models
import m2ib
import sql
from corpora import FORMATS, Limits, Sampling, is_url, root_of
from stores import Root, lake_root
from stores.keys import KeyFileError, load_key
from stores.ledger import Signer
from tasks.errors import BadInputError
from tasks.own_rules import read_rules
from tasks.records import (
    AlertRules,
    AttributionPlan,
    Box,
    ClusterRules,
    ConfirmRules,
    CorpusSource,
    DiscoverRules,
    ModelSource,
    PhraseRules,
    SuspectRegions,
    TellRules,
    parse_box,
)
from tasks.regions.detectors import detector_versions
from tasks.regions.masks import read_mask
from tasks.text.spans import normalize_text

Share = Annotated[float, Field(ge=0, le=0.5)]


def _text_of_path(given: object) -> object:
    return str(given) if isinstance(given, Path) else given


def _names_a_root(text: str) -> str:
    root_of(text)
    return text


LocalOrUrl = Annotated[str, BeforeValidator(_text_of_path), AfterValidator(_names_a_root)]
"""Kept as text: so it is stored, and compared on `--resume`."""


def _path_unless_url(given: object) -> object:
    if not isinstance(given, str):
        return given
    root = lake_root(given)
    return root if isinstance(root, Path) else given


LakePath = Annotated[Path | str, BeforeValidator(_path_unless_url)]


class Section(BaseModel):
    """Frozen, and strict about its keys. What was refused is not repeated: it may be a URL with keys in it."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class CorpusConfig(Section):
    """Images and captions, in one of the formats of docs/corpora.md."""

    path: LocalOrUrl = Field(description="of the corpus; relative to the AUDIT.toml, or a URL as s3://bucket/folder")
    # pydantic reads the names of the registry, which mypy cannot
    format: Literal[tuple(FORMATS)] | None = Field(None, description="default: told by what lies there")  # type: ignore[valid-type]
    image_column: str | None = Field(None, description="column with the image, or its path; default: the format's")
    caption_column: str | None = Field(None, description="column with the caption; default: the format's")
    sample: int | None = Field(None, ge=1, description="audit so many rows, drawn by hash; default: all of them")
    stratify: str | None = Field(None, description="column whose values give equal parts of the sample")
    max_pixels: int = Field(50_000_000, ge=1, description="larger images become error rows, unread")
    max_file_bytes: int = Field(256 * 2**20, ge=1, description="larger files become error rows, unread")

    @model_validator(mode="after")
    def _a_sample_is_stratified(self) -> Self:
        if self.stratify is not None and self.sample is None:
            raise ValueError(
                f"stratify: got {self.stratify!r} without sample, expected both; say how many rows to draw"
            )
        return self

    @property
    def place(self) -> str:
        """The absolute path, or the URL as it was given."""
        return self.path if is_url(self.path) else str(Path(self.path).resolve())

    @property
    def name(self) -> str:
        """What it is called for short: its folder or bucket."""
        return Path(self.path).name


class ModelConfig(Section):
    """A model as open_clip takes it, or demo/shortcut, demo/clean."""

    architecture: str = Field(
        description="open_clip name, hf-hub:org/name, local-dir:/folder, demo/shortcut, demo/clean"
    )
    pretrained: str | None = Field(None, description="a tag of the architecture, or a local checkpoint file")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1")
    batch_size: int | None = Field(None, ge=1, description="pairs at a time; default: as the device's memory allows")
    compile: bool = Field(False, description="torch.compile the suffixes: pays on a GPU, over many shards")

    @property
    def name(self) -> str:
        """Architecture, and what was trained into it."""
        return self.architecture + (f"/{self.pretrained}" if self.pretrained else "")


class GateSettings(Section):
    """One tower's bottleneck; what is left out comes from the preset."""

    depth: float | None = Field(None, ge=0, le=1, description="share of the blocks before the bottleneck")
    layer: int | None = Field(None, ge=-1, description="0-based block whose output is gated, -1: embeddings")
    beta: float | None = Field(None, ge=0, description="price of the mean nat, in cosine")
    portable: bool | None = Field(None, description="let beta mean the same on every grid and caption length")
    statistics: Literal["unit", "feature", "position"] | None = None
    special: Literal["learned", "closed", "open"] | None = None


class BottleneckSettings(Section):
    """The attribution; what is left out comes from the preset."""

    preset: Literal["audit", "paper"] = "audit"
    seed: int = Field(0, ge=-(2**63), lt=2**63)  # as wide as the lake's column
    steps: int | None = Field(None, ge=1)
    draws: int | None = Field(None, ge=1)
    antithetic: bool | None = None
    tolerance: float | None = Field(None, ge=0, lt=1, description="stop a pair early once its map moves less")
    precision: Literal["float32", "bfloat16"] | None = Field(None, description="of the blocks behind the bottleneck")
    second_seed: bool = Field(False, description="attribute twice and store each map's stability; doubles the cost")
    calibration_pairs: int = Field(512, ge=2, description="sample for the feature statistics")
    image: GateSettings = GateSettings()
    text: GateSettings = GateSettings()


class RegionsConfig(Section):
    """Suspect regions; 0 leaves frame or corners out."""

    frame: Share = Field(0.05, description="width of the outer ring, in shares of what the model sees")
    corner: Share = Field(0.25, description="size of the corners, in shares of what the model sees")
    boxes: dict[str, Box] = Field({}, description="name -> [x0, y0, x1, y1] in shares of the original image")
    masks: dict[str, Path] = Field({}, description="name -> image, white inside; relative to the AUDIT.toml")
    detectors: tuple[str, ...] = Field((), description="installed detectors that look at every image")
    columns: dict[str, str] = Field({}, description="name -> metadata column that holds x0,y0,x1,y1 for its pair")

    @model_validator(mode="after")
    def _boxes_lie_in_the_image(self) -> Self:
        for name, box in self.boxes.items():
            try:
                parse_box(",".join(map(str, box)))
            except ValueError as error:
                raise ValueError(f"boxes.{name}: {error}") from error
        names = [*self.boxes, *self.masks, *self.columns]
        # Phrases stand in double quotes.
        prefixes = ("corner ", "stamp ", '"', *(f"{detector}: " for detector in self.detectors))
        builtin = {name for name in names if name in ("frame", "hottest corner") or name.startswith(prefixes)}
        if len(set(self.detectors)) < len(self.detectors):
            raise ValueError(f"detectors: got {list(self.detectors)}, expected each once")
        if clashes := builtin | {name for name in names if names.count(name) > 1}:
            raise ValueError(f"region names must be distinct and not those of built-in regions: {sorted(clashes)}")
        return self


class DiscoverConfig(Section):
    """Search for overlays that recur under high attribution mass; what is found is weighed like a named region."""

    enabled: bool = Field(True, description="false: only the named regions are weighed")
    pairs: int = Field(200, ge=1, description="sample in which stamps are sought; all pairs are searched for each")
    peaks: int = Field(3, ge=1, description="hottest windows of a map that are compared")
    min_images: int = Field(5, ge=2, description="images that must confirm a stamp, besides as many that make it")


class ClustersConfig(Section):
    """Groups of pairs in which the model looks at the same places become slices, beside words and attributes."""

    enabled: bool = Field(False, description="true: pairs whose maps are alike make slices")


class PhrasesConfig(Section):
    """Phrases of the captions that are weighed beside those that the audit finds itself."""

    listed: tuple[str, ...] = Field((), description="phrases to look at, whole words in any case")

    @model_validator(mode="after")
    def _phrases_say_something(self) -> Self:
        if empty := [phrase for phrase in self.listed if not normalize_text(phrase).strip()]:
            raise ValueError(f"listed: got {empty}, expected phrases of at least one word or mark")
        return self


class AlertsConfig(Section):
    """When a region or phrase is alerted."""

    factor: float = Field(2.0, gt=0, allow_inf_nan=False, description="mass over area from which a slice is alerted")
    min_pairs: int = Field(20, ge=1, description="smallest slice that is looked at")
    examples: int = Field(8, ge=1, description="telling pairs an alert carries")
    rules: Path | None = Field(None, description="folder with rules of your own; relative to the AUDIT.toml")


class ConfirmConfig(Section):
    """How an alert is put to the test: its region covered, against equal regions elsewhere."""

    enabled: bool = Field(True, description="false: every alert stays suspected, and the audit does not test itself")
    pairs: int = Field(64, ge=8, description="sample of a slice that is measured")
    controls: int = Field(4, ge=2, description="equal regions elsewhere that each pair is compared with, at most")
    foils: int = Field(8, ge=2, description="other captions that a pair's own must beat, at most")
    level: float = Field(0.01, gt=0, lt=1, description="of q: share of false discoveries that is put up with")
    floor_share: float = Field(0.1, ge=0, lt=1, description="part of the clean margin that an effect must exceed")
    negatives: int = Field(10, ge=0, description="random regions by which the audit estimates its false alarms")


class NotifyConfig(Section):
    """What is told about alerts, as Prefect events; `m2ib-audit notify` says to whom."""

    tell: tuple[Literal["new", "worse", "resolved", "still_firing", "not_seen"], ...] = Field(
        ("new", "worse", "resolved"), description="lives of an alert that are an event of their own"
    )
    digest: bool = Field(False, description="true: one event a run, which tells all of them, instead")


class ReviewConfig(Section):
    """What people's decisions about the run need; decides no result."""

    four_eyes: bool = Field(
        False, description="true: decisions that close an alert, and sign-offs, hold once a second person countersigned"
    )


class LedgerConfig(Section):
    """The lake's ledger, in which runs end."""

    key: Path | None = Field(
        None, description="private key that signs its records (m2ib-audit key new); relative to the AUDIT.toml"
    )

    def signer(self) -> Signer | None:
        """Who signs. Raises BadInputError for a key that cannot be used."""
        try:
            return None if self.key is None else load_key(self.key)
        except KeyFileError as error:
            raise BadInputError(f"[ledger] {error}") from error


class LakeConfig(Section):
    """Where results go."""

    path: LakePath = Field(
        Path("lake"), description="of the lake; relative to where the command runs, or a URL as s3://bucket/folder"
    )
    shard_size: int = Field(256, ge=1, description="pairs a task attributes")
    incremental: bool = Field(False, description="true: attribute only pairs that an earlier run of the lake has not")

    @property
    def root(self) -> Root:
        """The absolute path, or what the URL names."""
        root = lake_root(str(self.path))
        return root.resolve() if isinstance(root, Path) else root


class RunConfig(Section):
    """How an audit shares its machines with others; decides no result."""

    gpu_limit: str | None = Field(
        None,
        pattern="^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="prefix of Prefect's global concurrency limits, one a device, as prefix-cuda-0; default: none",
    )
    metrics: str | None = Field(
        None,
        pattern=r"^[^:\s]+:\d{1,5}$|^\[[0-9a-fA-F:]+\]:\d{1,5}$",
        description="host:port at which Prometheus finds the run's figures, as 127.0.0.1:9464; default: nowhere",
    )
    engine: Literal["local", "ray"] = Field("local", description="who attributes shards: this host, or a Ray cluster")
    ray_address: str | None = Field(
        None, description="host:port of a cluster's head, or auto; default: one of this host"
    )
    gpus_per_task: float | None = Field(
        None, ge=0, le=1, description="of the cluster; 0: CPUs only; default: 1 if it has any"
    )

    @model_validator(mode="after")
    def _settings_of_ray_are_for_ray(self) -> Self:
        given = [key for key in ("ray_address", "gpus_per_task") if getattr(self, key) is not None]
        if given and self.engine != "ray":
            raise ValueError(f'{given[0]}: got {getattr(self, given[0])!r} with engine = "local", expected "ray"')
        if self.ray_address is not None and not re.fullmatch(r"auto|[^\s/]+:\d{1,5}", self.ray_address):
            raise ValueError(
                f"ray_address: got {self.ray_address!r}, expected auto or host:port; start the audit on a host of the "
                "cluster (the client of ray:// is not supported)"
            )
        return self


class AuditConfig(Section):
    """One audit."""

    corpus: CorpusConfig
    model: ModelConfig
    bottleneck: BottleneckSettings = BottleneckSettings()
    regions: RegionsConfig = RegionsConfig()
    discover: DiscoverConfig = DiscoverConfig()
    clusters: ClustersConfig = ClustersConfig()
    phrases: PhrasesConfig = PhrasesConfig()
    alerts: AlertsConfig = AlertsConfig()
    confirm: ConfirmConfig = ConfirmConfig()
    notify: NotifyConfig = NotifyConfig()
    review: ReviewConfig = ReviewConfig()
    ledger: LedgerConfig = LedgerConfig()
    lake: LakeConfig = LakeConfig()
    run: RunConfig = RunConfig()

    @model_validator(mode="after")
    def _bottleneck_is_possible(self) -> Self:
        self.bottleneck_config()
        return self

    def bottleneck_config(self) -> m2ib.BottleneckConfig:
        """The engine's settings: the preset with what the file overrides."""
        given = self.bottleneck
        config = m2ib.preset(given.preset, given.seed)
        plain = ("steps", "draws", "antithetic", "tolerance", "precision")
        overrides = {name: getattr(given, name) for name in plain}
        for tower in ("image", "text"):
            gate = {key: value for key, value in getattr(given, tower).model_dump().items() if value is not None}
            overrides[tower] = replace(getattr(config, tower), **gate)
        return replace(config, **{key: value for key, value in overrides.items() if value is not None})

    def corpus_source(self) -> CorpusSource:
        """Settings of ingest."""
        limits = Limits(max_pixels=self.corpus.max_pixels, max_file_bytes=self.corpus.max_file_bytes)
        given = self.corpus
        sampling = Sampling(given.sample, self.bottleneck.seed, given.stratify) if given.sample else None
        columns = given.image_column, given.caption_column
        return CorpusSource(root_of(given.place), given.format, *columns, limits, sampling)

    def model_sources(self) -> list[ModelSource]:
        """The model, once for each device that shares the work. Raises BadInputError for a device not there."""
        try:
            devices = m2ib.devices(self.model.device)
        except m2ib.M2IBError as error:
            raise BadInputError(f"[model] {error}") from error
        architecture = self.model.architecture
        if architecture in demo.models.NAMES:
            architecture = f"local-dir:{demo.models.folder(architecture)}"
        given = self.model
        return [
            ModelSource(architecture, given.pretrained, device, given.batch_size, given.compile) for device in devices
        ]

    def suspect_regions(self) -> SuspectRegions:
        """Settings of store."""
        given = self.regions
        masks = {name: boxes for name, (_, boxes) in self.masks.items()}
        return SuspectRegions(given.frame, given.corner, given.boxes, given.columns, masks)

    @cached_property
    def masks(self) -> dict[str, tuple[str, list[Box]]]:
        """sha256 and boxes of the masks by name, read once. Raises BadInputError for one that cannot be used."""
        limits = self.corpus_source().limits
        return {name: read_mask(name, path, limits) for name, path in self.regions.masks.items()}

    def discover_rules(self) -> DiscoverRules:
        """Settings of discover."""
        return DiscoverRules(self.discover.pairs, self.discover.peaks, self.discover.min_images, self.bottleneck.seed)

    def cluster_rules(self) -> ClusterRules:
        """Settings of cluster."""
        return ClusterRules(self.alerts.min_pairs, self.bottleneck.seed)

    def phrase_rules(self) -> PhraseRules:
        """Settings of phrases."""
        return PhraseRules(self.phrases.listed, self.alerts.min_pairs)

    def alert_rules(self) -> AlertRules:
        """Settings of flag and alert."""
        return AlertRules(self.alerts.factor, self.alerts.min_pairs, self.alerts.examples, self.own_rules)

    @cached_property
    def own_rules(self) -> dict[str, str]:
        """Text of the user's rules by name, read once. Raises BadInputError if one cannot be used as it is."""
        return {} if self.alerts.rules is None else read_rules(self.alerts.rules)

    def confirm_rules(self) -> ConfirmRules:
        """Settings of confirm and self_audit."""
        return ConfirmRules(**self.confirm.model_dump(), min_pairs=self.alerts.min_pairs, seed=self.bottleneck.seed)

    def tell_rules(self) -> TellRules:
        """Settings of tell."""
        return TellRules(self.notify.tell, self.notify.digest, self.alerts.min_pairs)

    def resolved(self) -> dict[str, Any]:
        """All that decides the results, as JSON: what the manifest keeps."""
        return {
            "corpus": self.corpus.model_dump(mode="json"),
            "model": self.model.model_dump(mode="json", include={"architecture", "pretrained"}),
            "bottleneck": asdict(self.bottleneck_config())
            | {key: getattr(self.bottleneck, key) for key in ("calibration_pairs", "second_seed")},
            "regions": self.regions.model_dump(mode="json", exclude={"masks"})
            | {
                "masks": {name: sha256 for name, (sha256, _) in self.masks.items()},
                "detectors": detector_versions(self.regions.detectors),
            },
            "discover": self.discover.model_dump(mode="json"),
            "clusters": self.clusters.model_dump(mode="json"),
            "phrases": self.phrases.model_dump(mode="json"),
            "alerts": self.alerts.model_dump(mode="json", exclude={"rules"})
            | {"rules": {name: sql.text_digest(text) for name, text in self.own_rules.items()}},
            "confirm": self.confirm.model_dump(mode="json"),
        }

    def attribution_plan(self, model_digest: str, calibrated_on: str, code_version: str) -> AttributionPlan:
        """Settings of attribute, with the key under which finished shards are found again.

        calibrated_on: digest of the corpus, or of the feature statistics where an earlier run's are used.
        """
        parts = [self.resolved()["bottleneck"], model_digest, calibrated_on, code_version]
        return AttributionPlan(
            self.bottleneck_config(),
            self.bottleneck.calibration_pairs,
            self.bottleneck.second_seed,
            config_digest(parts),
        )


def config_digest(value: Any) -> str:
    """sha256 of a JSON value in canonical form."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def load(path: Path) -> AuditConfig:
    """Read an AUDIT.toml. Raises BadInputError that names each fault, with the nearest valid name for unknown keys."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInputError(f"{path}: cannot be read ({error.strerror}); give the path of an AUDIT.toml") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInputError(f"{path}: not valid TOML: {error}") from error
    config = parse(data, str(path))
    corpus = config.corpus.model_copy(update={"path": _beside(path, config.corpus.path)})
    alerts = config.alerts
    if alerts.rules is not None:
        alerts = alerts.model_copy(update={"rules": (path.parent / alerts.rules).resolve()})
    pretrained = config.model.pretrained
    if pretrained and (path.parent / pretrained).is_file():
        model = config.model.model_copy(update={"pretrained": str((path.parent / pretrained).resolve())})
    else:
        model = config.model
    masks = {name: (path.parent / mask).resolve() for name, mask in config.regions.masks.items()}
    regions = config.regions.model_copy(update={"masks": masks})
    key = config.ledger.key
    ledger = LedgerConfig(key=None if key is None else (path.parent / key).resolve())
    changed = {"corpus": corpus, "model": model, "alerts": alerts, "regions": regions, "ledger": ledger}
    return config.model_copy(update=changed)


def _beside(audit_file: Path, given: str) -> str:
    return given if is_url(given) else str((audit_file.parent / given).resolve())


def parse(data: dict[str, Any], source: str) -> AuditConfig:
    """Validate a configuration. Raises BadInputError that names each fault."""
    try:
        return AuditConfig.model_validate(data)
    except ValidationError as error:
        faults = "\n".join(f"  {_fault(fault)}" for fault in error.errors())
        raise BadInputError(f"{source}: {error.error_count()} fault(s) in the configuration\n{faults}") from error


def _fault(fault: Any) -> str:
    where = [str(part) for part in fault["loc"]]
    name = ".".join(where) or "configuration"
    if fault["type"] == "extra_forbidden":
        valid = _keys_at(where[:-1])
        near = difflib.get_close_matches(where[-1], valid, n=1, cutoff=0.0)
        return f"{name}: unknown key; did you mean {near[0]!r}? valid here: {', '.join(sorted(valid))}"
    if fault["type"] == "missing":
        return f"{name}: missing, and needed"
    if fault["type"] == "value_error":  # our own sentence, which says what it got
        return f"{name}: {fault['ctx']['error']}"
    return f"{name}: {fault['msg']}, got {fault['input']!r}"


def _keys_at(where: list[str]) -> list[str]:
    section: type[BaseModel] = AuditConfig
    for part in where:
        annotation = section.model_fields[part].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        section = annotation
    return list(section.model_fields)
