"Read a finished site as a reader's browser would: every link leads somewhere, every picture has words, nothing is fetched from elsewhere"
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

class Reader(HTMLParser):
    "What a page fetches, links to, and can be linked at"
    def __init__(self, text):
        super().__init__(); self.ids, self.links, self.fetched, self.silent, self.depth = set(), [], [], [], 0
        self.feed(text)
    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        self.ids |= {a[k] for k in ('id', 'name') if a.get(k)}
        if tag == 'a' and a.get('href'): self.links.append(a['href'])
        if tag in ('script', 'img', 'iframe', 'source') and a.get('src'): self.fetched.append(a['src'])
        if tag == 'link' and a.get('rel') in ('stylesheet', 'icon', 'preload', 'modulepreload') and a.get('href'): self.fetched.append(a['href'])
        if tag == 'img' and (len(a.get('alt') or '') < 3 or a['alt'].endswith(('.png', '.svg'))): self.silent.append(a.get('src', '?')[:80])
        if tag == 'svg' and a.get('role') == 'img' and not a.get('aria-label') and a.get('aria-hidden') != 'true': self.silent.append('an svg with the role of a picture')
    handle_startendtag = handle_starttag

def problems(site):
    "One line per fault of the site in this folder"
    site = Path(site)
    pages = {f.resolve(): Reader(f.read_text(encoding='utf-8')) for f in site.rglob('*.html') if '_static' not in f.relative_to(site).parts}
    out = []
    for f, p in pages.items():
        name = f.relative_to(site.resolve())
        out += [f'{name}: a picture without words: {x}' for x in p.silent]
        for x in p.fetched:
            u = urlsplit(x)
            if u.scheme in ('data', 'blob'): continue
            if u.netloc: out.append(f'{name}: fetches {x}')
            elif not (f.parent/unquote(u.path)).exists(): out.append(f'{name}: fetches {x}, which is not there')
        for x in dict.fromkeys(p.links):
            u = urlsplit(x)
            if u.scheme or u.netloc or x in ('#', ''): continue
            to = (f.parent/unquote(u.path)).resolve() if u.path else f
            if to.is_dir(): to = to/'index.html'
            if not to.exists(): out.append(f'{name}: broken link {x}')
            elif u.fragment and to in pages and unquote(u.fragment) not in pages[to].ids: out.append(f'{name}: link {x}: no such place on that page')
    return out

if __name__ == '__main__':
    found = problems(sys.argv[1])
    print('\n'.join(found) or 'no problems'); sys.exit(bool(found))
