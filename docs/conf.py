"""Sphinx's settings: Markdown by MyST, Furo's theme, and what `_generate.py` reads from the code."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

project = "Dromaius"
author = "The Dromaius contributors"
extensions = ["myst_parser", "sphinx_click", "_generate"]
exclude_patterns = ["_*"]

myst_heading_anchors = 4
suppress_warnings = ["myst.strikethrough"]

html_theme = "furo"
html_title = "Dromaius"
html_css_files = ["tables.css"]
html_static_path = ["_static"]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
