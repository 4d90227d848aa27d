"settings.ini mirrors pyproject.toml for readers and tools of nbdev 2; it must not drift"
import configparser, tomllib
from pathlib import Path
import hettrans

ROOT = Path(__file__).parents[1]
ini = configparser.ConfigParser(); ini.read(ROOT/'settings.ini'); ini = ini['DEFAULT']
pyproject = tomllib.loads((ROOT/'pyproject.toml').read_text())
project, nbdev = pyproject['project'], pyproject['tool']['nbdev']

def test_name_version_and_python():
    assert ini['lib_name'] == project['name'] and ini['version'] == hettrans.__version__ and 'version' in project['dynamic']
    assert '>=' + ini['min_python'] == project['requires-python'].split(',')[0]

def test_words():
    assert ini['description'] == project['description'] and ini['keywords'].split() == project['keywords']
    assert (ini['author'], ini['author_email']) == (project['authors'][0]['name'], project['authors'][0]['email'])
    assert ini['license'] == 'apache2' and project['license'] == 'Apache-2.0'

def test_folders_and_what_cleaning_keeps():
    assert ini['nbs_path'] == nbdev.get('nbs_path', 'nbs') and ini['lib_path'] == nbdev.get('lib_path', project['name'])
    assert ini['allowed_cell_metadata_keys'].split() == nbdev['allowed_cell_metadata_keys']

def test_addresses():
    assert ini['git_url'] == project['urls']['Repository'] and ini['git_url'].endswith(f"/{ini['user']}/{ini['repo']}")

def test_nbdev2_leaves_pyproject_alone(): assert ini['update_pyproject'] == 'False'

def test_pins_fit_the_ranges():
    "constraints.txt pins each direct dependency, inside the range that pyproject.toml states"
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name
    pins = dict(l.split('==') for l in (ROOT/'constraints.txt').read_text().split('\n') if l and not l.startswith('#'))
    asked = project['dependencies'] + [r for rs in project['optional-dependencies'].values() for r in rs]
    rs = [r for r in map(Requirement, asked) if r.name != 'hettrans']
    assert len(rs) > 20
    for r in rs: assert pins[canonicalize_name(r.name)] in r.specifier, r
    assert not [v for v in pins.values() if '+' in v], 'a local version (+cpu) exists on no index'
