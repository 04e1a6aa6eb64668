"""How the site is built: ``make docs``. Nothing is fetched, a warning is an error."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent / "_ext"), str(Path(__file__).parents[1])]

from sphinx.util.inspect import TypeAliasForwardRef  # noqa: E402

import subkern  # noqa: E402

project = "subkern"
author = copyright = "The subkern authors"
release = version = subkern.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "directives",
]
exclude_patterns = ["_ext", "examples"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

# `Kernel`, `subkern.kernels.kernel.Kernel`: a link where there is something to link to,
# code elsewhere. (That dotted names exist is tested: tests/docs/test_names.py.)
default_role = "py:obj"
nitpicky = True
nitpick_ignore_regex = [
    (r"py:obj", r".*"),
    # names in signatures: other libraries', and the library's own that are not public
    (r"py:(class|data)", r"(?!subkern\.\w+$).*"),
    (r"py:exc", r"(?!UserError$).*"),
]

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_type_aliases = {
    **dict.fromkeys(("npt.ArrayLike", "ArrayLike"), "ArrayLike"),
    **dict.fromkeys(("Floats", "Integers", "Array", "Labels"), "ndarray"),
}
# An alias in a union would be shown by its repr.
TypeAliasForwardRef.__repr__ = lambda self: self.name
python_maximum_signature_line_length = 80
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"subkern {release}"
html_static_path = ["_static"]
html_css_files = ["subkern.css"]
html_copy_source = False
html_show_sphinx = False
copybutton_exclude = ".linenos, .gp, .go"


def _skip(_app, _what, name, found, skip, _options):
    """Leave out what scikit-learn adds to every estimator (``set_fit_request`` and the like)."""
    return True if getattr(found, "__module__", "").startswith("sklearn.") else skip


def setup(app):
    """Ask `_skip` about every member."""
    app.connect("autodoc-skip-member", _skip)
