"""The verb that scores captions of any captioner."""

import argparse
import json
import re
from collections.abc import Sequence

from show_attend_tell.cli.common import Verbs, add_verb, print_table, say
from show_attend_tell.errors import UserError
from show_attend_tell.files import user_path
from show_attend_tell.settings import LANGUAGE

SCORER_OF = {"captions": "captions", "translation": "translations"}  # by task


def add_verbs(verbs: Verbs) -> None:
    """Adds the verb of this module."""
    score = add_verb(
        verbs,
        "score",
        _score,
        "Score captions of any captioner, from files, and test how they differ.",
        overrides=False,
    )
    score.add_argument(
        "captions",
        type=user_path,
        nargs="+",
        metavar="CAPTIONS",
        help='COCO results, [{"image_id": 1, "caption": "..."}, ...], as `evaluate` writes them; '
        "or text with a caption on each line. Several files are compared with the first",
    )
    score.add_argument(
        "--references",
        type=user_path,
        nargs="+",
        required=True,
        metavar="FILE",
        help="COCO's annotations, a dataset_*.json of Karpathy and Li, Flickr8k.token.txt; or "
        "one or several files of lines, with tabs between references of the same line",
    )
    score.add_argument(
        "--split", metavar="NAME", help="of a dataset_*.json of Karpathy and Li (default: test)"
    )
    score.add_argument(
        "--task",
        choices=tuple(SCORER_OF),
        default="captions",
        help="translation: sacrebleu's BLEU and chrF (default: captions)",
    )
    score.add_argument(
        "--language",
        metavar="CODE",
        help="of captions; all but English are split as `evaluate` splits them, and have no METEOR "
        "(default: en)",
    )
    score.add_argument(
        "--allow-missing",
        action="store_true",
        help="score the images that all files have, where some lack images",
    )
    score.add_argument("--spice", action="store_true", help="add SPICE, which needs Java")
    score.add_argument(
        "--per-image",
        type=user_path,
        metavar="FILE",
        help="write the scores of each caption as comma-separated values",
    )
    score.add_argument("--json", action="store_true", help="print JSON instead, for scripts")


def _score(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    from show_attend_tell.reports.score_files import score_files, score_tables

    english = arguments.language in (None, "en")
    if arguments.spice and (arguments.task != "captions" or not english):
        what = "another --language" if not english else f"--task {arguments.task}"
        raise UserError(f"--spice scores English captions; leave it out for {what}")
    if arguments.language and arguments.task != "captions":
        raise UserError(f"--language is of captions; leave it out for --task {arguments.task}")
    if arguments.language and not re.fullmatch(LANGUAGE, arguments.language):
        raise UserError(f"--language {arguments.language}: no code; write en, de, zh and so on")
    content = score_files(
        arguments.captions,
        arguments.references,
        scorer=SCORER_OF[arguments.task] if english else "captions 13a",
        split=arguments.split,
        allow_missing=arguments.allow_missing,
        spice=arguments.spice,
        per_image=arguments.per_image,
    )
    if arguments.json:
        say(*json.dumps(content, indent=2).splitlines())
        return
    for table in score_tables(content):
        print_table(table, dense=True)
