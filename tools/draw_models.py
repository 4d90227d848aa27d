"""Write docs/models.svg, the picture of both models for the README: the drawing of the home page, with colours for light and dark pages.

    python tools/draw_models.py
"""
import re
from pathlib import Path
from hettrans.viz.book import MODELS, draw_model

def picture()->str:
    "Both models side by side as one SVG"
    size = [tuple(map(int, re.search(r'viewBox="0 0 (\d+) (\d+)"', draw_model(m)).groups())) for m in MODELS]
    inner, x = '', 0
    for m, (w, _) in zip(MODELS, size):
        inner += draw_model(m, alone=True).replace('<svg ', f'<svg x="{x}" ', 1).replace(' tabindex="0" role="button"', ''); x += w + 24
    h = max(h for _, h in size)
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {x - 24} {h}" role="img" aria-label="{" and ".join(MODELS)}, from the data at the top to the loss at the bottom">{inner}</svg>\n'

if __name__ == '__main__':
    out = Path(__file__).resolve().parents[1]/'docs'/'models.svg'
    out.write_text(picture(), encoding='utf-8'); print(f'{out.name}: {out.stat().st_size:,} bytes')
