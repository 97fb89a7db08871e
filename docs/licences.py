"""Writes the page of the licences of all locked packages, from what they say about themselves.

.venv/bin/python docs/licences.py           writes docs/reference/licences.md
.venv/bin/python docs/licences.py --check   fails if a package has a licence that is not known
                                            to go with the project's own
"""

import re
import sys
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reference" / "licences.md"
LOCKS = ("requirements.lock", "requirements-dev.lock")
# What metadata, classifiers and texts call a licence, and its SPDX name; the first that fits.
KNOWN = (
    (r"AGPL|Affero", "AGPL"),
    (r"LGPL|Lesser General", "LGPL"),
    (r"GPL|General Public", "GPL"),
    (r"MPL[- ]?2|Mozilla Public License 2", "MPL-2.0"),
    (r"Apache", "Apache-2.0"),
    (r"MIT-CMU|HPND", "MIT-CMU"),
    (r"\bMIT\b|Permission is hereby granted, free of charge", "MIT"),
    (r"BSD-2|2-Clause|FreeBSD", "BSD-2-Clause"),
    (r"BSD|Kiwi license|Redistribution and use in source and binary forms", "BSD-3-Clause"),
    (r"PSF|Python Software Foundation|agreement for matplotlib", "PSF-2.0"),
    (r"\bISC\b", "ISC"),
    (r"Unlicense|CC0|public domain", "CC0-1.0"),
)
# Licences under which an Apache-2.0 program may need a package. MPL-2.0 binds changes of the
# package's own files only. LGPL and GPL would need a closer look.
ACCEPTED = {
    *("Apache-2.0", "MIT", "MIT-CMU", "BSD-2-Clause", "BSD-3-Clause", "PSF-2.0", "ISC", "MPL-2.0"),
    *("CC0-1.0", "0BSD", "Zlib", "CNRI-Python"),
}
# Of a text, how many characters say whose it is: further on, some list what they contain.
START = 600
ABSENT = "needed on other systems only"  # where this page is made, they are not installed
UNKNOWN = "unknown"
# Packages that state none, or only a part: what they hold was looked at.
STATED = {
    "pycocoevalcap": "BSD-2-Clause",
    "axe-playwright-python": "MIT",
    "nest-asyncio": "BSD-2-Clause",
}
NOTE = """\
pycocoevalcap contains files of other projects: METEOR 1.5 (LGPL-2.1), of which the program reads
the tables of words, and the Java programs of Stanford CoreNLP 3.4.1 (GPL) and SPICE, which it never
runs. They come with that package from the index. The project's own distributions contain none of
them.
"""


def locked(lock: str) -> list[str]:
    """The names of the packages of a lock, in its order."""
    text = (ROOT / lock).read_text(encoding="utf-8")
    return re.findall(r"^([A-Za-z0-9._-]+)==", text, re.MULTILINE)


def licence_of(name: str) -> str:
    """The SPDX expression of an installed package's licence, `ABSENT` or `UNKNOWN`."""
    if name in STATED:
        return STATED[name]
    try:
        found = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return ABSENT
    about = found.metadata
    expression = about.get("License-Expression")
    if expression:
        return expression
    texts = [c for c in about.get_all("Classifier") or () if c.startswith("License ::")]
    texts.append(about.get("License") or "")
    files = [f for f in found.files or () if re.match(r"(LICEN[CS]E|COPYING)", f.name, re.I)]
    texts += [str(f.read_text()) for f in files if ".dist-info" in str(f)]
    for text in texts:
        for pattern, spdx in KNOWN:
            if re.search(pattern, text[:START]):
                return spdx
    return UNKNOWN


def accepted(expression: str) -> bool:
    """Whether all parts of an expression are accepted, of alternatives one."""
    if expression == ABSENT:
        return True
    ways = re.split(r"\s+OR\s+", expression.strip("()"))
    return any(set(re.split(r"\s+AND\s+", way.strip("()"))) <= ACCEPTED for way in ways)


def table(names: list[str]) -> str:
    """Packages by licence, as Markdown."""
    by_licence: dict[str, list[str]] = {}
    for name in names:
        by_licence.setdefault(licence_of(name), []).append(name)
    rows = (f"| {key} | {', '.join(by_licence[key])} |" for key in sorted(by_licence))
    return "\n".join(["| licence | packages |", "|---|---|", *rows])


def page() -> str:
    """The whole page."""
    needed = locked(LOCKS[0])
    tools = [name for name in locked(LOCKS[1]) if name not in needed]
    return f"""# Licences

The project is under Apache-2.0. These are the licences of the packages that it needs, as they state
them. `docs/licences.py` writes this page from the locks; CI fails if a package's licence is not
known to go with the project's.

## To run it

{table(needed)}

{NOTE}
The extra `cuda` adds packages of NVIDIA under NVIDIA's own terms. They are in no lock.

## To work on it

{table(tools)}
"""


def main() -> int:
    wrong = [
        f"{name}: {licence_of(name)}"
        for lock in LOCKS
        for name in locked(lock)
        if not accepted(licence_of(name))
    ]
    for line in dict.fromkeys(wrong):
        print(line, file=sys.stderr)
    if "--check" not in sys.argv:
        PAGE.write_text(page(), encoding="utf-8")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
