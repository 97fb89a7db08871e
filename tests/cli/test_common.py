"""What verbs share."""

from pathlib import Path

import pytest

from show_attend_tell.cli.common import Verbs, load, print_table
from show_attend_tell.cli.parser import make_parser
from show_attend_tell.errors import UserError
from show_attend_tell.files import user_path
from show_attend_tell.reports.tables import Cell, Table


def test_tables_are_printed_with_title_brackets_and_notes(capsys):
    rows = [["prior", Cell("0.620", "[0.600, 0.640]")], ["[bold]odd", "—"]]
    print_table(Table("Grounding", ["alpha", "pointing"], rows, ["A note [in brackets]."]))
    printed = capsys.readouterr().out
    for text in ("Grounding", "pointing", "0.620 [0.600, 0.640]", "[bold]odd", "—"):
        assert text in printed
    assert printed.rstrip().endswith("A note [in brackets].")


def test_every_path_may_begin_with_a_home_folder():
    parser = make_parser()
    (verbs,) = (action for action in parser._actions if isinstance(action, Verbs))
    options = [action for verb in verbs.choices.values() for action in verb._actions]
    assert sum(action.type is user_path for action in options) > 15
    assert not any(action.type is Path for action in options)


def test_without_consensus_no_neighbours_are_asked(trained):
    words = ["caption", "--workdir", str(trained[0]), "photo.jpg"]
    agreeing = ["--config.decode.consensus=True", "--config.decode.neighbours=9"]
    for option, consensus, neighbours in ([], True, 9), (["--no-consensus"], False, 0):
        _, decoding = load(make_parser().parse_args(words + option), agreeing)
        assert (decoding.consensus, decoding.neighbours) == (consensus, neighbours)


def test_options_of_another_search_are_refused(trained):
    def decoding(*options):
        words = ["caption", "--workdir", str(trained[0]), "photo.jpg", *options]
        return load(make_parser().parse_args(words), ["--config.decode.diversity=0.3"])[1]

    for options, message in (
        (("--diversity", "0.5"), "--diversity 0.5: there is only one group; add --groups"),
        (("--seed", "0"), "--seed 0: nothing is drawn; add --search sample or --context sample"),
    ):
        with pytest.raises(UserError, match=message):
            decoding(*options)
    assert decoding("--diversity", "1", "--beam", "4", "--groups", "2").diversity == 1
    for name in ("--search", "--context"):
        assert decoding("--seed", "3", name, "sample").seed == 3
    assert decoding().diversity == 0.3  # as a run's config may have it
