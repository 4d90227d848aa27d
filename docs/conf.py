"Sphinx reads what docs/prep.py leaves in docs/_nbs; nothing is run here. A build that would ask the network, or leave a reader without a way, fails"
import inspect, json, sys
from dataclasses import is_dataclass
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
project, author, html_title = 'hettrans', 'hettrans contributors', 'hettrans'
extensions = ['myst_nb', 'sphinx.ext.autodoc', 'sphinx.ext.mathjax', 'sphinx.ext.githubpages', 'sphinx_copybutton', 'sphinx_design']
exclude_patterns = ['_build', '_nbs/models.html', '_nbs/parts.md']
nb_execution_mode, nb_merge_streams, nb_ipywidgets_js = 'off', True, {}
myst_enable_extensions = ['dollarmath', 'amsmath', 'colon_fence', 'deflist']
myst_heading_anchors = 3
autodoc_typehints, autodoc_typehints_description_target, autodoc_typehints_format = 'description', 'documented', 'short'
autodoc_inherit_docstrings, autodoc_member_order = False, 'bysource'
add_module_names = False
default_role = 'py:obj'      # `name` in a docstring is code, and a link where there is an entry
suppress_warnings = ['misc.highlighting_failure']
html_theme = 'pydata_sphinx_theme'
html_theme_options = dict(navbar_align='left', show_nav_level=2, secondary_sidebar_items=['page-toc'], show_prev_next=True, header_links_before_dropdown=7,
    pygments_light_style='a11y-high-contrast-light', pygments_dark_style='a11y-high-contrast-dark')
html_sidebars = {'_nbs/results': [], 'log': [], 'index': [], '_nbs/0_start/01c_book_map': []}       # pages without others below them
html_context = dict(default_mode='auto')
html_static_path, html_js_files, html_css_files, html_favicon = ['_static'], ['hx.js'], ['hx.css'], '_static/icon.svg'
html_show_sourcelink = False
mathjax_path = 'vendor/tex-svg.js'       # from the package sphinx-mathjax-offline, see docs/prep.py; the check at the end misses it if it is not there

WHERE = json.loads((HERE/'_nbs'/'where.json').read_text()) if (HERE/'_nbs'/'where.json').exists() else {}

def docments_fields(app, what, name, obj, options, lines):
    "nbdev's `arg, # what it is` comments become :param: fields; each name leads to the notebook that builds it"
    from fastcore.docments import docments
    if what in ('function', 'class', 'method'):
        try: d = docments(obj.__init__ if isinstance(obj, type) and not is_dataclass(obj) else obj)     # a dataclass has its comments at its fields
        except Exception: d = {}
        out = [f':returns: {v}' if k == 'return' else f':param {k}: {v}' for k, v in d.items() if v and k != 'self']
        if out: lines += ['', *out]
    if name in WHERE: lines += ['', f'Built in :ref:`{WHERE[name][0]} <{WHERE[name][1]}>`.']

def own_signature(app, what, name, obj, options, sig, ret):
    "The metaclass of traitlets hides a widget's own signature"
    if what != 'class' or type(obj).__module__.split('.')[0] != 'traitlets': return
    ps = [p.replace(annotation=p.empty) for k, p in inspect.signature(obj.__init__).parameters.items() if k != 'self']
    return str(inspect.Signature(ps)), ret

def skip_traits(app, what, name, obj, skip, options):
    "Traits of a widget are its wires, not for readers"
    if type(obj).__module__.split('.')[0] == 'traitlets' or isinstance(obj, str): return True

def no_padding():
    "For the sake of line numbers, MyST puts 10000 empty lines per cell of a notebook before each autodoc entry: minutes of work"
    from myst_parser.mocking import MockRSTParser
    parse = MockRSTParser.parse
    MockRSTParser.parse = lambda self, text, document: parse(self, text.lstrip('\n'), document)

def checked(app, error):
    "The finished pages are read once more: links, words for pictures, no other machine"
    if error or app.builder.name != 'html': return
    from check import problems
    from sphinx.errors import SphinxError
    for f in Path(app.outdir).rglob('*.html'):       # of an earlier build, of pages that are gone
        name = f.relative_to(app.outdir).with_suffix('').as_posix()
        if name not in app.env.found_docs | {'genindex', 'search', 'py-modindex'} and not name.startswith('_static/'): f.unlink()
    if found := problems(Path(app.outdir)): raise SphinxError('\n'.join(found[:40]) + f'\n{len(found)} problems in the finished site')

def setup(app):
    no_padding()
    app.connect('autodoc-process-docstring', docments_fields)
    app.connect('autodoc-process-signature', own_signature)
    app.connect('autodoc-skip-member', skip_traits)
    app.connect('build-finished', checked)
