"""Find a Chromium for the browser tests, or install one where that needs neither a password nor a question.

    python tests/lab/browser.py            # prints its path; without one it says why, and exits with 1
    python tests/lab/browser.py --install  # on Linux as root, asks apt-get for the package `chromium` first

The variable CHROME names another browser. Only the standard library is needed.
"""
import os, platform, shutil, subprocess, sys

NAMES = 'chromium', 'google-chrome', 'google-chrome-stable', 'chromium-browser'
APT = 'apt-get -qq -o Acquire::http::Timeout=15 -o Acquire::https::Timeout=15 -o Acquire::Retries=1 -o DPkg::Lock::Timeout=60'.split()

def answers(path):
    "Does it say its version? What only stands for a browser that is yet to be installed does not"
    try: return subprocess.run([path, '--version'], capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired): return False

def find():
    "(path, '') of a browser, or (None, why there is none)"
    if named := os.environ.get('CHROME'): return (named, '') if answers(named) else (None, f'CHROME={named} is no browser that starts')
    path = next((p for n in NAMES if (p := shutil.which(n)) and answers(p)), None)
    return (path, '') if path else (None, f'none of {", ".join(NAMES)} is installed (the variable CHROME names another)')

def why_not():
    "Why the system's packages are left alone, or ''"
    if platform.system() != 'Linux' or not shutil.which('apt-get'): return 'there is no apt-get here'
    if os.geteuid(): return 'apt-get would need a password'
    return ''

def apt(*words, limit=240):
    "Did apt-get do it in time? What it said last, otherwise"
    try: r = subprocess.run([*APT, *words], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=limit, env=os.environ | {'DEBIAN_FRONTEND': 'noninteractive'})
    except subprocess.TimeoutExpired: return f'apt-get took more than {limit} s'
    return '' if r.returncode == 0 else 'apt-get: ' + ((r.stderr or r.stdout).strip().splitlines() or ['failed'])[-1]

def install():
    "Install the package `chromium`; (path, '') or (None, why not)"
    words = 'install', '-y', '--no-install-recommends', 'chromium'
    if failed := apt(*words): failed = apt('update', limit=90) or apt(*words)          # a bare image has no lists yet
    return (None, failed) if failed else find()

def main(argv):
    path, why = find()
    if not path and '--install' in argv and not os.environ.get('CHROME'):
        left = why_not()
        if left: why = f'{why}, and {left}'
        else:
            print('Installing chromium with apt-get (once)', file=sys.stderr)
            path, why = install()
    print(path or why, file=sys.stdout if path else sys.stderr)
    return 0 if path else 1

if __name__ == '__main__': sys.exit(main(sys.argv[1:]))
