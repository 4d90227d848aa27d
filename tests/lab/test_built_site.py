"What a reader does on the built site: read, search, turn it dark, hold it like a phone, move every widget. Nothing may ask another machine, nothing may complain"
import functools, gzip, http.server, json, os, threading
from pathlib import Path
import pytest
from conftest import complaints

ROOT = Path(__file__).parents[2]
SITE = ROOT/'docs'/'_build'/'html'

class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *a): pass

@pytest.fixture(scope='module')
def address():
    "The built site on loopback"
    if not (SITE/'index.html').exists(): pytest.skip('no site: make docs builds it')
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Quiet, directory=str(SITE)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}/'
    server.shutdown(); server.server_close()

class Reader:
    "A page of the site and everything that it complained about or asked for"
    def __init__(self, page, address):
        self.page, self.address, self.wrong = page, address, complaints(page, address)
    def open(self, path): self.page.goto(self.address + path, wait_until='load'); return self.page
    def widget(self, path, kind):
        "The widget of a page, drawn"
        pg = self.open(path); pg.locator('.hx-widget').first.wait_for(state='attached')
        pg.evaluate("() => document.querySelectorAll('.hx-widget').forEach(e => e.scrollIntoView())")
        for e in pg.locator('.hx-widget').all(): e.scroll_into_view_if_needed(); pg.wait_for_timeout(150)
        box = pg.locator(kind).first; box.wait_for(); box.scroll_into_view_if_needed()
        return box

@pytest.fixture
def reader(browser, address, request):
    how = getattr(request, 'param', {})
    c = browser.new_context(**{'viewport': dict(width=1300, height=1000), **how}); c.set_default_timeout(15_000)
    r = Reader(c.new_page(), address); yield r
    c.close(); assert r.wrong == [], r.wrong

def says(box, text):
    from playwright.sync_api import expect
    expect(box.locator('.hx-say')).to_contain_text(text)

def picture(box, what='svg'): return box.locator(what).first.evaluate("e => e.tagName == 'CANVAS' ? e.toDataURL() : e.outerHTML")

def notebook(part, name): return f'_nbs/{part}/{name}.html'

def stored(nb, kind):
    "The stored state of a notebook's widget"
    state = json.loads((ROOT/'nbs'/f'{nb}.ipynb').read_text())['metadata']['widgets']['application/vnd.jupyter.widget-state+json']['state']
    return next(m['state'] for m in state.values() if m['state'].get('kind') == kind)

def test_a_complaint_would_be_seen(browser, address):
    "The check of the other tests can fail"
    c = browser.new_context(); pg = c.new_page(); wrong = complaints(pg, address); pg.goto(address + 'index.html'); assert wrong == []
    pg.evaluate("() => { console.error('ouch'); setTimeout(() => { throw new Error('late') }); return fetch('http://localhost:8099/x').catch(() => 0) }"); pg.goto(address + 'nowhere.html'); c.close()
    for said in ('error: ouch', 'exception: late', 'asked http://localhost:8099/x', f'404 {address}nowhere.html'): assert said in wrong, (said, wrong)

def test_home_shows_both_models_and_leads_on(reader):
    pg = reader.open('index.html')
    assert pg.locator('.hx-models svg').count() == 2 and pg.locator('.hx-models [data-box]').count() == 27
    for menu in ('The book', 'The map', 'How to', 'API', 'Results', 'Log'): assert pg.locator('.bd-header .navbar-nav >> text=' + menu).first.is_visible(), menu
    pg.locator('.hx-models [data-box=htfl]').click()
    pg.wait_for_url('**/30_htfl.html', wait_until='domcontentloaded'); assert pg.title().startswith('The Heterogeneous Token Flatten Layer')

def test_a_notebook_page_stands_in_its_place(reader):
    pg = reader.open(notebook('2_attention', '12_time_gaps'))
    card = pg.locator('.hx-card')
    assert 'Part 2, Attention' in card.inner_text() and '10 Attention' in card.inner_text() and '14 Blocks' in card.inner_text()
    pg.wait_for_selector('mjx-container svg', state='attached')                            # formulas, with nobody asked
    assert pg.locator('.cell_output img').count() and all(len(a) > 20 for a in pg.locator('.cell_output img').evaluate_all('es => es.map(e => e.alt)'))
    assert 'def gap_buckets(' in pg.inner_text('main') and pg.locator('.hx-def + .cell').count() == pg.locator('.hx-def').count() > 3      # the code that a page is about is on it, below its names
    pg.locator('.hx-def a', has_text='gap_buckets').first.click()
    assert '/api/nn.timegap.html#hettrans.nn.timegap.gap_buckets' in pg.url
    entry = pg.locator('dt[id="hettrans.nn.timegap.gap_buckets"] + dd')
    assert 'HeterRec Eq. 2' in entry.inner_text() and 'size of the table' in entry.inner_text()
    entry.locator('a', has_text='12 Time gaps').first.click()
    assert '12_time_gaps.html#nb-12-time-gaps' in pg.url

def test_api_index_knows_equations(reader):
    pg = reader.open('_nbs/api/index.html')
    assert pg.locator('h2', has_text='By equation').count() == 1
    assert pg.locator('tr:has-text("HeterRec"):has-text("gap_buckets")').count() >= 1

def test_results_show_every_table_with_its_command(reader):
    pg = reader.open('_nbs/results.html'); text = pg.inner_text('main')
    for f in sorted((ROOT/'benchmarks'/'results').glob('*.csv')): assert f'benchmarks/results/{f.name}' in text, f.name
    assert 'python benchmarks/ablations.py' in text

def test_search_finds_a_page(reader):
    pg = reader.open('search.html?q=quantile+digits')
    pg.wait_for_selector('#search-results li a')
    assert any('Encoding' in t for t in pg.locator('#search-results li a').all_inner_texts())

@pytest.mark.parametrize('reader', [dict(color_scheme='dark')], indirect=True)
def test_dark_mode(reader):
    pg = reader.open('index.html')
    light = lambda sel: pg.locator(sel).first.evaluate("e => { const c = getComputedStyle(e)[e.tagName == 'text' ? 'fill' : 'backgroundColor'].match(/[\\d.]+/g).map(Number); return (c[0] + c[1] + c[2])/3 }")
    assert light('body') < 60 and light('.hx-models svg text') > 150
    box = reader.widget(notebook('2_attention', '12b_gap_explorer'), '.hx-gaps')
    assert light('.hx-gaps') < 60 and light('.hx-gaps svg text') > 130

@pytest.mark.parametrize('reader', [dict(viewport=dict(width=375, height=700), has_touch=True)], indirect=True)
@pytest.mark.parametrize('path', ['index.html', '_nbs/2_attention/12_time_gaps.html', '_nbs/api/nn.timegap.html', '_nbs/results.html', '_nbs/book.html', '_nbs/0_start/01c_book_map.html', '_nbs/2_attention/12b_gap_explorer.html', '_nbs/3_engine/22b_training_curves.html'])
def test_phone_width(reader, path):
    pg = reader.open(path)
    for e in pg.locator('.hx-widget').all(): e.scroll_into_view_if_needed(); pg.wait_for_timeout(200)
    assert pg.evaluate('document.documentElement.scrollWidth') <= 375 + 1                  # the page itself does not scroll sideways
    assert pg.locator('h1').first.is_visible()

HEAVY = ['index.html', *(f'_nbs/{p}.html' for p in ('0_start/01c_book_map', '2_attention/12_time_gaps', '3_engine/22b_training_curves', '5_homer/59c_set_explorer', 'results'))]

@pytest.mark.parametrize('path', HEAVY)
def test_pages_are_light(reader, path):
    "Everything that a page and its widgets ask for, compressed as a server would send it, without plotly"
    got = []; reader.page.on('response', lambda r: got.append(r))
    pg = reader.open(path)
    for e in pg.locator('.hx-widget').all(): e.scroll_into_view_if_needed(); pg.wait_for_timeout(100)
    pg.wait_for_load_state('networkidle')
    weight = {r.url: len(gzip.compress(r.body())) for r in got if r.status == 200 and r.url.startswith('http') and 'plotly' not in r.url}
    assert len(weight) > 3 and sum(weight.values()) < 1_500_000, sorted(weight.items(), key=lambda x: -x[1])[:5]

@pytest.mark.parametrize('path', ['index.html', '_nbs/2_attention/12_time_gaps.html', '_nbs/5_homer/59c_set_explorer.html', '_nbs/api/nn.attention.html'])
def test_first_content_from_disk_within_a_second(browser, address, path):
    "As the browser itself measures it, the best of three; a machine that has much else to do cannot say"
    c, took = browser.new_context(), []; pg = c.new_page()
    while len(took) < 3 and min(took, default=1e9) >= 1_000:
        pg.goto('about:blank'); pg.goto((SITE/path).as_uri(), wait_until='load')
        took.append(pg.evaluate("""() => new Promise(ok => { setTimeout(() => ok(1e9), 15_000);
            new PerformanceObserver(l => { const e = l.getEntriesByName('first-contentful-paint')[0]; e && ok(e.startTime); }).observe({ type: 'paint', buffered: true }); })"""))
    c.close()
    best, load = min(took), os.getloadavg()[0]/os.cpu_count()
    if best >= 1_000 and load > 2: pytest.skip(f'first content after {best:.0f} ms, but {load:.0f} processes wait for each core')
    assert 0 < best < 1_000, took

# -- widgets ------------------------------------------------------------------------------------------------------------------------

def test_map_leads_to_notebook_and_api(reader):
    box = reader.widget(notebook('0_start', '01c_book_map'), '.hx-book'); pg = reader.page
    box.locator('[data-box=gap]').first.click()
    says(box, 'time gaps: how long ago')
    flows = stored('0_start/01c_book_map', 'hx-book')['data']['flows']; second = list(flows)[1]
    box.locator('select').select_option(second); says(box, flows[second]['HeterRec']['gap'][0])
    box.locator('[data-box=cross]').focus(); says(box, flows[second]['HoMer']['cross'][0])          # by keyboard
    api = box.locator('.hx-api').get_attribute('href')
    box.locator('.hx-page').click(); assert pg.url.endswith('/5_homer/54_decoder.html')
    assert api.endswith('api/homer.decoder.html#hettrans.homer.decoder.Decoder')

def test_map_is_in_how_to_read(reader): says(reader.widget(notebook('0_start', '01_how_to_read'), '.hx-book'), 'HTFL')

def test_mask_explorer(reader):
    box = reader.widget(notebook('2_attention', '11b_mask_explorer'), '.hx-explorer'); before = picture(box, 'canvas')
    box.locator('select').select_option('token'); assert picture(box, 'canvas') != before
    box.locator('canvas').press('ArrowDown'); assert 'reads' in box.locator('.hx-tip').inner_text()

def test_gap_explorer_is_the_function(reader):
    from hettrans.viz.gaps import gap_rows
    import torch
    box = reader.widget(notebook('2_attention', '12b_gap_explorer'), '.hx-gaps'); before = picture(box)
    def agrees():
        at = json.loads(box.get_attribute('data-gaps')); table = stored('2_attention/12b_gap_explorer', 'hx-gaps')['data']['tables'][box.get_attribute('data-table')]
        rows = gap_rows(at, torch.tensor(table), 1); heads = len(table)
        assert [int(t) for t in box.locator('.hx-bucket').all_inner_texts()] == [r['bucket'] for r in rows]
        shown = [float(t) for t in box.locator('.hx-weight').all_inner_texts()]
        assert all(abs(a - b) < .0051 for a, b in zip(shown, [w for r in rows for w in r['weight'][:heads]], strict=True))
        return at
    start = agrees()
    dot = box.locator('circle').nth(1); dot.focus()
    for _ in range(4): dot.press('ArrowLeft')
    moved = agrees(); assert moved[1] > 3*start[1] and moved[0] == start[0] and picture(box) != before
    b = dot.bounding_box(); pg = reader.page; pg.mouse.move(b['x'] + b['width']/2, b['y'] + b['height']/2); pg.mouse.down(); pg.mouse.move(b['x'] + 160, b['y'] + 5, steps=4); pg.mouse.up()
    assert agrees()[1] < moved[1]
    box.locator('select').select_option('learned: 9 to 18 hours'); agrees()

def test_token_explorer(reader):
    box = reader.widget(notebook('1_data', '07b_token_explorer'), '.hx-tokens'); items = stored('1_data/07b_token_explorer', 'hx-tokens')['data']['items']
    box.locator('select').select_option('3'); says(box, items[3]['title'])
    assert box.locator('.hx-code').all_inner_texts() == [' '.join(map(str, f['code'])) for f in items[3]['card']]
    box.locator('ol button').first.press('Enter'); says(box, items[items[3]['near'][0]['item']]['title'])

def test_loss_explorer_is_the_function(reader):
    from hettrans.viz.steps import StepExplorer
    box = reader.widget(notebook('4_heterrec', '33b_loss_explorer'), '.hx-steps'); grid = stored('4_heterrec/33b_loss_explorer', 'hx-steps')['data']['grid']
    def agrees():
        at = dict(logits=json.loads(box.get_attribute('data-logits')), margin=box.get_attribute('data-margin'), indicator=box.get_attribute('data-indicator') == 'true', step=0, row=0)
        w = StepExplorer([[grid[k] for k in row] for row in at['logits']]); w.at = at
        shown = [(int(a[5]), int(a.split('behaviour ')[1][0]), 'does not' not in a) for a in box.locator('.hx-cell').evaluate_all("es => es.map(e => e.getAttribute('aria-label'))")]
        assert all(bool(w.active[i - 1][t - 1]) == on for i, t, on in shown) and len(shown) == 15
        return at['logits']
    start = agrees(); cell = box.locator('.hx-cell').nth(7); cell.focus()
    for _ in range(3): cell.press('ArrowDown')
    assert agrees() != start
    box.locator('.hx-more').click(); agrees(); box.locator('select').select_option('4'); agrees()
    box.locator('input[type=checkbox]').uncheck(); agrees(); says(box, 'without the indicator')

def test_attention_explorer(reader):
    box = reader.widget(notebook('4_heterrec', '35b_attention_explorer'), '.hx-attend'); users = stored('4_heterrec/35b_attention_explorer', 'hx-attend')['data']['users']
    before = picture(box, 'canvas'); box.locator('select').nth(2).select_option(index=2); assert picture(box, 'canvas') != before
    says(box, 'head 3'); cv = box.locator('canvas'); cv.focus(); shares = users[next(iter(users))]['shares']['token 1'][2]; says(box, f'{100*shares[0]:.0f}% within the same item')
    start = int(box.get_attribute('data-query')); [cv.press('ArrowUp') for _ in range(10)]
    assert int(box.get_attribute('data-query')) == start - 10
    box.locator('select').nth(1).select_option('item 1'); says(box, 'item 1, head 3: item 1')

def test_set_explorer_is_the_stored_table(reader):
    from hettrans.viz.sets import unpack
    box = reader.widget(notebook('5_homer', '59c_set_explorer'), '.hx-set'); data = stored('5_homer/59c_set_explorer', 'hx-set')['data']; cards = len(data['cards'])
    def agrees():
        o = json.loads(box.get_attribute('data-options')); page = functools.reduce(lambda k, v: k*(data['options'] + 1) + v, o, 0)
        want = [unpack(s['table'])[i*data['options'] + v - 1 if s['alone'] else page*cards + i] if v else None for i, v in enumerate(o) for s in data['series']]
        shown = box.locator('.hx-num').all_inner_texts()
        assert len(shown) == len(want) and all(t == '' if p is None else abs(float(t.split('%')[0]) - 100*p) < .051 for t, p in zip(shown, want))
        return o, shown
    start, before = agrees(); i = next(k for k, v in enumerate(start) if v)
    box.get_by_label(f"{data['cards'][i]['name']} is on the page").uncheck(); gone, after = agrees()
    assert gone[i] == 0 and gone[:i] + gone[i + 1:] == start[:i] + start[i + 1:] and after != before
    says(box, f"{data['cards'][i]['name']} leaves the page. set-wise: "); says(box, 'point-wise: no other card moves')       # a model without set attention cannot see it
    box.get_by_label(f"{data['cards'][i]['name']} is on the page").press('Space'); says(box, 'comes to the page'); agrees()
    price = box.locator('select.hx-price').nth(i); price.select_option('1' if price.input_value() != '1' else '3'); agrees(); says(box, ' instead of ')

def test_attention_map(reader):
    box = reader.widget(notebook('5_homer', '59c_set_explorer'), '.hx-reads'); maps = {m['name']: m for m in stored('5_homer/59c_set_explorer', 'hx-reads')['data']['maps']}
    def agrees(row, col):
        m = maps[box.get_attribute('data-block')]; w = m['w'][int(box.get_attribute('data-head')) - 1][row][col]
        assert (box.get_attribute('data-row'), box.get_attribute('data-col')) == (str(row), str(col))
        says(box, f"{m['rows'][row]} reads {m['cols'][col]} with weight {w:.3f}")
    svg = box.locator('svg'); svg.focus(); svg.press('ArrowRight'); agrees(0, 0); svg.press('ArrowDown'); svg.press('ArrowRight'); agrees(1, 1)
    before = picture(box); box.locator('.hx-head').select_option('2'); assert picture(box) != before; agrees(1, 1)
    other = next(k for k in maps if k != box.get_attribute('data-block')); box.locator('.hx-block').select_option(other); says(box, 'Point at a square')
    m = maps[other]; rect = box.locator('svg rect').nth(len(m['cols'])); rect.hover(); agrees(1, 0)                      # squares are drawn row by row

def test_training_curves_show_the_stored_runs(reader):
    box = reader.widget(notebook('3_engine', '22b_training_curves'), '.hx-curves'); runs = stored('3_engine/22b_training_curves', 'hx-curves')['data']['runs']
    def say(x): return box.page.evaluate('x => String(+x.toPrecision(4))', x)
    def agrees(r, k, metric):
        c = r['columns']; says(box, f"{r['name']}, epoch {k + 1}: training loss {say(c['loss'][k])}, {metric} {say(c[metric][k])}, learning rate {say(c['lr'][k])}")
        assert r['kept'] != k or 'weights are kept' in box.locator('.hx-say').inner_text()
    last = runs[-1]; agrees(last, last['kept'], 'likelihood')                                                           # at first: the kept epoch of the last run
    assert box.locator('.hx-kept').count() == len(runs) and box.locator('.hx-line').count() == 2*len(runs) and box.locator('.hx-dot').count() == 2*sum(r['epochs'] for r in runs)
    svg = box.locator('> svg'); svg.focus(); svg.press('ArrowRight'); agrees(last, last['kept'] + 1, 'likelihood')
    svg.press('End'); agrees(last, last['epochs'] - 1, 'likelihood'); svg.press('ArrowUp'); agrees(runs[-2], last['epochs'] - 1, 'likelihood'); svg.press('Home'); agrees(runs[-2], 0, 'likelihood')
    before = picture(box, '> svg'); box.locator('.hx-metric').select_option('hits'); assert picture(box, '> svg') != before; agrees(runs[-2], 0, 'hits')
    box.locator('input[type=checkbox]').check(); assert 'training loss, log scale' in svg.text_content()
    box.locator('.hx-run').first.press('Enter'); agrees(runs[0], runs[0]['kept'], 'hits'); assert box.locator('.hx-run[aria-pressed=true]').all_inner_texts() == [runs[0]['name']]
    box.locator('summary').press('Enter'); rows = box.locator('tbody tr'); rows.nth(runs[0]['epochs'] - 1).wait_for(); assert rows.count() == runs[0]['epochs']
    assert [r.split('\t')[:3] for r in rows.all_inner_texts()] == [[str(k + 1), say(runs[0]['columns']['loss'][k]), say(runs[0]['columns']['hits'][k])] for k in range(runs[0]['epochs'])]
    dot = box.locator('.hx-dot').nth(4); b = dot.bounding_box(); box.page.mouse.move(b['x'] + b['width']/2, b['y'] + b['height']/2); agrees(runs[0], 4, 'hits')     # by pointer

def test_no_stored_widget_is_large():
    for f in sorted((ROOT/'nbs').glob('[!_.]*/[!_.]*.ipynb')):
        state = json.loads(f.read_text())['metadata'].get('widgets', {}).get('application/vnd.jupyter.widget-state+json', {}).get('state', {})
        for m in state.values(): assert len(json.dumps(m)) < 300_000, (f.name, m['state'].get('kind') or m['state'].get('_anywidget_id'))
