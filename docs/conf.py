"""How Sphinx builds the site: ``make docs``."""

from __future__ import annotations

import os
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from making import gallery, mathml, reference  # noqa: E402

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "beliefzoo"
author = "The beliefzoo developers"
release = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]["version"]
html_title = f"beliefzoo {release}"

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "making"]
suppress_warnings = ["myst-nb.lexer"]  # of cells that are not run, with nb_execution_mode=off

# Pages with cells run in kernels that inherit these; nothing is read from or sent to the network.
os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
os.environ["MATPLOTLIBRC"] = str(HERE / "matplotlibrc")
os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"  # of a kernel without widgets
os.environ.setdefault("OMP_NUM_THREADS", "1")
nb_execution_mode = "force"
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_execution_in_temp = True  # what a page writes stays out of the checkout
nb_merge_streams = True

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
maximum_signature_line_length = 88
napoleon_use_ivar = True
napoleon_use_rtype = False
autosummary_generate = False
toc_object_entries_show_parents = "hide"
# Types of other packages have no page here, and no inventory is downloaded.
nitpick_ignore_regex = [("py:.*", ".*")]

html_theme = "pydata_sphinx_theme"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_extra_path = ["llms.txt"]
html_sidebars = {page: [] for page in ("index", "start", "science", "results")}
html_math_renderer = "mathml"
html_theme_options = {
    "navbar_end": ["theme-switcher"],
    "show_prev_next": True,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}
copyright = "The beliefzoo developers, Apache-2.0"


def setup(app: Sphinx) -> None:
    """Connects what is in ``making``."""
    app.add_html_math_renderer("mathml", (mathml.inline, None), (mathml.block, None))
    app.connect("source-read", reference.expanded)
    app.connect("source-read", reference.anchored)
    app.connect("autodoc-process-docstring", reference.as_text)
    app.connect("autodoc-skip-member", reference.hidden)
    gallery.connect(app)
