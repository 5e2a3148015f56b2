"""Sentences about the self-audit of a run, for the command line, the report and the site."""

from collections.abc import Mapping, Sequence
from typing import Any

from review.presentation.formatting import format_count, format_percent


def format_self_audit(trials: Sequence[Mapping[str, Any]]) -> list[str]:
    """Format the results of the self-audit: which tags it found, its false alarms, and what was not measured.

    The trials are rows of the query `review/self_audit`.
    """
    made = [trial for trial in trials if trial["confirmed"] is not None]
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for trial in (trial for trial in made if trial["kind"] == "implanted"):
        groups.setdefault(_describe_trial(trial), []).append(trial)
    sentences = [f"{tag}, on which the model was made to rely: {_format_found(group)}" for tag, group in groups.items()]
    if permuted := [trial for trial in made if trial["kind"] == "permuted"]:
        tests, confirmed = (sum(trial[key] for trial in permuted) for key in ("tests", "confirmed"))
        samples = f"captions exchanged at random in {format_count(len(permuted), 'sample')} of the pairs"
        rate = _format_rate(confirmed, tests) if tests else "nothing was proposed, so nothing was tested"
        sentences.append(f"{samples}: {rate}")
    skipped: dict[str, dict[str, None]] = {}
    for trial in trials:
        if trial["confirmed"] is None:
            skipped.setdefault(trial["reason"], {})[_describe_trial(trial)] = None
    sentences += [f"not measured: {'; '.join(names)}. The reason: {reason}" for reason, names in skipped.items()]
    if any(trial["kind"] in ("tag", "sensitivity", "random") for trial in made):
        sentences.append("an earlier version measured the last test only; its figures are in the table self_audits")
    return sentences


def _describe_trial(trial: Mapping[str, Any]) -> str:
    if trial["kind"] == "permuted":
        return "captions exchanged at random"
    place = "one corner" if trial["copies"] == 1 else f"{trial['copies']} corners"
    pairs = f"{format_count(trial['n'], 'pair')} with one word"
    images = pairs if trial["affected"] == 1 else f"{format_percent(trial['affected'])} of {pairs}"
    return f"a tag in {place} ({format_percent(trial['area'])} of the image) of {images}"


def _format_found(trials: Sequence[Mapping[str, Any]]) -> str:
    found, lost = ([trial for trial in trials if bool(trial["confirmed"]) is value] for value in (True, False))
    parts = [f"found where it carried {_list_shares(found)} of the margin"] if found else []
    if lost:
        parts.append(f"not found where it carried {_list_shares(lost)} of the margin ({lost[0]['reason']})")
    return "; ".join(parts)


def _list_shares(trials: Sequence[Mapping[str, Any]]) -> str:
    return " and ".join(format_percent(trial["carried"]) for trial in trials)


def _format_rate(confirmed: int, tests: int) -> str:
    from scipy.stats import binomtest  # takes a second to import

    interval = binomtest(confirmed, tests).proportion_ci(method="wilson")
    low, high = format_percent(float(interval.low)), format_percent(float(interval.high))
    return f"{confirmed or 'none'} of {format_count(tests, 'test')} confirmed (95% interval {low} to {high})"
