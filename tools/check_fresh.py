"""Is what is committed what the tools make? Run `nbdev-export` or `nbdev-clean` and show what it changed.

In a git checkout the result is compared with the last commit, so that a forgotten `git add` shows as well;
elsewhere (an unpacked archive) with the files as they were before. Prints the difference and exits with 1 if there is any.
"""
import argparse, difflib, re, subprocess, sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
JOBS = dict(export=('nbdev-export', ['hettrans', 'pyproject.toml', 'settings.ini'], 'make notebooks, or edit the notebook and not the module; then commit both'),
            clean=('nbdev-clean', ['nbs'], 'commit the cleaned notebooks'))

def git(*args): return subprocess.run(['git', '-c', 'safe.directory=*', '-c', 'core.quotepath=off', *args], cwd=ROOT, capture_output=True, text=True)

def snapshot(paths):
    "Text of every file below `paths`, by name"
    files = [f for p in paths for f in ([ROOT/p] if (ROOT/p).is_file() else sorted((ROOT/p).rglob('*')))]
    return {str(f.relative_to(ROOT)): f.read_text(encoding='utf-8') for f in files if f.suffix in ('.py', '.ipynb', '.toml', '.ini') and '.ipynb_checkpoints' not in f.parts}

def in_git():
    "Is the project itself a git checkout with a commit (and not merely a folder inside somebody else's)?"
    try: top = git('rev-parse', '--show-toplevel')
    except FileNotFoundError: return False
    return top.returncode == 0 and Path(top.stdout.strip()).resolve() == ROOT and git('rev-parse', '-q', '--verify', 'HEAD').returncode == 0

def changes(paths, before):
    "What differs from the commit, or from `before` outside git, as text; empty when nothing does"
    if before is None:
        new = [l for l in git('status', '--porcelain', '--untracked-files=all', '--', *paths).stdout.splitlines() if l.startswith('??')]
        return git('diff', '--no-ext-diff', '--no-color', 'HEAD', '--', *paths).stdout + '\n'.join(['not committed: ' + l[3:] for l in new])
    after, out = snapshot(paths), []
    for k in sorted(before.keys() | after.keys()):
        out += difflib.unified_diff(before.get(k, '').splitlines(True), after.get(k, '').splitlines(True), k, k)
    return ''.join(out)

def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('job', choices=JOBS)
    tool, paths, cure = JOBS[ap.parse_args().job]
    before = None if in_git() else snapshot(paths)
    subprocess.run([Path(sys.executable).parent/tool], cwd=ROOT, check=True)
    if diff := changes(paths, before):
        head, files = diff[:6_000], re.findall(r'^(?:\+\+\+ (?:b/)?|not committed: )(?!/dev/null)(\S.*?)\s*$', diff, re.M)
        print(head + f'\n... and {len(diff) - len(head):,} characters more' * (len(diff) > len(head)))
        print('\nDiffer: ' + ', '.join(dict.fromkeys(files)))
        print(f'{tool} leaves these files different from what is committed: {cure}.'); return 1
    print(f'{tool}: nothing changed'); return 0

if __name__ == '__main__': sys.exit(main())
