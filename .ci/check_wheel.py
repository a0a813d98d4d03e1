"""A wheel carries no source of the native part, and has what it needs."""

import sys
import zipfile

for name in sys.argv[1:]:
    members = zipfile.ZipFile(name).namelist()
    sources = [m for m in members if m.endswith((".pyx", ".pxd", ".c", ".h", ".o", ".a"))]
    modules = [m for m in members if m.endswith(".so")]
    if sources or not modules or "fastlayer/py.typed" not in members:
        sys.exit(f"{name}: sources {sources}, modules {len(modules)}, py.typed {'fastlayer/py.typed' in members}")
    print(f"{name}: {len(members)} members, {len(modules)} native modules, no sources")
