"""Which contexts a run's scores are reported for."""

import pytest
import tiny

from show_attend_tell.evaluation.split_scores import reported_contexts, score_stem
from show_attend_tell.settings import Decode

PRODUCT = {
    "decoder.product_form": True,
    "decoder.gate": False,
    "decoder.output_tanh": False,
}


@pytest.mark.parametrize(
    ("changes", "contexts"),
    [
        ({"hard.objective": "marginal", **PRODUCT}, ("mixture", "argmax", "expected")),
        ({"hard.objective": "variational", **PRODUCT}, ("mixture", "argmax", "expected")),
        ({"hard.objective": "top_k"}, ("expected", "argmax")),
        (PRODUCT, ("expected", "argmax")),
    ],
)
def test_sums_over_places_are_scored_with_the_mixture_where_there_is_one(
    tmp_path, changes, contexts
):
    base = {"attention.kind": "hard", "attention.state_reads": "nothing"}
    assert reported_contexts(tiny.settings(tmp_path, base | changes)) == contexts


def test_names_of_files_tell_ways_of_searching_apart():
    assert score_stem("val", Decode(n_best=2, batch_size=7)) == "val-expected-beam5-lp0.7"
    assert score_stem("val", Decode(ban_unk=False)).endswith("-ban_unk=False")
    shorter = Decode(max_length=12)
    assert score_stem("val", shorter, "de", 12) == "val.de-expected-beam5-lp0.7"
    assert score_stem("val", shorter, "", 30) == "val-expected-beam5-lp0.7-max_length=12"
    drawn = Decode(search="sample", top_p=0.9, seed=3)
    assert score_stem("val", drawn) == "val-expected-beam5-lp0.7-search=sample-top_p=0.9-seed=3"
    stems = {score_stem("val", Decode(), overridden={"seed": seed}) for seed in (1, 2)}
    assert len(stems) == 2
    assert all(s.startswith("val-expected-beam5-lp0.7-overridden=") for s in stems)
