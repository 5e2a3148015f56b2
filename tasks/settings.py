"""Sections of AUDIT.toml that stages take as parameters, as frozen pydantic models. Other sections: `flows.config`."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from corpora import FORMATS, Limits, Root, Sampling, is_url, parse_root
from tasks.records import Box, parse_box
from tasks.text.spans import normalize_text

Share = Annotated[float, Field(ge=0, le=0.5)]

CACHE_BYTES = 2 * 2**30
"""Default size of the cache of prepared images: 14,000 images of 224 pixels."""


def _check_root(text: str) -> str:
    parse_root(text)
    return text


PathOrUrl = Annotated[
    str, BeforeValidator(lambda value: str(value) if isinstance(value, Path) else value), AfterValidator(_check_root)
]
"""A path or URL as text: as the manifest stores it, and as `--resume` compares it."""


class Section(BaseModel):
    """Base class of the sections of AUDIT.toml: frozen, without unknown keys.

    Error messages do not repeat the input, which may be a URL with access keys.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, serialize_by_alias=True)


class CorpusConfig(Section):
    """Images and captions, in one of the formats of docs/corpora.md."""

    path: PathOrUrl = Field(
        description="Folder, file, pattern or URL (s3://bucket/folder) of the corpus. Relative to the AUDIT.toml."
    )
    # pydantic reads the names of the registry, which mypy cannot
    format: Literal[tuple(FORMATS)] | None = Field(  # type: ignore[valid-type]
        None, description="Format of the corpus. Default: detected from its files."
    )
    image_column: str | None = Field(
        None, description="Column that contains the image or its path. Default: depends on the format."
    )
    caption_column: str | None = Field(
        None, description="Column that contains the caption. Default: depends on the format."
    )
    sample: int | None = Field(None, ge=1, description="Number of rows to audit, sampled by hash. Default: all rows.")
    stratify: str | None = Field(
        None, description="Column whose values contribute equal numbers of rows to the sample."
    )
    unit: str | None = Field(
        None,
        description="Column that names independent units, such as the patient, whose pairs tests count once. "
        "Default: near-duplicates and pairs of one image are a unit.",
    )
    max_pixels: int = Field(50_000_000, ge=1, description="Images with more pixels become error rows.")
    max_file_bytes: int = Field(256 * 2**20, ge=1, description="Image files with more bytes become error rows.")

    @model_validator(mode="after")
    def _check_stratify(self) -> Self:
        if self.stratify is not None and self.sample is None:
            raise ValueError(
                f"stratify: got {self.stratify!r} without sample, expected sample as well; set it to the number of rows"
            )
        return self

    @property
    def place(self) -> str:
        """The absolute path of the corpus, or its URL as configured."""
        return self.path if is_url(self.path) else str(Path(self.path).resolve())

    @property
    def root(self) -> Root:
        """The location of the corpus: an absolute local path, or a remote folder or file."""
        return parse_root(self.place)

    @property
    def name(self) -> str:
        """The name of the corpus: the last part of its path, such as a folder, file or bucket."""
        return Path(self.path).name

    @property
    def limits(self) -> Limits:
        """The limits on the size of one image of the corpus."""
        return Limits(max_pixels=self.max_pixels, max_file_bytes=self.max_file_bytes)

    def sampling(self, seed: int) -> Sampling | None:
        """Return how to sample the rows to read; None to read all rows."""
        return Sampling(self.sample, seed, self.stratify) if self.sample else None

    def absolute(self) -> Self:
        """Return a copy of the section with an absolute path, which is valid in every process."""
        return self.model_copy(update={"path": self.place})


class ModelConfig(Section):
    """The audited model: any dual encoder that open_clip loads, or a demo model of this package."""

    architecture: str = Field(
        description="open_clip architecture, hf-hub:org/name, local-dir:FOLDER, demo/shortcut or demo/clean. "
        "FOLDER is relative to the AUDIT.toml."
    )
    pretrained: str | None = Field(
        None, description="Pretrained tag of the architecture, or a local checkpoint file. Relative to the AUDIT.toml."
    )
    device: str = Field("auto", description="auto (all GPUs, else the CPU), cpu, cuda or cuda:1.")
    batch_size: int | None = Field(
        None, ge=1, description="Pairs per batch on a device. Default: as many as fit in its memory."
    )
    compile: bool = Field(
        False, description="Compile the model with torch.compile. Worthwhile on a GPU with many shards."
    )

    @property
    def name(self) -> str:
        """The name of the model: its architecture and pretrained tag."""
        return self.architecture + (f"/{self.pretrained}" if self.pretrained else "")


class Inputs(Section):
    """What is audited, and how its images are read."""

    corpus: CorpusConfig
    model: ModelConfig
    readers: int | None = None  # threads; None: one per core, or more for a remote corpus
    cache_bytes: int = CACHE_BYTES

    def on(self, device: str) -> Self:
        """Return the same inputs with the model on another device."""
        return self.model_copy(update={"model": self.model.model_copy(update={"device": device})})


class RegionsConfig(Section):
    """Regions of the images to examine; a size of 0 disables the frame or the corners."""

    frame: Share = Field(0.05, description="Width of the frame, as a share of what the model sees of the image.")
    corner: Share = Field(0.25, description="Side of the four corners, as a share of what the model sees of the image.")
    boxes: dict[str, Box] = Field(
        {}, description="Region name -> [x0, y0, x1, y1], as shares of the original image; applies to every image."
    )
    masks: dict[str, Path] = Field(
        {}, description="Region name -> image file, white inside the region. Relative to the AUDIT.toml."
    )
    detectors: tuple[str, ...] = Field((), description="Installed detectors to run on every image.")
    columns: dict[str, str] = Field(
        {},
        description="Region name -> metadata column that describes the region in its image: boxes x0,y0,x1,y1, the "
        "name of a mask file, or polygons or run lengths as JSON.",
    )
    outside: tuple[str, ...] = Field(
        (),
        description="Boxes, masks and columns that are objects: the region is what is outside, such as 'outside lung'.",
    )

    @model_validator(mode="after")
    def _check_regions(self) -> Self:
        for name, box in self.boxes.items():
            try:
                parse_box(",".join(map(str, box)))
            except ValueError as error:
                raise ValueError(f"boxes.{name}: {error}") from error
        names = [*self.boxes, *self.masks, *self.columns]
        # Region names of phrases are in double quotes.
        builtin_prefixes = ("corner ", "stamp ", "concept ", "outside ", "image-wide ", "absence of ", '"')
        prefixes = (*builtin_prefixes, *(f"{detector}: " for detector in self.detectors))
        builtin = {name for name in names if name in ("frame", "hottest corner") or name.startswith(prefixes)}
        if len(set(self.detectors)) < len(self.detectors):
            raise ValueError(f"detectors: got {list(self.detectors)}, expected each detector once; remove duplicates")
        if clashes := builtin | {name for name in names if names.count(name) > 1}:
            raise ValueError(f"region names must be distinct and not those of built-in regions: {sorted(clashes)}")
        if unknown := sorted(set(self.outside) - set(names)):
            raise ValueError(f"outside: got {unknown}, expected names of boxes, masks or columns: {sorted(names)}")
        return self


class DiscoverConfig(Section):
    """Search for recurring overlays under high attribution; each one found becomes a region."""

    enabled: bool = Field(True, description="Whether to search for recurring overlays.")
    pairs: int = Field(
        200, ge=1, description="Size of the sample in which overlays are found. All images are then searched for them."
    )
    peaks: int = Field(3, ge=1, description="Windows to compare per map: those with the most attribution.")
    min_images: int = Field(
        5,
        ge=2,
        description="Images that must confirm an overlay. As many other images are needed to make its template.",
    )


class ClustersConfig(Section):
    """Slices of pairs with similar maps, in addition to slices by words and attributes."""

    enabled: bool = Field(False, description="Whether clusters of similar maps become slices.")


class ConceptsConfig(Section):
    """Search for recurring concepts: content that varies in look and place, found in the features of image patches."""

    enabled: bool = Field(False, description="Whether to keep patch features and to search for recurring concepts.")
    depth: float = Field(
        0.8, ge=0, le=1, description="Share of the image tower's blocks after which patch features are read."
    )


class PhrasesConfig(Section):
    """Phrases of the captions to examine, in addition to those that the audit proposes."""

    listed: tuple[str, ...] = Field((), description="Phrases to examine. They match whole words in any case.")

    @model_validator(mode="after")
    def _check_phrases(self) -> Self:
        if empty := [phrase for phrase in self.listed if not normalize_text(phrase).strip()]:
            raise ValueError(f"listed: got {empty}, expected phrases of at least one word or mark")
        return self


class AlertsConfig(Section):
    """Conditions under which a region or phrase raises an alert."""

    factor: float = Field(
        2.0,
        gt=0,
        allow_inf_nan=False,
        description="Smallest concentration that is reported: a region's share of attribution divided by its area.",
    )
    min_pairs: int = Field(20, ge=1, description="Smallest slice to examine, in pairs.")
    examples: int = Field(8, ge=1, description="Number of example pairs stored with an alert.")
    raise_: Literal["confirmed", "suspected"] = Field(
        "confirmed",
        alias="raise",
        description="Alerts that exit code, messages and list are about: confirmed ones, or suspected ones too.",
    )
    rules: Path | None = Field(None, description="Folder with custom rules (*.sql). Relative to the AUDIT.toml.")


class ConfirmConfig(Section):
    """Tests of findings: cover the region, and compare the loss of margin with that for control regions."""

    enabled: bool = Field(
        True, description="Whether to test findings and self-audit. Without tests every alert stays suspected."
    )
    pairs: int = Field(64, ge=8, description="Number of pairs sampled from a slice for a test.")
    controls: int = Field(4, ge=2, description="Maximum number of control regions per pair.")
    foils: int = Field(8, ge=2, description="Maximum number of foils to compare a pair's caption with.")
    level: float = Field(
        0.01, gt=0, lt=1, description="False discovery rate (q) below which a test counts as significant."
    )
    floor_share: float = Field(
        0.1, ge=0, lt=1, description="Smallest score loss that counts, as a share of the margin of the unchanged pairs."
    )
    budget: float = Field(
        0.3,
        gt=0,
        lt=1,
        description="Largest share of a run's cost for screening, tests and self-audit, but for small corpora.",
    )
    self_audit: float = Field(
        0.1, ge=0, le=1, description="Cost of the self-audit, as a share of the cost of the run. 0: no self-audit."
    )


class NotifyConfig(Section):
    """Which changes of alerts people are notified of; `m2ib-audit notify` sets up who receives the messages."""

    tell: tuple[Literal["new", "worse", "resolved", "still_firing", "not_seen"], ...] = Field(
        ("new", "worse", "resolved"), description="Statuses of alerts about which a message is sent."
    )
    digest: bool = Field(False, description="Send one message per run with all alerts, instead of one per alert.")
    review_url: str | None = Field(
        None, pattern=r"^https?://\S+$", description="URL of the review site, to which messages link. Default: no link."
    )
    enabled: bool | None = Field(
        None, description="Whether to notify. Default: runs of deployments do, runs of the command line do not."
    )
