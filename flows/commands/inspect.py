"""Commands that inspect a corpus or the available models before an audit."""

from pathlib import Path
from typing import Annotated, Any

import typer

from flows.commands.output import Exit, JsonOption, fail, note, print_json, print_table, say


def corpus(
    uri: Annotated[str, typer.Argument(metavar="CORPUS", help="Folder, file or pattern; see docs/corpora.md.")],
    format_name: Annotated[str | None, typer.Option("--format", help="Format; default: detected.")] = None,
    image_column: Annotated[str | None, typer.Option(help="Column of the image; default: the format's.")] = None,
    caption_column: Annotated[str | None, typer.Option(help="Column of the caption; default: the format's.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="File of the contact sheet; default: corpus-NAME.html in this folder.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Describe a corpus before an audit: format, counts, sizes, errors, near-duplicates, and a contact sheet.

    Replaces a contact sheet that it wrote before, but no other file.
    """
    from corpora import Reason
    from corpora.description import describe
    from flows.config import parse
    from review.report.contact_sheet import check_output, default_output, describe_corpus, write_contact_sheet
    from review.report.html import ReportError
    from tasks.inputs import load_corpus
    from tasks.progress import bar

    columns = {"image_column": image_column, "caption_column": caption_column}
    config = parse(
        {"corpus": {"path": uri, "format": format_name, **columns}, "model": {"architecture": "none"}}, "corpus"
    )
    out = default_output(uri) if out is None else out
    check_output(out)  # before the corpus is read, which may take hours
    found = load_corpus(config.corpus)
    with bar("reading the corpus"):
        description = describe(found)
    try:
        sheet = write_contact_sheet(found, description, uri, out)
    except ReportError as error:
        fail(Exit.FAILURE, str(error))
    for label, value in describe_corpus(description):
        say(f"{label:<15} {value}")
    for reason, number in description.errors.items():
        first = description.examples[reason][0]
        where = f"{first.file_name}: " if first.file_name else ""
        say(f"  {number} x {reason}, such as {where}{first.detail}")
    if description.duplicates:
        first = description.examples[str(Reason.DUPLICATE_PAIR)][0]
        say(f"  {description.duplicates} x the same pair again, such as {first.file_name}: {first.detail}")
    say(f"contact sheet: {sheet}")
    if as_json:
        keys = ("format", "pairs", "images", "captions", "duplicates", "errors", "digest")
        alike = [[pair.file_name for pair in group] for group in description.near_duplicates]
        counts = {key: getattr(description, key) for key in keys}
        print_json({"listed": description.rows} | counts | {"alike": alike, "page": sheet})


def models(as_json: JsonOption = False) -> None:
    """List open_clip's models: which can be audited, how each tower pools, and where it is cut by default."""
    from m2ib.towers.catalog import describe_models

    note("building open_clip's models without weights: takes about a minute")
    found = list(describe_models())
    supported = sum(model.supported for model in found)
    rows = [
        {
            "name": model.name,
            "image": model.image.supported,
            "text": model.text.supported,
            "reason": model.reason,
            "note": model.text.note,
            "image_pooling": model.image.pooling,
            "image_blocks": model.image.num_blocks,
            "image_layer": model.image.layer,
            "grid": model.image.grid,
            "text_pooling": model.text.pooling,
            "text_blocks": model.text.num_blocks,
            "text_layer": model.text.layer,
        }
        for model in found
    ]
    if as_json:
        print_json({"listed": len(found), "supported": supported, "models": rows})
        return
    print_table([_model_row(row) for row in rows])
    say(f"{supported} of {len(found)} models can be audited with both towers")


def _model_row(row: dict[str, Any]) -> dict[str, Any]:
    def pooling(tower: str) -> str:
        return f"{row[f'{tower}_pooling']}" if row[tower] else "no"

    def cut(tower: str) -> str:
        return "" if row[f"{tower}_blocks"] is None else f"{row[f'{tower}_layer']} of {row[f'{tower}_blocks']}"

    return {
        "model": row["name"],
        "image": pooling("image"),
        "cut": cut("image"),
        "grid": " x ".join(map(str, row["grid"] or ())),
        "text": pooling("text"),
        "text cut": cut("text"),
        "why not, or note": row["reason"] or row["note"],
    }
