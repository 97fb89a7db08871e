"""What the tests of the layout read from source text: imports, sizes, names, handlers.

Every function takes a parsed module and returns what breaks a rule, as readable lines. Nothing here
imports the code that it judges.
"""

import ast
import io
import tokenize
from collections.abc import Collection, Iterator, Mapping

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
BROAD = {"Exception", "BaseException"}

# What the last word of a name stands for. A parameter with such a name needs a type.
OUR_TYPES = {
    "settings": "a group of settings, or Settings",
    "config": "a ConfigDict at the edge, a group of settings inside",
    "task": "data.base_task.Task",
    "example": "data.examples.Example or Pair",
    "examples": "a source of examples",
    "source": "a source of examples",
    "sources": "a list of sources",
    "pairs": "a source of pairs",
    "vocabulary": "a vocabulary",
    "plan": "data.batches' plan",
    "encoder": "an encoder",
    "decoder": "models.decoder.Decoder",
    "captioner": "models.captioner.Captioner",
    "model": "models.captioner.Captioner",
    "objective": "objectives.objective.Objective",
    "run": "a run",
    "runs": "a list of runs",
    "session": "a training session",
    "checkpoints": "runs.checkpoint.Checkpoints",
    "checkpoint": "runs.checkpoint.Checkpoints",
    "record": "the record's own type",
    "records": "a list of records",
    "hypotheses": "models.search.Hypotheses, or texts by id",
    "caption": "a caption",
    "captions": "a list of captions",
    "decoding": "settings.Decode",
    "boxes": "a list of data.examples.Box",
    "table": "objectives.rewards.IdfTable",
}


def imported_names(tree: ast.AST, package: str = "") -> set[str]:
    """Dotted names that a module imports anywhere, in functions too.

    Args:
      tree: the module.
      package: dotted name of the package that it lies in, for relative imports.
    """
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                base = ".".join([*parents[: len(parents) - node.level + 1], base]).strip(".")
            names.update(f"{base}.{alias.name}" for alias in node.names)
    return names


def mentioned(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every identifier of the code with its line: names, attributes, imports and their aliases."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id, node.lineno
        elif isinstance(node, ast.Attribute):
            yield node.attr, node.lineno
        elif isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                yield alias.name.rpartition(".")[2], node.lineno
        elif isinstance(node, ast.Constant) and str(node.value).isidentifier():
            yield str(node.value), node.lineno  # a quoted annotation, or an argument of getattr


def functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.AST]]:
    """Every function with its dotted name; those inside of others come, too."""
    for node in ast.iter_child_nodes(tree):
        name = prefix
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            name = f"{prefix}{node.name}."
            if isinstance(node, FUNCTIONS):
                yield name.removesuffix("."), node
        yield from functions(node, name)


def code_lines(source: str) -> set[int]:
    """The numbers of lines that hold code: no docstring, no comment, no blank line."""
    silent = {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENCODING,
        tokenize.ENDMARKER,
    }
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in silent:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                lines.difference_update(range(first.lineno, (first.end_lineno or 0) + 1))
    return lines


def function_sizes(source: str, tree: ast.AST, more_than: int = 0) -> dict[str, int]:
    """Lines of code of each function, signature and inner functions included.

    Those of at most `more_than` lines, comments and blank ones included, are left out.
    """
    sizes = {name: range(node.lineno, node.end_lineno + 1) for name, node in functions(tree)}
    sizes = {name: lines for name, lines in sizes.items() if len(lines) > more_than}
    code = code_lines(source) if sizes else set()
    return {name: sum(line in code for line in lines) for name, lines in sizes.items()}


def last_name(node: ast.AST) -> str:
    """`c` of `a.b.c`, of `a.b.c[...]` and of `a.b.c(...)`; empty for what has no name."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case ast.Subscript(value=value) | ast.Call(func=value):
            return last_name(value)
    return ""


def root_name(node: ast.AST) -> str:
    """`a` of `a.b.c`, of `a.b(...).c` and of `a[...]`."""
    while not isinstance(node, ast.Name):
        match node:
            case ast.Attribute(value=inner) | ast.Subscript(value=inner) | ast.Call(func=inner):
                node = inner
            case _:
                return ""
    return node.id


def broad_handlers(tree: ast.AST, ours: str) -> dict[str, list[str]]:
    """The functions that catch every exception, each with the calls of our code that it guards.

    A handler that ends by raising the same exception again hides nothing and does not count.

    Args:
      tree: the module.
      ours: name of our package, whose functions a broad handler must not guard.
    """
    own = _our_names(tree, ours)
    found: dict[str, list[str]] = {}
    for name, attempt in _tries(tree):
        if any(map(_is_broad, attempt.handlers)):
            found[name] = found.get(name, []) + _our_calls(attempt.body, own)
    return found


def broad_guards(tree: ast.AST) -> set[str]:
    """The context managers whose broad handler guards the body of every `with` that uses them."""
    return {
        name.rpartition(".")[2]
        for name, attempt in _tries(tree)
        if any(map(_is_broad, attempt.handlers))
        and any(isinstance(n, ast.Yield) for statement in attempt.body for n in ast.walk(statement))
    }


def our_calls_in(guards: Collection[str], tree: ast.AST, ours: str) -> list[str]:
    """The calls of our code in the bodies of `with` that these context managers guard."""
    own, found = _our_names(tree, ours), []
    for node in ast.walk(tree):
        if isinstance(node, ast.With | ast.AsyncWith) and any(
            isinstance(item.context_expr, ast.Call) and last_name(item.context_expr) in guards
            for item in node.items
        ):
            found += _our_calls(node.body, own)
    return found


def _our_names(tree: ast.AST, ours: str) -> set[str]:
    """Functions and classes that a module defines, and what it imports of our package."""
    own = {"self", "cls", "super"}
    own |= {n.name for n in ast.walk(tree) if isinstance(n, (*FUNCTIONS, ast.ClassDef))}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == ours:
            own |= {alias.asname or alias.name for alias in node.names}
    return own


def _our_calls(body: list[ast.stmt], own: Collection[str]) -> list[str]:
    inside = [node for statement in body for node in ast.walk(statement)]
    calls = [node.func for node in inside if isinstance(node, ast.Call)]
    return [ast.unparse(call) for call in calls if _is_ours(call, own)]


def _tries(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.Try]]:
    """Every `try` with the dotted name of the innermost function around it."""
    for node in ast.iter_child_nodes(tree):
        name = f"{prefix}{node.name}." if isinstance(node, (*FUNCTIONS, ast.ClassDef)) else prefix
        if isinstance(node, ast.Try):
            yield name.removesuffix(".") or "the module", node
        yield from _tries(node, name)


def _is_broad(handler: ast.ExceptHandler) -> bool:
    last = handler.body[-1]
    if isinstance(last, ast.Raise) and last.exc is None:
        return False
    if handler.type is None:
        return True
    types = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(last_name(kind) in BROAD for kind in types)


def _is_ours(function: ast.AST, own: Collection[str]) -> bool:
    # `self._manager.save()` belongs to the library whose object the attribute holds.
    if root_name(function) in ("self", "cls"):
        return isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name)
    return root_name(function) in own


def asks_kind_of_data(
    tree: ast.AST, kinds: Collection[str], tasks: Collection[str], names: Collection[str]
) -> Iterator[str]:
    """Where code decides by the kind of data: by class, by a data set's name, by a word for it.

    Args:
      tree: the module.
      kinds: classes that exist once for images and once for sentences; tests against them count,
        annotations do not.
      tasks: identifiers that no other module may mention at all.
      names: of the data sets.
    """
    for name, line in mentioned(tree):
        if name in tasks:
            yield f"line {line}: mentions {name}"
    words = {"image", "images", "sentence", "sentences"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and last_name(node.func) in ("isinstance", "issubclass"):
            for name in _names_within(node.args[1:]) & set(kinds):
                yield f"line {node.lineno}: {last_name(node.func)}(…, {name})"
        elif isinstance(node, ast.MatchClass) and last_name(node.cls) in kinds:
            yield f"line {node.cls.lineno}: case {last_name(node.cls)}"
        elif isinstance(node, ast.MatchValue) and _texts([node]) & {*names, *words}:
            yield f"line {node.value.lineno}: case {ast.unparse(node)}"
        elif isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            texts = _texts(sides) & set(names)
            if any(isinstance(op, ast.Eq | ast.NotEq) for op in node.ops):
                texts |= {side.value for side in sides if isinstance(side, ast.Constant)} & words
            if any(ast.unparse(side).endswith("data.name") for side in sides):
                texts |= {"data.name"}
            looked_up = [
                s for side in sides for s in ast.walk(side) if isinstance(s, ast.Subscript)
            ]
            texts |= {last_name(lookup) for lookup in looked_up} & {"GROUPS"}
            texts |= _names_within(s for s in sides if not isinstance(s, ast.Call)) & set(kinds)
            if texts:
                yield f"line {node.lineno}: compares with {', '.join(sorted(texts))}"
        elif isinstance(node, ast.Dict | ast.Set | ast.List | ast.Tuple):
            keys = node.keys if isinstance(node, ast.Dict) else node.elts
            listed = _texts(key for key in keys if isinstance(key, ast.Constant)) & set(names)
            if len(listed) > 1:
                yield f"line {node.lineno}: lists the data sets {', '.join(sorted(listed))}"


def _names_within(nodes: object) -> set[str]:
    return {last_name(inner) for node in nodes for inner in ast.walk(node)} - {""}


def _texts(nodes: object) -> set[str]:
    return {
        inner.value
        for node in nodes
        for inner in ast.walk(node)
        if isinstance(inner, ast.Constant) and isinstance(inner.value, str)
    }


def loose_types(tree: ast.AST, known: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Names typed `Any` although they are those of a type of ours, and what they stand for.

    `source_vocabulary: Any` breaks the rule where `known` has "vocabulary", and so does
    `def vocabulary() -> Any`. Containers count: `list[Any]` is as loose as `Any`.

    Args:
      tree: the module.
      known: the type of ours that a name's last word stands for.
    """
    for node in ast.walk(tree):
        pairs: list[tuple[str, ast.AST | None]] = []
        if isinstance(node, FUNCTIONS):
            pairs.append((node.name, node.returns))
            given = node.args
            extra = [a for a in (given.vararg, given.kwarg) if a]
            pairs += [
                (argument.arg, argument.annotation)
                for argument in (*given.posonlyargs, *given.args, *given.kwonlyargs, *extra)
            ]
        elif isinstance(node, ast.AnnAssign):
            pairs.append((last_name(node.target), node.annotation))
        for name, annotation in pairs:
            word = name.strip("_").rpartition("_")[2]
            if annotation is not None and word in known and _is_any(annotation):
                yield name, f"line {annotation.lineno}: {known[word]}"


def _is_any(annotation: ast.AST) -> bool:
    """Whether it is `Any`, a quoted or optional one, or a sequence of it; not a dict[str, Any]."""
    match annotation:
        case ast.Constant(value=str(text)):
            return _is_any(ast.parse(text, mode="eval").body)
        case ast.BinOp(left=left, right=right):
            return _is_any(left) or _is_any(right)
        case ast.Subscript(value=container, slice=inner):
            if last_name(container) in ("list", "Sequence", "Iterable", "Iterator", "Optional"):
                return _is_any(inner)
            return False
    return last_name(annotation) == "Any"
