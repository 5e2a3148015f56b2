"""The glossary: terms, units and stored names, read from glossary.toml, for the site, the report and docs/glossary.md.

`python -m review.presentation.glossary` prints docs/glossary.md.
"""

import textwrap
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from review.presentation.formatting import DECISIONS, format_decision

_HEADER = """# Glossary

Every term of the audit, once. Code, command line, site, report and documentation use these words.
This page is made by `python -m review.presentation.glossary` from
`review/presentation/glossary.toml`, as are the site's help and a chapter of the report.
"""


_STORED = """## Stored values and the words shown

The ledger, tables, rules and URLs keep the stored values; people see the words.

| stored | shown |
| -- | -- |
| `effect` in `alerts`, `findings`, `slice_shares`, `alert_history` | concentration |
| `effect` in `confirmations`, `self_audits`; `score_effect` | score loss |"""


@dataclass(frozen=True)
class Term:
    """A term and its definition. `reader` is whether the site's help and the report show it."""

    name: str
    text: str
    unit: str | None = None
    stored: str | None = None
    reader: bool = True

    @property
    def title(self) -> str:
        """The name with an initial capital, unless it is a symbol such as `p and q`."""
        return self.name if self.name.startswith("p and") else self.name[0].upper() + self.name[1:]


@cache
def load_glossary() -> dict[str, tuple[Term, ...]]:
    """Return the terms by group, in the order of glossary.toml."""
    groups = tomllib.loads(Path(__file__).with_name("glossary.toml").read_text(encoding="utf-8"))
    return {group: tuple(Term(name, **term) for name, term in terms.items()) for group, terms in groups.items()}


def reader_terms() -> list[Term]:
    """Return the terms that the site's help and the report show."""
    return [term for terms in load_glossary().values() for term in terms if term.reader]


def to_markdown() -> str:
    """Return the text of docs/glossary.md, wrapped at 100 characters."""
    lines = [_HEADER]
    for group, terms in load_glossary().items():
        lines.append(f"## {group}\n")
        for term in terms:
            facts = [f"Unit: {term.unit}."] if term.unit else []
            facts += [f"Stored in: `{term.stored}`."] if term.stored else []
            text = " ".join([f"**{term.title}**: {term.text}", *facts])
            lines.append(textwrap.fill(text, 98, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False))
        lines.append("")
    lines += [_STORED, *(f"| `decision` = `{name}` | {format_decision(name, 'DATE')} |" for name in DECISIONS)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(to_markdown(), end="")  # noqa: T201  # this command prints the page
