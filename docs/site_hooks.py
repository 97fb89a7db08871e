"""MkDocs hooks: pages that are generated from the code and from notebooks, and formulas.

Verbs come from the command line's parser, settings from `show_attend_tell.settings`, the API pages
from the modules on disk and the notebooks' pages from their cells. None of them can go out of date,
for none is kept. Formulas are written in TeX between dollars; the build turns them into MathML, so
no page needs a script.
"""

import argparse
import dataclasses
import html
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "show_attend_tell"
NOTEBOOKS = ROOT / "docs" / "notebooks"

# Packages in their order: each imports only from those above it.
ORDER = (
    "base",
    "data",
    "data.builders",
    "models",
    "models.encoders",
    "objectives",
    "runs",
    "inference",
    "evaluation",
    "explorer",
    "reports",
    "integrations",
    "training",
    "pretrained",
    "cli",
)
_PUBLIC = ("pretrained", "sharing")  # modules that share a page of their own
ABOUT = {
    "base": "Errors, files, devices, settings and configs: what every other package may use.",
    "data": "Data sets, vocabularies, images and batches. Knows no model.",
    "data.builders": "One builder for each data set.",
    "models": "Attention, the decoder, its recurrence and its search. Knows no loss.",
    "models.encoders": "Networks that turn an image into annotation vectors.",
    "objectives": "What is optimised: likelihood, REINFORCE and its kin, rewards.",
    "runs": "A run on disk: building its model, checkpoints, records.",
    "inference": "Captions, translations and attention maps of a trained run.",
    "evaluation": "Scores of captions and translations, and the noise of gradients.",
    "explorer": "The application in the browser: questions to runs, and what it shows.",
    "reports": "Comparisons and their pages.",
    "integrations": "Trackers: Weights & Biases, trackio and MLflow.",
    "training": "Sessions, the loop, the step, the optimizer.",
    "pretrained": "The interface for notebooks, and models to hand on.",
    "cli": "The command line.",
}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fills the navigation's API section; makes the package importable, installed or not."""
    sys.path.insert(0, str(ROOT))  # here, for MkDocs restores the path after loading a hook
    for section in config.nav:
        for item in section.get("Reference", []):
            if isinstance(item, dict) and "API" in item:
                item["API"] = [{name: f"reference/api/{name}.md"} for name in _groups()]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the generated pages."""
    pages = {"reference/verbs.md": verbs(), "reference/settings.md": settings()}
    for name, modules in _groups().items():
        pages[f"reference/api/{name}.md"] = api(name, modules)
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        pages[f"notebooks/{path.stem}.md"] = notebook(path)
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, **_) -> str:
    """The list of notebooks names their files, which a checkout has; here it leads to pages."""
    listing = page.file.src_uri == "notebooks/index.md"
    return markdown.replace(".ipynb)", ".md)") if listing else markdown


def on_page_content(content: str, page: Page, **_) -> str:
    """TeX that pymdownx.arithmatex has marked becomes MathML."""
    inline = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
    block = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.DOTALL)
    content = inline.sub(lambda m: convert(html.unescape(m[1])), content)
    return block.sub(lambda m: convert(html.unescape(m[1]), display="block"), content)


def _groups() -> dict[str, list[str]]:
    """The dotted modules of each package that have something to say, packages in order."""
    groups: dict[str, list[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[-1] == "__main__" or (parts[-1] == "__init__" and _is_empty(path)):
            continue
        folder = parts[:-1]
        group = ".".join(folder) or ("base" if parts[0] not in _PUBLIC else "pretrained")
        names = folder if parts[-1] == "__init__" else parts
        groups.setdefault(group, []).append(".".join(("show_attend_tell", *names)))
    order = {name: k for k, name in enumerate(ORDER)}
    return dict(sorted(groups.items(), key=lambda entry: order.get(entry[0], len(ORDER))))


def _is_empty(path: Path) -> bool:
    """Whether a package's __init__ holds nothing but its docstring."""
    return "def " not in (text := path.read_text()) and "import " not in text


def api(name: str, modules: list[str]) -> str:
    """The page of one package."""
    title = "show_attend_tell" if name == "base" else f"show_attend_tell.{name}"
    parts = [f"# `{title}`\n\n{ABOUT.get(name, '')}\n"]
    parts += [f"\n## `{module}`\n\n::: {module}\n    options:\n{_BARE}" for module in modules]
    return "".join(parts)


_BARE = "      show_root_heading: false\n      show_root_toc_entry: false\n"


def notebook(path: Path) -> str:
    """The page of a notebook, which is stored without outputs.

    Its badge becomes a plain link, for pages load nothing from elsewhere; its links to pages of
    this site become relative.
    """
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "code":
            parts.append(f"```python\n{text}\n```")
            continue
        download = f"or [download the notebook]({path.name})"
        text = re.sub(r"\[!\[([^]]*)\]\([^)]*\)\]\(([^)]*)\)", rf"[\1](\2) {download}.", text)
        parts.append(re.sub(r"\(https://github\.com/[^/]+/[^/]+/blob/main/docs/", "(../", text))
    return "\n\n".join(parts) + "\n"


def verbs() -> str:
    """The page of the command line, from its parser."""
    from show_attend_tell.cli.parser import make_parser

    parser = make_parser()
    lines = [
        "# Verbs",
        "",
        "`./launch.sh VERB` from a checkout, `show-attend-tell VERB` where the package is "
        "installed, or `python -m show_attend_tell VERB`.",
        "",
        "Every verb that takes `--config` or a run also takes `--config.KEY=VALUE`, as often as "
        "you like. [Settings](settings.md) lists the keys.",
        "",
        "| verb | what it does |",
        "|---|---|",
    ]
    lines += [f"| [`{n}`](#{n}) | {_cell(v.description)} |" for n, v in _subparsers(parser)]
    for name, verb in _subparsers(parser):
        lines += ["", f"## {name}", "", verb.description or "", "", "```text"]
        lines += [_usage(verb), "```", "", "| argument | meaning |", "|---|---|"]
        lines += [
            f"| {_names(action)} | {_cell(_help(action))} |"
            for action in verb._actions
            if not isinstance(action, argparse._HelpAction)
        ]
    lines += [
        "",
        "## Beside the verbs",
        "",
        "| command | what it does |",
        "|---|---|",
        "| `./launch.sh test --quick` | the quick tests, in under 90 seconds |",
        "| `./launch.sh test` | the test suite; further arguments go to pytest |",
        "| `./launch.sh test --all` | the suite and the slow tests |",
        "| `./launch.sh bench` | the benchmarks; `--help` lists their parts |",
    ]
    return "\n".join(lines) + "\n"


def _subparsers(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.items()


def _usage(verb: argparse.ArgumentParser) -> str:
    return re.sub(r"^usage: ", "", verb.format_usage().strip())


def _names(action: argparse.Action) -> str:
    value = action.metavar or action.dest.upper()
    if not action.option_strings:
        return f"`{value}`"
    takes = "" if action.nargs == 0 else f" {value}"
    return ", ".join(f"`{name}{takes}`" for name in action.option_strings)


def _help(action: argparse.Action) -> str:
    text = (action.help or "") % {"default": action.default}
    if action.choices:
        text += f" One of {', '.join(map(str, action.choices))}."
    if action.default not in (None, False, argparse.SUPPRESS, []) and "default" not in text:
        text += f" Default: {action.default}."
    return text.strip()


def _cell(text: str | None) -> str:
    return (text or "").replace("|", "\\|").replace("<", "&lt;")


def settings() -> str:
    """The page of every setting, from its dataclass."""
    from show_attend_tell import settings as typed

    shown = [
        (typed.Data, "data", "every data set"),
        (typed.ImageData, "data", "images"),
        (typed.SentenceData, "data", "sentences"),
        (typed.PicturedData, "data", "sentences with pictures"),
        (typed.ImageEncoder, "encoder", "images"),
        (typed.SentenceEncoder, "encoder", "sentences"),
        (typed.Picture, "picture", "sentences with pictures"),
        *((group, name, "") for name, group in typed.COMMON.items()),
    ]
    lines = [
        "# Settings",
        "",
        "Every setting, with its default, its range and its meaning. An experiment file lists only "
        "what differs from these defaults. Set a value on the command line with "
        "`--config.KEY=VALUE`; an unknown key, a value of another type and a value out of range "
        "are errors that name the key.",
        "",
        "To see the values that an experiment ends up with:",
        "",
        "```bash",
        "./launch.sh config --config flickr8k:soft",
        "```",
        "",
        "`seed` (default 0) is the seed of all random numbers.",
    ]
    for group, name, kind in shown:
        base = {f.name for b in group.__mro__[1:] if dataclasses.is_dataclass(b) for f in _own(b)}
        inherited = base if kind != "every data set" and name == "data" else set()
        lines += ["", f"## {name}{f': {kind}' if kind else ''}", "", group.__doc__ or "", ""]
        lines += ["| key | type | default | range | meaning |", "|---|---|---|---|---|"]
        for field in dataclasses.fields(group):
            if field.name in inherited:
                continue
            meaning = field.metadata["meaning"]
            kind_of = "list of text" if "tuple" in str(field.type) else _type(field.type)
            lines.append(
                f"| `{name}.{field.name}` | {kind_of} | `{field.default!r}` | "
                f"{_range(meaning)} | {_cell(meaning.text)} |"
            )
    return "\n".join(lines) + "\n"


def _own(group: type) -> tuple[dataclasses.Field, ...]:
    return dataclasses.fields(group)


def _type(kind: object) -> str:
    names = {int: "whole number", float: "number", str: "text", bool: "True or False"}
    return names.get(kind, getattr(kind, "__name__", str(kind)))


def _range(meaning: object) -> str:
    """A range as a table wants it."""
    if meaning.choices:
        return ", ".join(f"`{choice}`" for choice in meaning.choices)
    bounds = [
        f"{sign} {value:g}"
        for sign, value in (
            ("≥", meaning.least),
            (">", meaning.above),
            ("≤", meaning.most),
            ("<", meaning.below),
        )
        if value is not None
    ]
    return " and ".join(bounds)
