"Sphinx reads the notebooks that docs/prep.py leaves in docs/_nbs; nothing is run here"
import inspect
from dataclasses import is_dataclass
from pathlib import Path

project, author, html_title = 'hettrans', 'hettrans contributors', 'hettrans'
extensions = ['myst_nb', 'sphinx.ext.autodoc', 'sphinx.ext.viewcode', 'sphinx.ext.mathjax', 'sphinx_copybutton', 'sphinx_design']
exclude_patterns = ['_build']
nb_execution_mode, nb_merge_streams, nb_ipywidgets_js = 'off', True, {}
myst_enable_extensions = ['dollarmath', 'amsmath', 'colon_fence', 'deflist']
myst_heading_anchors = 3
autodoc_typehints, autodoc_typehints_description_target, autodoc_typehints_format = 'description', 'documented', 'short'
add_module_names = False
suppress_warnings = ['misc.highlighting_failure']
html_theme = 'pydata_sphinx_theme'
html_theme_options = dict(navbar_align='left', show_nav_level=2, secondary_sidebar_items=['page-toc'], show_prev_next=True)
html_static_path, html_js_files, html_css_files = ['_static'], ['hx.js'], ['hx.css']
html_show_sourcelink = False
# For formulas without the network: `npm pack mathjax@3` and put its es5/tex-svg.js here. Without it, Sphinx's usual address is used.
if (Path(__file__).parent/'_static'/'vendor'/'tex-svg.js').exists(): mathjax_path = 'vendor/tex-svg.js'

def docments_fields(app, what, name, obj, options, lines):
    "nbdev's `arg, # what it is` comments become :param: fields"
    from fastcore.docments import docments
    if what not in ('function', 'class', 'method'): return
    try: d = docments(obj.__init__ if isinstance(obj, type) and not is_dataclass(obj) else obj)     # a dataclass has its comments at its fields
    except Exception: return
    out = [f':returns: {v}' if k == 'return' else f':param {k}: {v}' for k, v in d.items() if v and k != 'self']
    if out: lines += ['', *out]

def own_signature(app, what, name, obj, options, sig, ret):
    "The metaclass of traitlets hides a widget's own signature"
    if what != 'class' or type(obj).__module__.split('.')[0] != 'traitlets': return
    ps = [p.replace(annotation=p.empty) for k, p in inspect.signature(obj.__init__).parameters.items() if k != 'self']
    return str(inspect.Signature(ps)), ret

def no_padding():
    "For the sake of line numbers, MyST puts 10000 empty lines per cell of a notebook before each autodoc entry: minutes of work"
    from myst_parser.mocking import MockRSTParser
    parse = MockRSTParser.parse
    MockRSTParser.parse = lambda self, text, document: parse(self, text.lstrip('\n'), document)

def setup(app):
    no_padding()
    app.connect('autodoc-process-docstring', docments_fields)
    app.connect('autodoc-process-signature', own_signature)
