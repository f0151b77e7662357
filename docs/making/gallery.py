"""The gallery of the zoo, and the heads of its pages, from the records of the cards."""

from __future__ import annotations

from typing import TYPE_CHECKING

from docutils import nodes
from sphinx import addnodes
from sphinx.util.docutils import SphinxDirective

from .cards import TITLES, record_of, records

if TYPE_CHECKING:
    from sphinx.application import Sphinx


def expanded(app: Sphinx, page: str, source: list[str]) -> None:
    """Puts what the record of a card says at the head of its page."""
    folder, _, name = page.partition("/")
    if folder != "zoo" or name in ("", "index"):
        return
    record = record_of(source[0], f"{name}.md")
    _, front, body = source[0].split("---\n", 2)
    head = [f"# {record['member']}", "", record["use"], "", "```text", record["program"].rstrip()]
    head += ["```", ""]
    told = [field for field in TITLES if field != "use"]
    head += [line for field in told for line in (TITLES[field], f": {record[field].strip()}", "")]
    facts = f"Arguments and methods: {{py:obj}}`beliefzoo.models.{record['member']}`."
    source[0] = "\n".join([f"---\n{front}---\n", *head, facts, "", body])


class Gallery(SphinxDirective):
    """One card a member, in the order of the argument's lines."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """Writes the cards."""
        found = records()
        box = nodes.container(classes=["zoo"])
        for name in self.content:
            record = found[name.strip()]
            link = addnodes.pending_xref(
                "", refdomain="std", reftype="doc", reftarget=f"/zoo/{name.strip()}",
                refexplicit=True, refwarn=True, refdoc=self.env.docname,
            )  # fmt: skip
            link += nodes.inline("", record["member"])
            card = nodes.container(classes=["card"])
            card += nodes.paragraph("", "", link)
            for said in (record["use"], f"{record['state']}; {record['outputs']}"):
                parsed, messages = self.parse_inline(said)
                card += nodes.paragraph("", "", *parsed, *messages)
            box += card
        return [box]


def connect(app: Sphinx) -> None:
    """Adds the directive, and the heads of the cards."""
    app.connect("source-read", expanded)
    app.add_directive("gallery", Gallery)
