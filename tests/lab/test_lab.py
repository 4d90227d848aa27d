"What a reader does in JupyterLab: open a notebook, run all of it, move a control"
import hashlib, json, os
import pytest
from conftest import Lab, complaints

def picture(box):
    "The pixels of the drawn mask, as a digest"
    return hashlib.sha1(box.locator('canvas').evaluate('e => e.toDataURL()').encode()).hexdigest()

def test_explorer_follows_slider_and_pointer(nb, tmp_path):
    from playwright.sync_api import expect
    pg = nb.open('2_attention/11b_mask_explorer.ipynb').run_all().page
    assert nb.errors() == []
    box = pg.locator('.jp-Notebook .hx-explorer').first
    box.scroll_into_view_if_needed()
    expect(box).to_have_attribute('data-t', '4')
    before = picture(box)
    box.locator('input.hx-t').press('ArrowRight')                  # items: 4 -> 6, and the length follows
    expect(box).to_have_attribute('data-t', '6')
    expect(box).to_have_attribute('data-length', '6')
    assert picture(box) != before
    cv, tip = box.locator('canvas'), box.locator('.hx-tip')
    side = cv.bounding_box()['width']/12                           # 6 items of 2 tokens
    cv.hover(position=dict(x=.5*side, y=2.5*side))                 # row: first token of item 1, column: first token of item 0
    expect(tip).to_have_text('brand of item 1 reads brand of item 0: pattern 2, same feature across items')
    cv.hover(position=dict(x=2.5*side, y=.5*side))
    expect(tip).to_have_text('brand of item 0 may not read brand of item 1')
    drawn = picture(box)
    box.locator('input.hx-length').press('ArrowLeft')              # the last item becomes padding
    expect(box).to_have_attribute('data-length', '5')
    assert picture(box) != drawn
    cv.hover(position=dict(x=.5*side, y=11.5*side))
    expect(tip).to_have_text('category of item 5 may not read brand of item 0: item 5 is padding')
    pg.screenshot(path=tmp_path/'explorer.png')
    box.locator('select').select_option('token')                   # a choice made in the page is the value of the trait in the kernel
    expect(box).to_have_attribute('data-mask', 'token')
    assert nb.ask('print(ex.mask, ex.t, ex.length)') == 'token 6 5'

def test_make_lab_opens_the_first_notebook_and_its_links_lead_through_the_book(browser, tmp_path):
    lab = Lab(tmp_path, lambda flags: ['make', 'lab', f"LAB_FLAGS={' '.join(flags)} --FileCheckpoints.checkpoint_dir={tmp_path/'checkpoints'}"])
    here = lambda path: f"() => {{ const w = window.jupyterapp?.shell.currentWidget; return w?.context?.path === '{path}' && w.context.isReady }}"
    try:
        pg = browser.new_page(); wrong = complaints(pg, lab.url, warnings=False)
        pg.goto(f'{lab.url}/?token={lab.token}', wait_until='domcontentloaded')
        pg.wait_for_function(here('nbs/0_start/00_quickstart.ipynb'), timeout=60_000)
        pg.locator('.jp-Notebook a', has_text='public datasets').first.click()
        pg.wait_for_function(here('nbs/1_data/05_public_datasets.ipynb'), timeout=60_000)
        pg.close(); assert wrong == [], wrong
    finally: lab.close()

def test_an_error_would_be_seen(nb, lab):
    "The check of the other tests can fail"
    cells = [dict(cell_type='code', id=f'c{i}', metadata={}, source=s, outputs=[], execution_count=None) for i, s in enumerate(('1 + 1', '1/0', '2 + 2'))]
    spec = dict(name='python3', display_name='python3', language='python')
    (lab.tmp/'root'/'nbs'/'broken.ipynb').write_text(json.dumps(dict(cells=cells, metadata=dict(kernelspec=spec), nbformat=4, nbformat_minor=5)))
    assert nb.open('broken.ipynb').run_all().errors() == ['cell 1: ZeroDivisionError: division by zero']

# notebook, widget, what a reader does, the name in the kernel, the choice that moves
WIDGETS = [('0_start/01b_widgets', '.hx-powers', lambda b: b.locator('input').press('ArrowRight'), 'powers', 'k'), ('0_start/01c_book_map', '.hx-book', lambda b: b.locator('[data-box=gap]').first.press('Enter'), 'book', 'part'),
           ('1_data/07b_token_explorer', '.hx-tokens', lambda b: b.locator('select').select_option('3'), 'explorer', 'item'), ('2_attention/12b_gap_explorer', '.hx-gaps', lambda b: b.locator('circle').first.press('ArrowLeft'), 'explorer', 'gaps'),
           ('4_heterrec/33b_loss_explorer', '.hx-steps', lambda b: b.locator('.hx-less').click(), 'explorer', 'logits'), ('4_heterrec/35b_attention_explorer', '.hx-attend', lambda b: b.locator('canvas').press('ArrowUp'), 'explorer', 'query'),
           ('5_homer/59c_set_explorer', '.hx-set', lambda b: b.locator('input[type=checkbox]').first.click(), 'explorer', 'options')]

@pytest.mark.parametrize('name, kind, act, var, key', WIDGETS, ids=[w[1] for w in WIDGETS])
def test_widget_notebook_runs_and_kernel_and_page_agree(nb, name, kind, act, var, key):
    pg = nb.open(f'{name}.ipynb').run_all(240).page
    assert nb.errors() == []
    box = pg.locator(f'.jp-Notebook {kind}').last; box.scroll_into_view_if_needed(); box.wait_for()
    before = nb.ask(f'import json; print(json.dumps({var}.at[{key!r}]))'); act(box)
    pg.wait_for_timeout(500); after = nb.ask(f'import json; print(json.dumps({var}.at[{key!r}]))')
    shown = box.get_attribute(f'data-{key}')
    assert after != before and (json.loads(after) == shown or json.loads(after) == json.loads(shown))

def test_curves_grow_while_the_training_cell_runs(nb):
    "The picture gets points while the kernel is at work, keeps the reader's place, and ends as the kernel has it"
    pg = nb.open('3_engine/22b_training_curves.ipynb').run_all(240).page
    assert nb.errors() == []
    box = pg.locator('.jp-Notebook .hx-curves').last; box.scroll_into_view_if_needed(); svg = box.locator('> svg')
    assert int(box.get_attribute('data-points')) == int(nb.ask("print(sum(len(r['steps']['x']) + r['epochs'] for r in curves.data['runs']))")) > 300
    pg.evaluate("""() => { const box = [...document.querySelectorAll('.jp-Notebook .hx-curves')].at(-1), kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel; window.seen = [];
        new MutationObserver(() => { const n = +box.dataset.points; if (n != window.seen.at(-1)?.n) window.seen.push({ n, status: kernel.status, now: box.querySelector('.hx-now').textContent }); }).observe(box, { attributes: true }); }""")
    slow = """import time
def slowly(epoch):
    def wait(make): time.sleep(.1); return make()
    return [lambda m=m: wait(m) for m in epoch_batches(epoch)]
_ = teach('slow', .1, epochs=4, batches=slowly, watch=curves)"""
    pg.evaluate("code => { window.slow = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.requestExecute({ code }).done }", slow)
    pg.wait_for_function("() => window.seen.some(x => x.now.startsWith('slow: epoch 2 of 4'))", timeout=60_000)
    svg.focus(); svg.press('Home'); svg.press('ArrowUp'); svg.press('ArrowDown')                   # up to another run and back, at the first epoch
    pg.evaluate('() => window.slow')
    seen = pg.evaluate('() => window.seen'); live = [x for x in seen if x['status'] == 'busy']
    assert len(live) >= 8 and all(a['n'] < b['n'] for a, b in zip(live, live[1:])), seen           # some three a second for eight seconds
    assert len({x['now'].split(',')[0] for x in live if x['now'].startswith('slow: epoch')}) >= 4
    pg.wait_for_function("() => [...document.querySelectorAll('.jp-Notebook .hx-curves')].at(-1).querySelector('.hx-now').hidden")
    assert 'slow, epoch 1: training loss' in box.locator('.hx-say').inner_text() and pg.evaluate('document.activeElement.tagName') == 'svg'
    assert nb.ask("print(curves.at['run'], curves.at['epoch'], *[len(r['steps']['x']) + r['epochs'] for r in curves.data['runs'][-1:]])") == 'slow 1 84'
    assert int(box.get_attribute('data-points')) == seen[-1]['n'] == int(nb.ask("print(sum(len(r['steps']['x']) + r['epochs'] for r in curves.data['runs']))"))

def test_a_kernel_restarts_cleanly(nb):
    nb.open('0_start/01b_widgets.ipynb').run_all()
    nb.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()")
    nb.page.evaluate("() => { window.jupyterapp.commands.execute('notebook:clear-all-cell-outputs') }")
    assert nb.run_all().errors() == [] and nb.ask('print(powers.at["k"])') == '5'

if os.environ.get('LAB_ALL'):                                      # slow, and nbval runs every notebook anyway: asked for by LAB_ALL=1
    @pytest.mark.parametrize('name', ['0_start/00_quickstart', '3_engine/22_training_loop'])
    def test_notebook_runs_without_error(nb, name):
        assert nb.open(f'{name}.ipynb').run_all(240).errors() == []
