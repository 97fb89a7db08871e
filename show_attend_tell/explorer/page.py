"""One page with all of its scripts, styles and data: an export, or a notebook's output."""

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

STATIC = Path(__file__).parent / "static"

_IMPORT = re.compile(r'^import \{.*?\} from "\./([\w.]+)";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(async )?(function|const|class|let) )", re.MULTILINE)
_STYLE = re.compile(r'<link rel="stylesheet" href="[^"]*?([\w.]+\.css)">')
_SCRIPT = re.compile(r'<script( type="module"| defer)* src="[^"]*?([\w.]+\.js)"( defer)?></script>')


def one_file(data: Mapping[str, Any]) -> str:
    """The explorer's page as one HTML file, which loads nothing and sends no requests.

    Its Content-Security-Policy names the digests of its own scripts and styles and allows no
    others.

    Args:
      data: what `api.js` answers from; see `export`.
    """
    digests: dict[str, list[str]] = {"script": [], "style": []}

    def inline(kind: str, text: str, attributes: str = "") -> str:
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        digests[kind].append(f"'sha256-{digest}'")
        return f"<{kind}{attributes}>{text}</{kind}>"

    def script(found: re.Match[str]) -> str:
        name = found[2]
        if "module" in found[0]:
            return inline("script", modules(name), ' type="module"')
        return inline("script", _read(name))

    text = (STATIC / "page.html").read_text(encoding="utf-8")
    text = _STYLE.sub(lambda found: inline("style", _read(found[1])), text)
    text = _SCRIPT.sub(script, text)
    policy = (
        f"default-src 'none'; script-src {' '.join(digests['script'])}; "
        f"style-src {' '.join(digests['style'])}; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )
    head = f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
    # In a script "<" could begin its end; in JSON it may be written as an escape.
    content = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    block = f'<script type="application/json" id="data">{content}</script>\n'
    text = text.replace("<head>\n", f"<head>\n{head}", 1)
    return text.replace("</head>", f"{block}</head>", 1)


def frame(page: str, title: str, height: int) -> str:
    """A page inside of another, where it can reach nothing else; `height` is in pixels."""
    return (
        f'<iframe srcdoc="{html.escape(page)}" sandbox="allow-scripts" '
        f'title="{html.escape(title)}" '
        f'style="width: 100%; height: {height}px; border: 0"></iframe>'
    )


def modules(entry: str) -> str:
    """A module and all that it imports as one script: each after those that it needs."""
    done: dict[str, str] = {}

    def add(name: str) -> None:
        if name in done:
            return
        text = _read(name)
        done[name] = ""  # so that a circle ends
        for needed in _IMPORT.findall(text):
            add(needed)
        del done[name]
        done[name] = _EXPORT.sub("", _IMPORT.sub("", text))

    add(entry)
    return "\n".join(done.values())


def _read(name: str) -> str:
    text = (STATIC / name).read_text(encoding="utf-8")
    assert "</script" not in text and "</style" not in text, name
    return text
