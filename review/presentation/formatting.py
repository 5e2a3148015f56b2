"""The report's words and numbers: sentences about alerts, and one way to write each kind of number."""

import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

BITS_PER_NAT = 1 / math.log(2)
NONE = "\N{EN DASH}"  # where there is no number
_CORNER = "corner "
PHRASE = '"'  # a phrase stands in double quotes


def place(region: str) -> str:
    """Say a region as part of a sentence."""
    if region == "frame":
        return "the outer frame"
    if region == "hottest corner":
        return "a corner, not always the same one,"
    if region.startswith(_CORNER):
        return f"the {region.removeprefix(_CORNER)} corner"
    if region.startswith(PHRASE):
        return f"the phrase “{isolated(region[1:-1])}”"
    if region.startswith("stamp "):
        return f"the recurring mark “{region}”"
    return f"the region “{isolated(region)}”"


def occasion(slice_kind: str, name: str) -> str:
    """Say a slice as part of a sentence."""
    if slice_kind == "corpus":
        return "over all pairs"
    if slice_kind in ("word", "phrase"):
        return f"when the caption says “{isolated(name)}”"
    if slice_kind == "cluster":
        return f"in the pairs of {name}, whose maps are alike"
    return "where " + " is ".join(isolated(part) for part in name.split("=", 1))


def slice_name(slice_kind: str, name: str) -> str:
    """Name a slice in a table."""
    said = {"word": "word", "phrase": "words"}
    return f"{said[slice_kind]} “{isolated(name)}”" if slice_kind in said else isolated(name)


_TURNING = dict.fromkeys((*range(0x202A, 0x202F), *range(0x2066, 0x206A)))


def isolated(text: str) -> str:
    """Isolate foreign text within a sentence: Arabic or Hebrew must not turn the words around it.

    Characters that do nothing but turn directions are left out: one of them could end the isolation.
    """
    return text if text.isascii() else f"\u2068{text.translate(_TURNING)}\u2069"


def sentence(alert: Mapping[str, Any]) -> str:
    """Say an alert aloud."""
    return f"the model looks at {place(alert['region'])} {occasion(alert['slice_kind'], alert['slice'])}"


def weight(alert: Mapping[str, Any]) -> str:
    """Say how much more of the attribution than of the image or the words an alert is about."""
    if alert["side"] == "text":
        return f"{times(alert['effect'])} times the odds of its words"
    if alert["rule"] == "spread_stamp":
        return f"{times(alert['effect'])} times as often there as in all pairs"
    if alert["rule"] == "region_contrast":
        return f"{times(alert['effect'])} times as much as in the other pairs"
    if alert["rule"] == "region_cost":
        return f"covering it took {percent(alert['effect'])} of the margin at first sight"
    return f"{times(alert['effect'])} times its share of the area"


def claim(alert: Mapping[str, Any]) -> str:
    """Say an alert aloud, as strongly as its state allows."""
    if alert["state"] == "confirmed":
        return f"the model relies on {place(alert['region'])} {occasion(alert['slice_kind'], alert['slice'])}"
    return sentence(alert)


def self_audit(trials: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say what the audit found out about itself; nothing where it did not try."""
    sizes = [trial for trial in trials if trial["kind"] == "sensitivity"]
    enough = [trial for trial in sizes if trial["confirmed"] >= 0.95 * trial["sets"]]
    told = [_sensitivity(trial) for trial in enough[:1] or sizes[-1:]]
    told += [_own_tag(trial) for trial in trials if trial["kind"] == "tag"]
    if random := [trial for trial in trials if trial["kind"] == "random"]:
        alarms = sum(trial["confirmed"] for trial in random)
        told.append(
            f"of {count(len(random), 'random region')} of that size over random slices, {alarms or 'none'} "
            f"{'was' if alarms == 1 else 'were'} confirmed; such a region may lie on what the caption names, so this "
            "is an upper estimate of false alarms"
        )
    return told


def _sensitivity(trial: Mapping[str, Any]) -> str:
    region = f"a region of {percent(trial['area'])} of the area that moves every pair's margin"
    effect = f"{score(trial['size'])} ({percent(trial['size'] / trial['margin'])} of it)"
    found = f"{percent(trial['confirmed'] / trial['sets'])} of samples of {count(trial['n'], 'pair')}"
    if trial["confirmed"] >= 0.95 * trial["sets"]:
        return f"this audit would have confirmed {region} by {effect} in {found}"
    return f"this audit sees little: {region} by as much as {effect} would have been confirmed in only {found}"


def _own_tag(trial: Mapping[str, Any]) -> str:
    outcome = (
        "confirmed, so this model reacts to any tag"
        if trial["confirmed"]
        else "not confirmed, the score does not need it"
    )
    return (
        f"covering a tag of our own, drawn into a corner of copies, cost {score(trial['effect'])} of the margin beyond "
        f"its controls (95% interval {score(trial['low'])} to {score(trial['high'])}): {outcome}"
    )


def verdict(manifest: Mapping[str, Any], alerts: Sequence[Mapping[str, Any]]) -> str:
    """Write the headline; `alerts` are those that stand on their own, strongest first."""
    status = manifest["status"]
    reason = textwrap.shorten(manifest["reason"] or "no reason was stored", 120, placeholder=" …")
    if status == "stopped":
        return f"Stopped by a gate: {reason}"
    if status == "failed":
        return f"Failed: {reason}"
    if status == "interrupted":
        return f"Interrupted: {reason}"
    if status == "running":
        return "Not finished: the run is under way, or was cut off"
    if not alerts:
        without = ", but parts of the corpus were set aside" if status == "completed_with_errors" else ""
        return f"No alert{without}" if manifest["counts"]["attributions"] else "No alert, as no pair was attributed"
    states = [f"{number} {state}" for state in ("confirmed", "suspected") if (number := _in_state(alerts, state))]
    total = f"{' and '.join(states)} alert{'s' if len(alerts) > 1 else ''}"
    return f"{total}{'. The strongest: ' if len(alerts) > 1 else ': '}{claim(alerts[0])}"


def _in_state(alerts: Sequence[Mapping[str, Any]], state: str) -> int:
    return sum(alert["state"] == state for alert in alerts)


def score(value: float | None) -> str:
    """Write a margin or a difference of margins."""
    return NONE if value is None or not math.isfinite(value) else f"{value:.3f}"


def chance(value: float | None) -> str:
    """Write a p or q value."""
    if value is None or not math.isfinite(value):
        return NONE
    return "< 0.0001" if value < 0.0001 else f"{value:.2g}"


def percent(value: float | None) -> str:
    """Write a share, with about three figures."""
    if value is None or not math.isfinite(value):
        return NONE
    points = value * 100
    if points < 0.0005:
        return "0%" if points == 0 else "<0.001%"
    return f"{points:.{0 if points >= 99.95 else 1 if points >= 9.995 else 2 if points >= 0.9995 else 3}f}%"


def times(value: float | None) -> str:
    """Write a ratio."""
    if value is None or not math.isfinite(value):
        return NONE
    return f"{value:.2f}" if value < 100 else f"{value:,.0f}"


def bits(value: float | None) -> str:
    """Write information, given in bits."""
    if value is None or not math.isfinite(value):
        return NONE
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}".replace("-0.0", "0.0")


def cosine(value: float | None) -> str:
    """Write a cosine."""
    return NONE if value is None or not math.isfinite(value) else f"{value:.3f}"


def count(value: int | None, noun: str = "") -> str:
    """Write a number of things, with their noun in the right form."""
    if value is None:
        return NONE
    return f"{value:,}" + (f" {noun if value == 1 else noun + 's'}" if noun else "")


def moment(value: str | datetime | None) -> str:
    """Write a time in UTC."""
    if value is None:
        return NONE
    try:
        when = datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        return str(value)
    return f"{when.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def pretty(value: Any) -> str:
    """Write JSON for people."""
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, default=str)


def to_bits(nats: float | None) -> float | None:
    """Turn nats into bits."""
    return None if nats is None else nats * BITS_PER_NAT
