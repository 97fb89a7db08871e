"""Bad command lines, experiments, settings and places for results."""

from collections.abc import Iterator

from bad_files import NEW, RUN, TINY, Case, unreadable, write

ARGUMENTS = [
    ((), "VERB"),
    (("trian",), "trian"),
    (("train",), "--config"),
    (("train", *TINY), "--workdir"),
    (("train", *TINY, *NEW, "--epochs=3"), "--epochs"),
    (("train", *TINY, *NEW, "stray"), "stray"),
    (("train", *TINY, *NEW, "--processes", "two"), "--processes"),
    (("train", *TINY, *NEW, "--processes", "2"), "--coordinator"),
    (
        ("train", *TINY, *NEW, "--process", "-1", "--processes", "2", "--coordinator", "x"),
        "--process",
    ),
    (("evaluate",), "--workdir"),
    (("evaluate", *RUN, "--pretrained", "flickr8k-soft"), "--pretrained"),
    (("evaluate", "--pretrained", "flickr9k"), "flickr9k"),
    (("evaluate", *RUN, "--beam", "many"), "--beam"),
    (("evaluate", *RUN, "--beam", "0"), "beam"),
    (("evaluate", *RUN, "--beam", "-3"), "beam"),
    (("evaluate", *RUN, "--length-penalty", "nan"), "length_penalty"),
    (("evaluate", *RUN, "--length-penalty", "-inf"), "--length-penalty"),
    (("evaluate", *RUN, "--context", ""), "context"),
    (("evaluate", *RUN, "--diversity", "1"), "--diversity 1"),
    (("evaluate", *RUN, "--seed", "1"), "--seed 1"),
    (("evaluate", *RUN, "--split", ""), "split"),
    (("evaluate", *RUN, "--split", "../val"), "../val"),
    (("evaluate", *RUN, "--split", "val\x1b[2J"), "val"),
    (("attend", *RUN, "--num", "-1"), "--num"),
    (("attend", *RUN, "--num", "1e3"), "--num"),
    (("compare",), "RUN"),
    (("compare", "{root}/run", "--split", "tset"), "tset"),
    (("compare", "{root}/run", "--split", "val", "--pictures", "-1"), "--pictures"),
    (("compare", "{root}/run", "{root}/run", "--split", "val"), "run"),
    (("compare", "{root}/run", "--config.seed=1"), "--config.seed"),
    (("export", *RUN, "--out", "{bad}/o", "--weights", "worst"), "--weights"),
    (("export", "--out", "{bad}/o"), "--workdir"),
    (("publish", "{root}/run"), "--out"),
    (("explore", "{root}/run", "--num", "0"), "--num"),
    (("explore", "{root}/run", "--port", "99999"), "99999"),
    (("explore", "{root}/run", "--port", "-1"), "-1"),
    (("explore", "{root}/run", "--host", "nowhere.invalid"), "nowhere.invalid"),
    (("explore", "{root}/run", "--split", "tets", "--export", "{bad}/x.html"), "tets"),
    (("sweep",), "NAME"),
    (("sweep", "{root}/tiny.py", "--seeds", ""), "--seeds"),
    (("sweep", "{root}/tiny.py", "--seeds", "1,,2"), "--seeds"),
    (("sweep", "{root}/tiny.py", "--seeds", "1.5"), "--seeds"),
    (("sweep", "{root}/tiny.py", "--seeds", "1,1", *NEW), "--seeds"),
    (("sweep", "{root}/tiny.py", "--jobs", "0", *NEW), "--jobs"),
    (("sweep", "{root}/tiny.py", "--jobs", "10000", *NEW), "--jobs"),
    (("sweep", "{root}/tiny.py", "--hours", "-1", *NEW), "--hours"),
    (("sweep", "{root}/tiny.py", "--cluster", "moon", *NEW), "moon"),
    (("sweep", "{root}/tiny.py", "--partition", "gpu", *NEW), "--partition gpu"),
    (("sweep", "{root}/tiny.py", "--split", "vla", *NEW), "vla"),
    (("sweep", "{root}/tiny.py", "--set", "kind", *NEW), "kind"),
    (("sweep", "{root}/tiny.py", "--set", "=1", *NEW), "--set"),
    (("sweep", "{root}/tiny.py", "--set", "attention.knid=soft", *NEW), "attention.kind"),
    (("sweep", "{root}/tiny.py", "--set", "attention.kind=soft,,hard", *NEW), "attention.kind"),
    (("sweep", "{root}/tiny.py", "--pictures", "-2", *NEW), "--pictures"),
    (("sweep", "{root}/tiny.py", "{root}/tiny.py", *NEW), "tiny.py"),
    (("gradient-variance", *RUN, "--batches", "0"), "--batches"),
    (("gradient-variance", *RUN, "--samples", "1"), "--samples"),
    (("gradient-variance", *RUN, "--batches", "9"), "--batches"),
    (("translate", *RUN, "a sentence"), "run"),
    (("tables", "{bad}/none"), "none"),
    (("tables", "{root}/tiny.py"), "tiny.py"),
    (("tables", "{root}", "--records", "{bad}/none"), "{root}"),
    (("config", "--config", "nope"), "nope"),
    (("inspect", "--config", ""), "--config"),
]


def arguments() -> Iterator[Case]:
    """Bad inputs of one kind."""
    for words, names in ARGUMENTS:
        yield Case("arguments", words, names)


EXPERIMENTS_MORE = [
    ("a missing experiment", "{bad}/none.py", "none.py"),
    ("a folder as an experiment", "{bad}", "{bad}"),
    ("an unknown variant", "shapes:sfot", "sfot"),
    ("control characters", "{bad}/\x07\x1b[31mred\n.py", "red"),
    ("a name that is too long", "x" * 5000, "--config"),
    ("half a character", "caf\udce9.py", "caf"),
]


def experiments() -> Iterator[Case]:
    """Bad inputs of one kind."""
    start = "from ml_collections import ConfigDict\n"

    def returns(text: str) -> str:
        return f"{start}def get_config():\n    return {text}\n"

    def config(text: str) -> str:
        return returns(f"ConfigDict({text})")

    good = '"data": {"name": "folder"}, "encoder": {"name": "small"}'
    for about, content, names in [
        ("an empty experiment", "", "is empty"),
        ("a binary experiment", b"\x00\x01\x02", "binary"),
        ("an experiment in Latin-1", b"x = '\xe9'\n", "e.py"),
        ("a syntax error", "def get_config(:\n", "line 1"),
        ("an error while loading", "x = 1\n1 / 0\n", "line 2"),
        ("a missing module", "import nonesuch\n", "nonesuch"),
        ("an exit", "import sys\nsys.exit(0)\n", "e.py"),
        ("endless recursion", "def f():\n    f()\nf()\n", "recursion"),
        ("no get_config", "x = 1\n", "get_config"),
        ("get_config is a number", "get_config = 3\n", "get_config"),
        ("get_config takes two", f"{start}def get_config(a, b):\n    return 1\n", "get_config"),
        ("get_config fails", returns("{}['a']"), "line 3"),
        ("get_config returns a dict", returns("{'seed': 1}"), "ConfigDict"),
        ("get_config returns None", returns("None"), "ConfigDict"),
        ("an empty config", config("{}"), "config.data.name"),
        ("data is a number", config('{"data": 5}'), "config.data"),
        ("data is a list", config('{"data": [1]}'), "config.data"),
        ("a data set's name is a number", config('{"data": {"name": 1}}'), "config.data.name"),
        ("an unknown data set", config('{"data": {"name": "flickr9k"}}'), "flickr8k"),
        ("an unknown group", config(f'{{{good}, "trian": {{"epochs": 1.0}}}}'), "config.tr"),
        ("an unknown key", config(f'{{{good}, "train": {{"epoch": 1.0}}}}'), "train.epochs"),
        ("a group is text", config(f'{{{good}, "train": "long"}}'), "config.train"),
        ("a group is empty text", config(f'{{{good}, "train": ""}}'), "config.train"),
        ("a seed is text", config(f'{{{good}, "seed": "one"}}'), "config.seed"),
        ("a seed is negative", config(f'{{{good}, "seed": -1}}'), "config.seed"),
        ("a seed is huge", config(f'{{{good}, "seed": 2**70}}'), "config.seed"),
        ("a number is text", config(f'{{{good}, "train": {{"epochs": "3"}}}}'), "train.epochs"),
        ("a number is a list", config(f'{{{good}, "train": {{"epochs": [3]}}}}'), "train.epochs"),
        ("a number is None", config(f'{{{good}, "train": {{"epochs": None}}}}'), "train.epochs"),
        ("a flag is text", config(f'{{{good}, "decoder": {{"tied": "no"}}}}'), "decoder.tied"),
        ("text is a number", config(f'{{{good}, "attention": {{"kind": 3}}}}'), "attention.kind"),
        (
            "a setting is a group",
            config(f'{{{good}, "train": {{"epochs": {{"a": 1}}}}}}'),
            "epochs",
        ),
    ]:
        make = write("e.py", content)
        yield Case(about, ("train", "--config", "{bad}/e.py", *NEW), names, make)
    broken = write("e.py", "def get_config(:\n")
    yield Case("a syntax error", ("prepare", "--config", "{bad}/e.py"), "e.py", broken)
    yield Case("a syntax error", ("config", "--config", "{bad}/e.py"), "e.py", broken)
    yield Case("a syntax error", ("inspect", "--config", "{bad}/e.py"), "e.py", broken)
    yield Case("a syntax error", ("sweep", "{bad}/e.py", *NEW), "e.py", broken)
    for about, reference, names in EXPERIMENTS_MORE:
        yield Case(about, ("train", "--config", reference, *NEW), names)
    yield Case(
        *("an unreadable experiment", ("train", "--config", "{bad}/e.py", *NEW), "e.py"),
        *(unreadable("e.py"), True),
    )


def overrides() -> Iterator[Case]:
    """Bad inputs of one kind."""
    for override, names in [
        ("train.epochs=0", "train.epochs"),
        ("train.epochs=-1", "train.epochs"),
        ("train.epochs=nan", "train.epochs"),
        ("train.epochs=inf", "train.epochs"),
        ("train.epochs=many", "train.epochs"),
        ("train.epochs=", "train.epochs"),
        ("train.batch_size=0", "train.batch_size"),
        ("train.batch_size=1.5", "train.batch_size"),
        ("train.buckets=0", "train.buckets"),
        ("train.rows=-1", "train.rows"),
        ("train.log_every=0", "train.log_every"),
        ("train.checkpoint_every=0", "train.checkpoint_every"),
        ("train.patience=-1", "train.patience"),
        ("train.metric=CIDER", "CIDEr"),
        ("train.init_from={bad}/none", "none"),
        ("train.init_from={root}/tiny.py", "tiny.py"),
        ("train.init_weights=first", "train.init_weights"),
        ("decoder.hidden=0", "decoder.hidden"),
        ("decoder.hidden=-5", "decoder.hidden"),
        ("decoder.dropout=1.5", "decoder.dropout"),
        ("decoder.dropout=nan", "decoder.dropout"),
        ("decoder.dtype=float16", "decoder.dtype"),
        ("attention.kind=sfot", "attention.kind"),
        ("attention.units=0", "attention.units"),
        ("attention.score=dto", "dot"),
        ("encoder.name=vgg16", "vgg19"),
        ("encoder.name=", "encoder.name"),
        ("encoder.image_size=7", "encoder.image_size"),
        ("encoder.image_size=-8", "encoder.image_size"),
        ("encoder.features=3", "encoder.features"),
        ("encoder.trainable_from=top", "trainable_from"),
        ("encoder.weights={bad}/none.pth", "none.pth"),
        ("optimizer.learning_rate=-1", "optimizer.learning_rate"),
        ("optimizer.learning_rate=nan", "optimizer.learning_rate"),
        ("optimizer.warmup_steps=-1", "optimizer.warmup_steps"),
        ("decode.beam=0", "decode.beam"),
        ("decode.max_length=0", "decode.max_length"),
        ("decode.batch_size=0", "decode.batch_size"),
        ("loss.label_smoothing=1", "loss.label_smoothing"),
        ("data.name=multi30k", "data.name"),
        ("data.name=nothing", "data.name"),
        ("data.limit=-1", "data.limit"),
        ("data.min_count=-1", "data.min_count"),
        ("data.max_length=0", "data.max_length"),
        ("data.holdout=1", "data.holdout"),
        ("data.holdout=0.5", "data.holdout"),
        ("data.crops=-1", "data.crops"),
        ("data.random_crop=2", "data.random_crop"),
        ("data.repo=a/b", "data.repo"),
        ("data.manual_dir={bad}/none", "none"),
        ("data.manual_dir={root}/tiny.py", "tiny.py"),
        ("data.dir={root}/tiny.py", "tiny.py"),
        ("data.dir=/proc/none", "/proc/none"),
        ("encoder.image_size=100000", "encoder.image_size"),
        ("encoder.features=100000000000", "encoder.features"),
        ("decoder.hidden=1000000", "decoder.hidden"),
        ("seed=one", "seed"),
        ("seed=-1", "seed"),
        ("seeed=1", "config.seed"),
        ("train=3", "config.train"),
        ("train.epochs.more=3", "train.epochs"),
        ("=3", "config."),
        ("train.\x1b[1m=3", "config.train"),
    ]:
        words = ("train", *TINY, *NEW, f"--config.{override}")
        yield Case(f"--config.{override}", words, names)
    yield Case(
        "an override without a value", ("train", *TINY, *NEW, "--config.seed"), "config.seed"
    )
    yield Case("the run's data set", ("evaluate", *RUN, "--config.data.name=coco"), "coco")
    yield Case(
        "a key of a run", ("caption", *RUN, "x.png", "--config.dekode.beam=1"), "decode.beam"
    )
    yield Case("another size", ("evaluate", *RUN, "--config.decoder.hidden=17"), "run/best")


def outputs() -> Iterator[Case]:
    """Bad inputs of one kind."""
    picture = "{root}/pictures/p00.png"
    occupied = write("out", "x")
    for verb, words in {
        "caption": ("caption", *RUN, picture),
        "attend": ("attend", *RUN, "--split", "val"),
        "compare": ("compare", "{root}/run", "--split", "val"),
        "export": ("export", *RUN),
        "publish": ("publish", "{root}/run"),
        "inspect": ("inspect", *TINY),
    }.items():
        yield Case(f"{verb} into a file", (*words, "--out", "{bad}/out"), "out", occupied)
        yield Case(f"{verb} below a file", (*words, "--out", "{bad}/out/a"), "out", occupied)
        yield Case(f"{verb} into /proc", (*words, "--out", "/proc/none/a"), "/proc/none")
    yield Case("export into a run", ("export", *RUN, "--out", "{root}/run"), "run")
    yield Case("publish into a run", ("publish", "{root}/run", "--out", "{root}"), "run")
    explore = ("explore", "{root}/run", "--split", "val", "--num", "1", "--export")
    yield Case("explore into a folder", (*explore, "{bad}"), "{bad}")
    yield Case("explore into a missing folder", (*explore, "/proc/none/x.html"), "/proc/none")
    yield Case("train below a file", ("train", *TINY, "--workdir", "{bad}/out/a"), "out", occupied)
    yield Case("train into /proc", ("train", *TINY, "--workdir", "/proc/none/a"), "/proc/none")
    yield Case(
        "sweep below a file",
        ("sweep", "{root}/tiny.py", "--workdir", "{bad}/out/a"),
        "out",
        occupied,
    )
    yield Case(
        "a name that is too long", ("train", *TINY, "--workdir", "{bad}/" + "x" * 300), "xxx"
    )
