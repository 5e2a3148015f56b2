"""Chapters of the report on alerts: figures, tests, mean maps, and example pairs of each alert."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from review.presentation import drawing
from review.presentation.formatting import (
    WITHOUT_PLACE,
    find_alert_kind,
    find_mark,
    format_comparison,
    format_concentration,
    format_effect,
    format_label,
    format_loss,
    format_minimal,
    format_pair_count,
    format_part_kind,
    format_pasting,
    format_region,
    format_region_label,
    format_reliance,
    format_slice_label,
    format_state,
    format_status,
    has_place,
    isolate_text,
)
from review.presentation.numbers import (
    format_cosine,
    format_count,
    format_interval,
    format_nats,
    format_p_value,
    format_percent,
    format_score,
    format_time,
)
from review.presentation.pairs import AVERAGED_IMAGES, ShownPair, encode_picture
from review.report import decisions
from review.report.blocks import (
    TEXTS,
    Block,
    CaptionedPicture,
    Column,
    Details,
    Fact,
    Facts,
    MeanMaps,
    PairCard,
    Paragraph,
    TokenMark,
    build_table,
)
from review.report.facts import AlertFacts, RunFacts

REGION_COLUMNS = (
    Column("Region", lambda row: format_region_label(row["region"]), "name", 2),
    Column("Slice", lambda row: format_slice_label(row["slice_kind"], row["slice"]), "name", 3),
)
FIGURE_COLUMNS = (
    Column("Pairs", format_pair_count, "number"),
    Column("Share", lambda row: format_percent(row["share"]), "number"),
    Column("Area", lambda row: format_percent(row["area"]), "number"),
    Column("Concentration", format_concentration, "number"),
)
_ALERT_COLUMNS = (
    *REGION_COLUMNS,
    Column("State", format_state, width=3),
    *FIGURE_COLUMNS,
    Column("Score loss", lambda row: format_score(row["score_effect"]), "number"),
    Column("Explained by", "explained_by", "name", 3),
    Column("Alert", "alert_id", "code", 3),
)


def alert_texts(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sentences about an alert of its kind; those that it lacks are those of image regions."""
    texts: dict[str, Any] = TEXTS["alert"]["image"] | TEXTS["alert"][find_alert_kind(row)]
    return texts


def _multiply(sign: int, number: float | None) -> float | None:
    return None if number is None else sign * number


def capitalize(text: str) -> str:
    """Return the text with an uppercase first letter."""
    return text[:1].upper() + text[1:]


def share_of_margin(row: Mapping[str, Any]) -> float | None:
    """Return the score loss of an alert divided by its margin."""
    return row["score_effect"] / row["margin"] if row["margin"] and row["score_effect"] is not None else None


def build_alert(facts: RunFacts, alert: AlertFacts) -> Iterator[Block]:
    """Yield the chapter of an alert."""
    row, on_text, texts = alert.row, alert.row["side"] == "text", alert_texts(alert.row)
    yield Paragraph(capitalize(format_state(row)), "state", strong=row["state"] == "confirmed")
    if history := _describe_history(facts, row["alert_id"]):
        yield Paragraph(history, "note")
    reference = {
        "spread_stamp": "frequency in the slice relative to all pairs",
        "region_contrast": "share in the slice relative to the other pairs",
    }.get(row["rule"], "ratio of the odds of the two shares" if on_text else "ratio of the two shares")
    kind = format_part_kind(row)
    having = f" with the {kind}" if kind else ""
    in_place = find_alert_kind(row) not in WITHOUT_PLACE
    figures = [
        Fact("Mean share of the attribution", format_percent(row["share"]), main=True),
        Fact(f"Mean share of the {texts['whole']}", format_percent(row["area"])),
        Fact("Loss in the screening relative to the margin", format_percent(row["effect"]))
        if row["rule"] == "region_cost"
        else Fact(f"Concentration: {reference}", format_concentration(row)),
    ]
    if not in_place or row["rule"] in ("region_gain", "region_sufficiency"):
        figures = [*figures[: 2 * in_place], Fact("Why it was tested", format_effect(row), main=not in_place)]
    figures.append(Fact(f"Pairs of the slice{having}", format_pair_count(row)))
    if row["rest_n"] and in_place:
        figures.append(
            Fact(f"Share in {format_count(row['rest_n'], 'other pair')}{having}", format_percent(row["rest_share"]))
        )
    yield Facts(figures, "figures")
    yield from _build_tests(facts, alert)
    yield from decisions.build_decision(facts, alert)
    if alert.dependent:
        one = len(alert.dependent) == 1
        yield Details(
            f"{format_count(len(alert.dependent), 'more alert')} explained by this one: "
            f"{'it' if one else 'they'} would not be raised without its pairs, or lose no more than these account for",
            [build_table(_ALERT_COLUMNS, alert.dependent)],
        )
    yield from _build_mean_maps(facts, alert)
    yield from _build_example_pairs(facts, alert)
    yield Paragraph(f"Alert {row['alert_id']}, rule {row['rule']}, raised {format_time(row['raised_at'])}", "source")


def build_dependent_alerts(facts: RunFacts) -> Iterator[Block]:
    """Yield the chapter on alerts that are explained by an alert that the run does not have."""
    if facts.orphan_alerts:
        yield build_table(_ALERT_COLUMNS, facts.orphan_alerts)


def _describe_history(facts: RunFacts, alert_id: str) -> str:
    row = facts.histories.get(alert_id)
    if row is None or row["life"] is None:
        return ""
    status = capitalize(format_status(row["life"]))
    if row["life"] == "new":
        if row["previous_run"] is None:
            return f"{status}: this is the first run of the audit."
        return f"{status}: not raised by the previous run, {row['previous_run']}."
    reason = f" ({isolate_text(row['why'])})" if row["why"] else ""
    number = format_count(row["runs"], "run")
    return f"{status}{reason}: first seen {format_time(row['first_seen'])}, raised by {number} since then."


# Tests


def _build_tests(facts: RunFacts, alert: AlertFacts) -> Iterator[Block]:
    row, on_text, texts = alert.row, alert.row["side"] == "text", alert_texts(alert.row)
    sign = -1 if find_alert_kind(row) in ("lowers", "sufficient") else 1  # their losses are stored as gains
    answer = "Yes: confirmed" if row["state"] == "confirmed" else "Not shown: suspected"
    if reliance := format_reliance(row):
        answer += f", {reliance}"
    yield Paragraph(f"Does the score depend on it? {answer}", "heading")
    if row["score_effect"] is None:
        reason = row["reason"]
        if not reason and facts.config.get("confirm", {}).get("enabled") is False:
            reason = "confirmation is off ([confirm] enabled = false)"
        yield Paragraph(
            f"Not tested{f': {reason}' if reason else ''}. Attribution alone does not show whether the score depends "
            f"on {format_region(row['region'])}."
        )
        return
    yield Paragraph(
        texts["test"].format(
            margin=format_score(row["margin"]),
            tested=format_count(row["tested"], "caption" if on_text else "pair"),
            region=format_region(row["region"]),
            drop=format_loss(_multiply(sign, row["score_drop"])),
            control_drop=format_loss(_multiply(sign, row["control_drop"])),
            outcome=texts[row["state"]].format(reason=row["reason"] or "no reason was stored"),
        )
    )
    interval = format_interval(row["score_low"], row["score_high"])
    figures = [
        Fact(texts["loss"], format_score(row["score_effect"]), main=True),
        *([Fact("95% interval", interval)] if interval else []),
        Fact("Floor", format_score(row["floor"])),
        Fact("Relative to the margin", format_percent(share_of_margin(row))),
    ]
    if row["transplant_rise"] is not None or on_text:
        figures.append(Fact(texts["pasted"], format_score(row["transplant_rise"])))
    yield Facts(figures, "figures")
    columns = texts["test_columns"] if row["pasted_effect"] is None else TEXTS["alert"]["sufficient"]["test_columns"]
    yield build_table(_list_test_columns(*columns), alert.tests)
    text = texts["criteria"].format(level=facts.setting("confirm", "level"), tests=format_count(row["tests"], "test"))
    if on_text or row["transplant_rise"] is not None:
        interval = format_interval(row["transplant_low"], row["transplant_high"])
        text += " " + texts["transplant"].format(
            number=format_count(row["transplant_n"], "caption" if on_text else "image"),
            rise=format_score(row["transplant_rise"]),
            interval=f" ({interval})" if interval else "",
        )
    if pasting := format_pasting(row):
        yield Paragraph(pasting, "note")
    text = " ".join(filter(None, (text, format_comparison(row), format_minimal(row))))
    yield Paragraph(text, "note")


def _score_column(title: str, key: str) -> Column:
    return Column(title, lambda test: format_score(test[key]), "number")


def _list_test_columns(cover: str, loss: str, control: str) -> list[Column]:
    return [
        Column(cover, lambda test: format_label(test["fill"]), width=3),
        Column("Pairs", lambda test: format_count(test["n"]), "number"),
        _score_column(loss, "drop"),
        _score_column(control, "control_drop"),
        _score_column("Score loss", "effect"),
        Column("95% interval", lambda test: format_interval(test["low"], test["high"]), "number"),
        _score_column("Floor", "floor"),
        Column("p", lambda test: format_p_value(test["p"]), "number"),
        Column("q", lambda test: format_p_value(test["q"]), "number"),
        Column("Passed", lambda test: "yes" if test["passed"] else "not measured" if test["effect"] is None else "no"),
    ]


# Maps and pairs


def _build_mean_maps(facts: RunFacts, alert: AlertFacts) -> Iterator[Block]:
    row, region = alert.row, format_region(alert.row["region"])
    if not alert.mean_maps:
        if len(facts.grids) > 1 and row["side"] == "image":
            yield Paragraph(
                f"No mean map: the image maps of this run have {len(facts.grids)} different shapes.", "note"
            )
        return
    yield Paragraph("Mean image map", "heading")
    boxes = facts.album.boxes(alert.row["region"])
    top = max(float(mean.nats.max()) for mean in alert.mean_maps.values()) or 1.0
    maps = []
    for half, mean in alert.mean_maps.items():
        nats = f"{format_nats(mean.region_nats)} of {format_nats(mean.image_nats)} nats"
        pairs = format_count(mean.n, "pair")
        lead = f"The {pairs} of this alert." if half == "inside" else f"The {format_count(mean.n, 'other pair')}."
        alt = f"Mean image map of {pairs}: {nats} are in {region}"
        picture = encode_picture(drawing.draw_mean_map(mean.nats, top, boxes, alert.mean_images[half]), shrink=2)
        maps.append(CaptionedPicture(picture, lead, f"{capitalize(region)}: {nats}.", alt))
    same = "" if boxes else " where it is the same for every pair"
    scale = " Both maps use the same scale." if len(maps) > 1 else ""
    under = f", over the average of up to {AVERAGED_IMAGES} of the images" if any(alert.mean_images.values()) else ""
    note = f"Rounded mean nats of each patch{under}. The region is outlined in white{same}.{scale}"
    yield MeanMaps(maps, note, format_nats(top))


def _build_example_pairs(facts: RunFacts, alert: AlertFacts) -> Iterator[Block]:
    texts = alert_texts(alert.row)
    if find_alert_kind(alert.row) in WITHOUT_PLACE:
        yield Paragraph("Examples", "heading")
    else:
        yield Paragraph(
            f"The {format_count(len(alert.pairs), 'pair')} with most nats in the {texts['part']}", "heading"
        )
    yield Paragraph(texts["examples"].format(top=format_nats(facts.album.text_top)), "note")
    if alert.row["side"] == "image":
        yield Paragraph(format_nats(facts.album.image_top), "scale")
    for pair in alert.pairs:
        yield build_card(pair, [alert.row["region"]], alert.row["side"])
    if not alert.pairs:
        yield Paragraph("No pair was stored with this alert.")
    if alert.marked:
        mark = find_mark(alert.row["region"]) or ""
        yield Paragraph(f"Pairs that have {format_region(mark)}", "heading")
        yield Paragraph(TEXTS["alert"]["absence"]["marked"], "note")
        for pair in alert.marked:
            yield build_card(pair, [mark])


def build_card(pair: ShownPair, regions: Sequence[str], side: str = "image") -> PairCard:
    """Return the card of a pair (a `PairCard`), with the given regions outlined."""
    row = pair.row
    overlay_alt = f"Image map of the pair; the strongest patch has {format_nats(pair.strongest)} nats"
    metrics = [
        Fact("Cosine", format_cosine(row["cosine"])),
        Fact("– image bottleneck", format_cosine(row["image_cosine"])),
        Fact("– text bottleneck", format_cosine(row["text_cosine"])),
        Fact("Nats, image", format_nats(row["image_nats"])),
        Fact("– strongest patch", format_nats(pair.strongest)),
        Fact("Nats, caption", format_nats(row["text_nats"])),
    ]
    for share in pair.region_shares:
        if not has_place(share.region) or (regions and not any(map(has_place, regions))):
            continue  # what is absent or everywhere has no share, and other regions are beside the point
        region, is_outlined = format_region(share.region), share.region in regions
        if is_outlined:
            overlay_alt += f"; {region} has {format_percent(share.share)} of the attribution"
        metrics.append(
            Fact(
                f"{capitalize(region)}, {'outlined' if is_outlined else 'the strongest region of the pair'}",
                f"{format_percent(share.share)} of the attribution ({format_nats(share.nats)} nats) on "
                f"{format_percent(share.area)} of the {'words' if share.side == 'text' else 'area'}",
                main=True,
            )
        )
    source = [isolate_text(row["file_name"]), f"data row {row['row_number'] + 1}"]
    source.append(f"{row['width']} × {row['height']} px")
    source += [f"{isolate_text(name)} = {isolate_text(value)}" for name, value in row["attributes"] or ()]
    return PairCard(
        row["pair_id"],
        pair.view,
        pair.overlay if side == "image" else None,
        f"The image {row['file_name']} as the model sees it",
        overlay_alt,
        pair.problem,
        row["caption"],
        [
            TokenMark(
                token.text or "␣",
                format_nats(token.nats),
                token.shade,
                token.special,
                any(phrase in regions for phrase in token.phrases),
            )
            for token in pair.tokens
        ],
        metrics,
        " · ".join(source),
    )
