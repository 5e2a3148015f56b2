"""Commands that inspect a corpus, the available models and the settings of the attribution before an audit."""

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.commands import output


def corpus(
    uri: Annotated[str, typer.Argument(metavar="CORPUS", help="Folder, file or pattern; see docs/corpora.md.")],
    format_name: Annotated[str | None, typer.Option("--format", help="Corpus format; default: detected.")] = None,
    image_column: Annotated[str | None, typer.Option(help="Image column; default: depends on format.")] = None,
    caption_column: Annotated[str | None, typer.Option(help="Caption column; default: depends on format.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="File of the contact sheet; default: corpus-NAME.html in this folder.")
    ] = None,
    detector: Annotated[
        list[str] | None,
        typer.Option(help="Detector whose boxes the contact sheet outlines (see m2ib-audit detectors); repeatable."),
    ] = None,
    min_pairs: Annotated[
        int | None, typer.Option(min=1, help="Pairs that make a slice, as in [alerts] of the AUDIT.toml.")
    ] = None,
    as_json: output.JsonOption = False,
) -> None:
    """Describe a corpus before an audit: counts, sizes, columns, errors, near-duplicates, and a contact sheet.

    Says which values of the columns become slices. Overwrites an earlier contact sheet, but no other file.
    """
    from corpora import Reason
    from corpora.description import describe
    from flows.config import parse
    from review.report.contact_sheet import check_output, default_output, describe_corpus, write_contact_sheet
    from review.report.html import ReportError
    from tasks.inputs import load_corpus
    from tasks.progress import bar
    from tasks.regions import load_detectors, run_detectors

    detectors = load_detectors(detector or [])
    found_in: Counter[str] = Counter()
    failed: dict[str, str] = {}

    def find_boxes(pixels: Any, caption: str) -> Any:
        detections = run_detectors(detectors, pixels, caption)
        found_in.update({*detections.boxes})
        failed.update(detections.errors)
        return detections.boxes

    columns = {"image_column": image_column, "caption_column": caption_column}
    config = parse(
        {"corpus": {"path": uri, "format": format_name, **columns}, "model": {"architecture": "none"}}, "corpus"
    )
    min_pairs = config.alerts.min_pairs if min_pairs is None else min_pairs
    out = default_output(uri) if out is None else out
    check_output(out)  # before the corpus is read, which may take hours
    found = load_corpus(config.corpus)
    with bar("reading the corpus"):
        description = describe(found)
    try:
        sheet = write_contact_sheet(found, description, uri, out, min_pairs, find_boxes if detectors else None)
    except ReportError as error:
        output.fail(str(error), output.Exit.FAILURE)
    for label, value in describe_corpus(description, min_pairs):
        output.say(f"{label:<15} {value}")
    for reason, number in description.errors.items():
        first = description.examples[reason][0]
        where = f"{first.file_name}: " if first.file_name else ""
        output.say(f"  {number} x {reason}, such as {where}{first.detail}")
    if description.duplicates:
        first = description.examples[str(Reason.DUPLICATE_PAIR)][0]
        output.say(f"  {description.duplicates} x the same pair again, such as {first.file_name}: {first.detail}")
    for name in sorted(found_in.keys() | ({one.name for one in detectors} if not found_in else set())):
        output.say(f"detected: {name} in {found_in[name]} of {len(description.sample)} pairs of the contact sheet")
    for name, fault in failed.items():
        output.note(f"m2ib-audit: the detector {name} failed on some pairs, such as: {fault}")
    output.say(f"contact sheet: {sheet}")
    if as_json:
        keys = ("format", "pairs", "images", "captions", "duplicates", "errors", "digest")
        alike = [[pair.file_name for pair in group] for group in description.near_duplicates]
        counts = {key: getattr(description, key) for key in keys}
        output.print_json(
            {"listed": description.rows} | counts | {"alike": alike, "page": sheet} | {"detected": found_in}
        )


def detectors(as_json: output.JsonOption = False) -> None:
    """List the installed detectors, which [regions] detectors of an AUDIT.toml can name."""
    from tasks.regions import describe_detectors

    output.print_rows("detectors", describe_detectors(), as_json)


def models(as_json: output.JsonOption = False) -> None:
    """List open_clip's models: which can be audited, how each tower pools, and where its bottleneck is by default."""
    from m2ib.towers.catalog import describe_models

    output.note("building open_clip's models without weights: takes about a minute")
    found = list(describe_models())
    supported = sum(model.supported for model in found)
    rows: list[dict[str, Any]] = []
    table = []
    for model in found:
        image, text = model.image, model.text
        rows.append(
            {"name": model.name, "image": image.supported, "text": text.supported, "reason": model.reason}
            | {"note": text.note, "image_pooling": image.pooling, "image_blocks": image.num_blocks}
            | {"image_layer": image.layer, "grid": image.grid, "text_pooling": text.pooling}
            | {"text_blocks": text.num_blocks, "text_layer": text.layer}
        )
        pooling = [str(tower.pooling) if tower.supported else "no" for tower in (image, text)]
        cut = ["" if tower.num_blocks is None else f"{tower.layer} of {tower.num_blocks}" for tower in (image, text)]
        grid = " x ".join(map(str, image.grid or ()))
        table.append(
            {"model": model.name, "image": pooling[0], "cut": cut[0], "grid": grid, "text": pooling[1]}
            | {"text cut": cut[1], "why not, or note": model.reason or text.note}
        )
    if as_json:
        output.print_json({"listed": len(found), "supported": supported, "models": rows})
        return
    output.print_table(table)
    output.say(f"{supported} of {len(found)} models can be audited with both towers")


def sweep(
    audit_file: output.AuditFile,
    depth: Annotated[
        list[float],
        typer.Option(default_factory=lambda: [0.2, 0.5, 0.8], help="Depth of the bottleneck, 0 to 1; repeatable."),
    ],
    beta: Annotated[
        list[float], typer.Option(default_factory=lambda: [0.1, 1.0], help="Weight of information; repeatable.")
    ],
    draws: Annotated[list[int], typer.Option(default_factory=lambda: [2], help="Noise samples per step; repeatable.")],
    pairs: Annotated[int, typer.Option(min=2, help="Number of pairs to attribute.")] = 32,
    as_json: output.JsonOption = False,
) -> None:
    """Compare bottleneck settings, and those of the AUDIT.toml, on your own model and pairs, and recommend some."""
    import m2ib
    from corpora import Pair
    from m2ib.analysis.sweep import TOWERS, make_variants, recommend, run_sweep
    from tasks.device import compute
    from tasks.inputs import load_corpus, load_model

    config = output.load_config(audit_file, None)
    model, corpus = config.models()[0], load_corpus(config.corpus)
    sample = list(islice((row for row in corpus.pairs() if isinstance(row, Pair)), pairs))
    if len(sample) < 2:
        output.fail(f"sweep: got {len(sample)} readable pair(s) in {config.corpus.place}, expected at least 2")
    rows: list[dict[str, Any]] = []
    try:
        encoder = load_model(model)
        images = [corpus.read_image(pair.place).pixels for pair in sample]
        variants = make_variants(config.bottleneck_config(), depth, beta, draws)
        captions = [pair.caption for pair in sample]
        rows_of_variants = run_sweep(encoder, images, captions, variants, model.batch_size)
        while (row := compute(model.device, next, rows_of_variants, None)) is not None:
            rows.append(row)
            output.note(f"{len(rows)} of {len(variants)} settings done")
    except (m2ib.M2IBError, ValueError) as error:
        output.fail(str(error))
    recommended = recommend(rows)
    if as_json:
        output.print_json({"rows": rows, "recommended": recommended})
        return
    for name in TOWERS:
        output.say(f"{name} tower")
        output.print_table([_format_row(name, row, rows[0], recommended[name]) for row in rows])
    for sentence in _explain_sweep(rows, recommended):
        output.say(sentence)


def _format_row(name: str, row: Any, present: Any, recommended: Any) -> dict[str, Any]:
    note = {(True, True): "present: keep", (True, False): "present", (False, True): "recommended"}
    numbers = {key: row[f"{name}_{key}"] for key in ("depth", "beta")} | {"draws": row["draws"]}
    numbers |= {key: f"{row[f'{name}_{key}']:.3f}" for key in ("stability", "retained")}
    numbers |= {"nats": f"{row[f'{name}_nats']:.4g}", "s/pair": f"{row['seconds_per_pair']:.3f}"}
    return numbers | {"": note.get((row is present, row is recommended), "")}


def _explain_sweep(rows: list[dict[str, Any]], recommended: Any) -> Iterator[str]:
    """Yield sentences on the rows of a sweep, and the lines of an AUDIT.toml that set what is recommended."""
    from m2ib.analysis.sweep import MIN_COSINE, MIN_RETAINED, MIN_STABILITY

    cosine = rows[0]["cosine"]
    yield f"mean cosine of the pairs without a bottleneck: {cosine:.3f}; retained: the cosine with it, divided by this"
    if cosine < MIN_COSINE:
        yield (
            f"The mean cosine is below {MIN_COSINE}, so retained means nothing and can be negative: to this model the "
            "captions do not describe the images. Check [model] pretrained and the columns of the corpus."
        )
    elif any(row[f"{name}_retained"] < 0 for row in rows for name in recommended):
        yield (
            "retained is negative where the bottleneck turns the embedding away from that of the other tower: such a "
            "map explains another embedding than the model's. Lower beta."
        )
    limits = f"stability {MIN_STABILITY} and retained {MIN_RETAINED}"
    if missing := [name for name, row in recommended.items() if row is None]:
        towers = " and ".join(missing)
        yield f"no recommendation for the {towers} tower: no row reaches {limits}; try more draws or a lower beta"
    if chosen := {name: row for name, row in recommended.items() if row}:
        yield (
            f"recommended: of the rows that reach {limits}, the largest beta, at the depth next to the present one\n"
            "To use it, put these lines into the AUDIT.toml, in place of its own (and of layer, if it is set):"
        )
        draws = next(iter(chosen.values()))["draws"]
        yield f"\n[bottleneck]\ndraws = {draws}" + ("\nantithetic = false" if draws % 2 else "")
        for name, row in chosen.items():
            yield f"\n[bottleneck.{name}]\ndepth = {row[f'{name}_depth']:g}\nbeta = {row[f'{name}_beta']:g}"
