"""Equations as MathML, which browsers draw themselves: nothing is loaded from elsewhere."""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING

from docutils import nodes
from docutils.utils.math import MathError, latex2mathml, unichar2tex
from sphinx.util import logging

if TYPE_CHECKING:
    from sphinx.writers.html5 import HTML5Translator

logger = logging.getLogger(__name__)

_SIGNS = str.maketrans({"·": r"\cdot ", "…": r"\ldots ", "−": "-", "½": r"\frac{1}{2} "})
_UNKNOWN = re.compile(r"\\(?:[bB]ig|textstyle)(?![A-Za-z])|\\dots(?![a-z])")
"""Commands that docutils does not know: sizes, which are left out, and dots."""


def inline(writer: HTML5Translator, node: nodes.math) -> None:
    """Writes an equation within a line."""
    writer.body.append(_written(node, as_block=False))
    raise nodes.SkipNode


def block(writer: HTML5Translator, node: nodes.math_block) -> None:
    """Writes an equation of its own."""
    writer.body.append(f'<div class="equation">{_written(node, as_block=True)}</div>\n')
    raise nodes.SkipNode


def _written(node: nodes.Element, as_block: bool) -> str:
    latex = _UNKNOWN.sub(lambda x: r"\ldots" if x[0] == r"\dots" else "", node.astext())
    latex = latex.translate(_SIGNS).translate(unichar2tex.uni2tex_table)
    try:
        return str(latex2mathml.tex2mathml(latex, as_block=as_block))
    except MathError as error:
        logger.warning("equation %r: %s", latex, error, location=node)
        return html.escape(latex)
