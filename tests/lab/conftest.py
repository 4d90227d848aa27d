"Runs JupyterLab on loopback and drives it with headless Chromium. Without playwright or a browser its tests are skipped with the reason"
import json, os, secrets, shutil, socket, subprocess, sys, time, urllib.request
from pathlib import Path
import pytest
sys.path.insert(0, str(Path(__file__).parent))
import browser as chromium

ROOT = Path(__file__).parents[2]
FLAGS = '--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync'.split()
SETTINGS = {'notebook-extension/tracker': {'windowingMode': 'none'},              # keep every cell in the DOM
            'apputils-extension/notification': {'fetchNews': 'false', 'checkForUpdates': False, 'doNotDisturbMode': True},
            'docmanager-extension/plugin': {'autosave': False}}

def free_port():
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); return s.getsockname()[1]

class Lab:
    "A server of its own: random port and token, private folders, a copy of the notebooks; or what `command` starts"
    def __init__(self, tmp, command=None):
        self.port, self.token, self.tmp = free_port(), secrets.token_hex(16), tmp
        self.url = f'http://127.0.0.1:{self.port}'
        for name, d in SETTINGS.items():
            f = tmp/'settings'/'@jupyterlab'/f'{name}.jupyterlab-settings'
            f.parent.mkdir(parents=True, exist_ok=True); f.write_text(json.dumps(d))
        if command is None:
            for part in ('nbs', 'docs'): shutil.copytree(ROOT/part, tmp/'root'/part, ignore=shutil.ignore_patterns('.*', '_*'))
            command = lambda flags: [sys.executable, '-m', 'jupyterlab', *flags, f'--ServerApp.root_dir={tmp/"root"}']
        env = os.environ | dict(JUPYTERLAB_SETTINGS_DIR=str(tmp/'settings'), JUPYTERLAB_WORKSPACES_DIR=str(tmp/'ws'), JUPYTER_CONFIG_DIR=str(tmp/'cfg'),
            JUPYTER_DATA_DIR=str(tmp/'data'), JUPYTER_RUNTIME_DIR=str(tmp/'run'), OMP_NUM_THREADS=os.environ.get('OMP_NUM_THREADS', '1'),
            HF_HUB_OFFLINE='1', TOKENIZERS_PARALLELISM='false')
        self.log = open(tmp/'lab.log', 'w')
        self.proc = subprocess.Popen(command(['--no-browser', '--allow-root', '--ip=127.0.0.1', f'--port={self.port}', '--ServerApp.port_retries=0',
            f'--IdentityProvider.token={self.token}', '--expose-app-in-browser', '--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate',
            '--LabApp.news_url=None']), cwd=ROOT, env=env, stdout=self.log, stderr=self.log)
        for _ in range(240):
            try: self.api('status'); break
            except OSError:
                if self.proc.poll() is not None: break
                time.sleep(.25)
        else: self.proc.terminate()
        if self.proc.poll() is not None: raise RuntimeError((tmp/'lab.log').read_text())
    def api(self, path, method='GET'):
        r = urllib.request.Request(f'{self.url}/api/{path}', method=method, headers={'Authorization': f'token {self.token}'})
        with urllib.request.urlopen(r, timeout=10) as f: s = f.read()
        return json.loads(s) if s else None
    def close(self):
        try:
            for k in self.api('kernels'): self.api(f"kernels/{k['id']}", 'DELETE')
        finally: self.proc.terminate(); self.proc.wait(20); self.log.close()

READY = """() => { const w = window.jupyterapp.shell.currentWidget;
    return w.sessionContext.session.kernel.status === 'idle' && [...w.content.model.cells].every(c => c.type !== 'code' || !c.sharedModel.source.trim() || c.executionState !== 'running' && c.executionCount != null) }"""
ERRORS = """() => [...window.jupyterapp.shell.currentWidget.content.model.cells].flatMap((c, i) => c.type !== 'code' ? [] :
    c.sharedModel.getOutputs().filter(o => o.output_type === 'error').map(o => `cell ${i}: ${o.ename}: ${o.evalue}`))"""

class Page:
    "A notebook open in JupyterLab"
    def __init__(self, lab, page): self.lab, self.page = lab, page
    def open(self, nb):
        for s in self.lab.api('sessions'): self.lab.api(f"sessions/{s['id']}", 'DELETE')      # a fresh kernel each time
        self.page.goto(f'{self.lab.url}/lab/tree/nbs/{nb}?token={self.lab.token}&reset', wait_until='domcontentloaded')
        self.page.wait_for_function("() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'", timeout=60_000)
        return self
    def run_all(self, timeout=120):
        self.page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")     # a run that fails ends early: errors() says where
        self.page.wait_for_function(f"() => ({READY})() || ({ERRORS})().length", timeout=timeout*1000)
        return self
    def errors(self): return self.page.evaluate(ERRORS)

    def ask(self, code):
        "What `code` prints in the notebook's kernel"
        return self.page.evaluate("""async code => { const k = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel, f = k.requestExecute({ code }); let s = '';
            f.onIOPub = m => { if (m.header.msg_type === 'stream') s += m.content.text }; await f.done; return s.trim(); }""", code)

@pytest.fixture(scope='session')
def browser():
    try: from playwright.sync_api import sync_playwright
    except ImportError: pytest.skip('playwright is not installed: make check-browser does it')
    path, why = chromium.find()
    if not path: pytest.skip(f'no browser: {why}')
    with sync_playwright() as p:
        b = p.chromium.launch(executable_path=path, args=FLAGS); yield b; b.close()

def complaints(page, home, warnings=True):
    "A list that fills with what a page complains about, and with what it asks of anybody but `home`"
    wrong, here = [], (home, home.replace('http', 'ws', 1), 'data:', 'blob:', 'about:')
    page.on('console', lambda m: m.type in ('error', 'warning')[:1 + warnings] and wrong.append(f'{m.type}: {m.text}'))
    page.on('pageerror', lambda e: wrong.append(f'exception: {e}'))
    page.on('request', lambda r: r.url.startswith(here) or wrong.append(f'asked {r.url}'))
    page.on('websocket', lambda w: w.url.startswith(here) or wrong.append(f'asked {w.url}'))
    page.on('response', lambda r: r.status >= 400 and wrong.append(f'{r.status} {r.url}'))
    return wrong

@pytest.fixture(scope='session')
def lab(browser, tmp_path_factory):
    l = Lab(tmp_path_factory.mktemp('lab')); yield l; l.close()

@pytest.fixture
def nb(lab, browser):
    c = browser.new_context(viewport=dict(width=1300, height=1000)); c.set_default_timeout(30_000)
    page = c.new_page(); wrong = complaints(page, lab.url, warnings=False)       # JupyterLab warns of its own plugins when a machine is slow
    yield Page(lab, page)
    c.close(); assert wrong == [], wrong
