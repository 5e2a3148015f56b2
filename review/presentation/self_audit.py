"""Sentences about the self-audit of a run, for the command line, the report and the site."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from review.presentation.numbers import format_count, format_percent

_Trials = Sequence[Mapping[str, Any]]


def format_self_audit(trials: _Trials) -> list[str]:
    """Format the results of the self-audit: which tags it found, its false alarms, what was not measured, and the cost.

    The trials are rows of the query `review/self_audit`.
    """
    made = [trial for trial in trials if trial["confirmed"] is not None]
    sentences = [
        f"{tag}, on which the model was made to rely: {_format_found(group)}"
        for tag, group in _group(trial for trial in made if trial["kind"] == "implanted").items()
    ]
    permuted = _group(trial for trial in made if trial["kind"] == "permuted")
    for name, group in permuted.items():
        tests, confirmed = (sum(trial[key] for trial in group) for key in ("tests", "confirmed"))
        rate = _format_rate(confirmed, tests) if tests else "nothing was proposed, so nothing was tested"
        known = sum(trial.get("known") or 0 for trial in group)
        left = f"; {format_count(known, 'test')} of regions that this audit confirmed left out" if known else ""
        sentences.append(f"{name}, in {format_count(len(group), 'sample')}: {rate}{left}")
    skipped: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for trial in trials:
        # Of samples with exchanged captions, those that were made say it already.
        if trial["confirmed"] is None and _describe_trial(trial) not in permuted:
            skipped[trial["reason"]].append(trial)
    for reason, group in skipped.items():
        names = [
            name if each[0]["kind"] == "permuted" else f"{name} that carries {_list_shares(each)} of the margin"
            for name, each in _group(group).items()
        ]
        sentences.append(f"not measured: {'; '.join(names)}. The reason: {reason}")
    if cost := sum(trial.get("cost") or 0 for trial in trials):
        sentences.append(f"the self-audit cost {format_count(cost, 'embedding')}")
    if any(trial["kind"] in ("tag", "sensitivity", "random") for trial in made):
        sentences.append("an earlier version measured the last test only; its figures are in the table self_audits")
    return sentences


def _group(trials: Any) -> dict[str, list[Mapping[str, Any]]]:
    groups: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for trial in trials:
        groups[_describe_trial(trial)].append(trial)
    return dict(groups)


def _describe_trial(trial: Mapping[str, Any]) -> str:
    pairs = f"{format_count(trial['n'], 'pair')} with one word"
    if trial["kind"] == "permuted":
        return f"captions exchanged at random among {pairs} and others"
    place = "one corner" if trial["copies"] == 1 else f"{trial['copies']} corners"
    images = pairs if trial["affected"] == 1 else f"{format_percent(trial['affected'])} of {pairs}"
    return f"a tag in {place} ({format_percent(trial['area'])} of the image) of {images}"


def _format_found(trials: _Trials) -> str:
    found, lost = ([trial for trial in trials if bool(trial["confirmed"]) is value] for value in (True, False))
    parts = [f"found where it carried {_list_shares(found)} of the margin"] if found else []
    if lost:
        parts.append(f"not found where it carried {_list_shares(lost)} of the margin ({lost[0]['reason']})")
    return "; ".join(parts)


def _list_shares(trials: _Trials) -> str:
    *first, last = dict.fromkeys(format_percent(trial["carried"]) for trial in trials)
    return f"{', '.join(first)} and {last}" if first else last


def _format_rate(confirmed: int, tests: int) -> str:
    from scipy.stats import binomtest  # takes a second to import

    interval = binomtest(confirmed, tests).proportion_ci(method="wilson")
    low, high = format_percent(float(interval.low)), format_percent(float(interval.high))
    return f"{confirmed or 'none'} of {format_count(tests, 'test')} confirmed (95% interval {low} to {high})"
