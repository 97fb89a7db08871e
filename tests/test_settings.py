"""Settings check themselves: a value out of range gives one clear line that names the key."""

import dataclasses

import pytest
import tiny

from show_attend_tell import config
from show_attend_tell.errors import UserError
from show_attend_tell.settings import Decode, Loss, Reward

REWARD = Reward(samples=2, cider=1.0, bleu=0.5, f_mean=0.3, max_length=8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"baseline": "leave_one_out", "samples": 1}, "samples of at least 2"),
        ({"baseline": "median"}, "baseline is 'median': choose one of .*'moving_average'"),
        ({"credit": "all"}, "credit is 'all': choose one of .*'to_go'"),
        ({"objective": "elbo"}, "objective is 'elbo': choose one of .*'multi_sample'"),
        ({"coin": "word"}, "coin is 'word': choose one of 'image', 'batch'"),
        ({"soft_probability": 1.5}, r"soft_probability is 1.5: it must lie in \[0, 1\]"),
        ({"soft_probability": -0.1}, r"soft_probability is -0.1: it must lie in \[0, 1\]"),
        ({"samples": 0}, r"samples is 0: it must lie in \[1, 65536\]"),
        ({"reinforce": -0.1}, "reinforce is -0.1: it must be at least 0"),
        ({"soft_steps": -1}, r"soft_steps is -1: it must lie in \[0, 1e\+09\]"),
        ({"objective": "multi_sample", "samples": 2, "credit": "to_go"}, "biased"),
        ({"objective": "multi_sample", "samples": 2, "baseline": "none"}, "leave_one_out"),
        (
            {"objective": "multi_sample", "samples": 2, "baseline": "leave_one_out"}
            | {"released": True},
            "released needs config.hard.objective='reinforce'",
        ),
        *(
            ({"objective": name, "baseline": "learned"}, "baseline cannot be 'learned'")
            for name in ("marginal", "top_k", "variational", "gumbel", "rebar")
        ),
        ({"objective": "gumbel", "released": True}, "released needs .*objective='reinforce'"),
        ({"bound": 0.5}, "bound needs config.hard.objective='marginal'"),
        ({"relaxation_temperature": 0.0}, "relaxation_temperature is 0.0: it must be over 0"),
        ({"rao_samples": 0}, r"rao_samples is 0: it must lie in \[1, 65536\]"),
    ],
)
def test_bad_settings_of_hard_attention(changes, message):
    with pytest.raises(UserError, match=message) as caught:
        dataclasses.replace(tiny.PURE, **changes).check_used()
    assert "\n" not in str(caught.value) and "config.hard" in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"samples": 1},
        {"samples": -1},
        {"cider": -1.0},
        {"f_mean": -0.1},
        {"cider": 0.0, "bleu": 0.0, "f_mean": 0.0},
        {"max_length": 0},
        {"likelihood": -0.1},
        {"samples": 0, "likelihood": 0.5},
    ],
)
def test_bad_settings_of_the_reward(changes):
    with pytest.raises(UserError, match="config.reward"):
        dataclasses.replace(REWARD, **changes)


@pytest.mark.parametrize(
    "changes", [{"doubly_stochastic": -1.0}, {"label_smoothing": 1.0}, {"label_smoothing": -0.1}]
)
def test_bad_settings_of_the_loss(changes):
    with pytest.raises(UserError, match="config.loss"):
        Loss(**changes)


def test_a_words_own_credit_needs_a_state_that_does_not_read_the_drawn_place():
    def stated(reads):
        attention = {"kind": "hard", "state_reads": reads}
        return {"data": {"name": "shapes"}, "hard": {"credit": "word"}, "attention": attention}

    for reads in ("nothing", "expected"):
        assert config.from_dict(stated(reads)).hard.credit == "word"
    with pytest.raises(UserError, match="config.hard.credit 'word' needs .*other than 'drawn'"):
        config.from_dict(stated("drawn"))


@pytest.mark.parametrize(
    ("order", "reads", "refused"),
    [
        ("previous", "nothing", True),
        ("previous", "expected", True),
        ("previous", "drawn", False),
        ("current", "nothing", True),
        ("current", "drawn", False),
    ],
)
def test_words_depend_on_the_drawn_place(order, reads, refused):
    attention = {"kind": "hard", "order": order, "state_reads": reads}
    stated = {"data": {"name": "shapes"}, "attention": attention}
    config.from_dict(stated)
    stated |= {"decoder": {"deep_output": False}}
    if not refused:
        config.from_dict(stated)
        return
    with pytest.raises(UserError, match="deep_output=True with hard attention: otherwise words"):
        config.from_dict(stated)


@pytest.mark.parametrize(
    ("experiment", "changes", "message"),
    [
        ("flickr8k", {"download": True}, "download fetches files of coco, .* 'flickr8k': leave it"),
        ("flickr8k", {"subwords": 99}, "subwords needs .*'subwords', but that is 'ptb'.* at 5000"),
        ("multi30k", {"target": "en"}, "source and .target are both 'en': name the language"),
        (
            "flickr8k",
            {"name": "hub", "repo": "OWNER/NAME", "manual_dir": "x"},
            "manual_dir is not read where config.data.repo names the data: leave one of them empty",
        ),
    ],
)
def test_what_would_change_nothing_is_rejected(experiment, changes, message):
    changed = {f"data.{name}": value for name, value in changes.items()}
    settings = config.replaced(config.load_experiment(experiment), changed)
    with pytest.raises(UserError, match=message) as caught:
        settings.data.check_effect()
    assert "\n" not in str(caught.value)


def test_what_changes_something_is_accepted():
    for name, changes in {
        "coco": {"data.download": True},
        "flickr8k": {"data.vocabulary": "subwords", "data.subwords": 99},
        "multi30k:joint": {},
        "reversal": {},
    }.items():
        config.replaced(config.load_experiment(name), changes).data.check_effect()


def test_settings_of_hard_attention_are_of_no_concern_to_soft_attention():
    stated = {"data": {"name": "shapes"}, "hard": {"baseline": "leave_one_out"}}
    assert config.from_dict(stated).hard.samples == 1
    with pytest.raises(UserError, match="samples of at least 2"):
        config.from_dict(stated | {"attention": {"kind": "hard"}})


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"data": {"random_crop": 0.5}}, "random_crop and .random_flip .*encoder.trainable_from"),
        ({"data": {"random_crop": 0.0}}, r"random_crop is 0.0: it must lie in \(0, 1\]"),
        (
            {"data": {"random_flip": "swap", "vocabulary": "subwords"}},
            "random_flip exchanges whole lower-cased words, but .*vocabulary is 'subwords'",
        ),
        (
            {"data": {"random_flip": "skip", "vocabulary": "words"}},
            "random_flip exchanges whole lower-cased words, but .*vocabulary is 'words'",
        ),
        ({"data": {"random_flip": "mirror"}}, "random_flip is 'mirror': choose one of 'off'"),
        ({"encoder": {"checkpointing": True}}, "need a trained encoder"),
        ({"encoder": {"learning_rate": -1.0}}, "encoder.learning_rate is -1.0"),
        ({"attention": {"window": "local_m"}}, "local_m' follows the steps through a sentence"),
        ({"attention": {"kind": "none", "window": "local_p"}}, "'none' has no window"),
        ({"optimizer": {"final": 0.5, "schedule": "constant"}}, "final needs"),
        ({"decoder": {"dtype": "float8"}}, "dtype is 'float8': choose one of 'auto'"),
        ({"encoder": {"image_size": 4104}}, r"image_size is 4104: it must lie in \[8, 4096\]"),
        ({"encoder": {"features": 10**11}}, r"features is 10+: it must lie in \[4, 65536\]"),
        ({"decoder": {"hidden": 10**6}}, r"hidden is 1000000: it must lie in \[1, 65536\]"),
        ({"decode": {"beam": 10**6}}, r"beam is 1000000: it must lie in \[1, 65536\]"),
        ({"data": {"crops": 10**6}}, r"crops is 1000000: it must lie in \[0, 1000\]"),
        ({"train": {"batch_size": 2.5}}, "batch_size is 2.5: it must be a whole number"),
        ({"train": {"epochs": True}}, "epochs is True: it must be a number"),
        (
            {"attention": {"state_reads": "posterior", "order": "current"}},
            "'posterior' needs .*kind='hard'",
        ),
        (
            {"attention": {"state_reads": "posterior", "kind": "hard"}},
            "'posterior' needs .*order='current'",
        ),
        (
            {"attention": {"state_reads": "posterior", "kind": "hard", "order": "current"}},
            "state_reads 'posterior' needs config.decoder.product_form=True",
        ),
        ({"decoder": {"place_dropout": 0.2}}, "place_dropout needs .*product_form=True"),
        ({"decoder": {"state_tanh": True}}, "state_tanh needs .*product_form=True"),
        ({"encoder": {"sizes": (64.5,)}}, "sizes is .*: it must be a list of whole numbers"),
        ({"encoder": {"endpoints": "head"}}, "endpoints is 'head': it must be a list of strings"),
        (
            {
                "reward": {"samples": 2, "likelihood": 0.5},
                "attention": {"kind": "hard"},
                "hard": {"baseline": "learned"},
            },
            "config.reward.likelihood: rewards do not train .*baseline 'learned'",
        ),
        ({"seed": -1}, "seed is -1"),
        ({"decode": {"beam": 5, "groups": 2}}, "beam is 5: config.decode.groups, 2, must divide"),
        ({"decode": {"beam": 2, "n_best": 3}}, "n_best is 3: a beam of 2 has no more than 2"),
        ({"decode": {"min_length": 31}}, "min_length is 31: it must be at most .*max_length, 30"),
        ({"decode": {"search": "sample", "beam": 4, "groups": 2}}, "groups needs .*search='beam'"),
        ({"decode": {"top_p": 0.9}}, "top_p need config.decode.search='sample'"),
        ({"decode": {"temperature": 0.9}}, ".temperature.* need config.decode.search='sample'"),
        ({"decode": {"top_p": 0.0}}, r"top_p is 0.0: it must lie in \(0, 1\]"),
        ({"decode": {"top_p": 1.5}}, r"top_p is 1.5: it must lie in \(0, 1\]"),
        ({"decode": {"temperature": 0}}, "temperature is 0.0: it must be over 0"),
        ({"decode": {"no_repeat": -1}}, "no_repeat is -1: it must be at least 0"),
        ({"decode": {"search": "greedy"}}, "search is 'greedy': choose one of 'beam', 'sample'"),
        ({"decode": {"neighbours": 9}}, "neighbours needs config.decode.consensus=True"),
        (
            {
                "data": {"name": "multi30k"},
                "encoder": {"name": "gru"},
                "decode": {"consensus": True, "neighbours": 9},
            },
            "neighbours is for images; for sentences it must be 0",
        ),
    ],
)
def test_what_does_not_go_together_is_one_line(stated, message):
    data = {"name": "shapes"} | stated.get("data", {})
    with pytest.raises(UserError, match=message) as caught:
        config.from_dict(stated | {"data": data})
    assert "\n" not in str(caught.value) and str(caught.value).startswith("config.")


MARGINAL = {
    "hard": {"objective": "marginal"},
    "decoder": {"product_form": True, "gate": False, "output_tanh": False},
    "attention": {"kind": "hard", "state_reads": "nothing"},
}


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"data": {"name": "multi30k"}}, "is for images: sentences have no boxes"),
        ({"attention": {"kind": "none"}}, "needs .*kind 'soft' or 'hard'"),
        ({"attention": {"window": "local_p"}}, "needs .*window='global'"),
        ({"attention": {"read_out": "entmax"}}, "read_out='softmax'"),
        ({"attention": {"supervision": -1.0}}, "supervision is -1.0: it must be at least 0"),
        ({"attention": {"supervised_map": "both"}}, "supervised_map is 'both': choose one of"),
        (
            {"data": {"random_flip": "swap"}, "encoder": {"trainable_from": "all"}},
            "cannot follow boxes into config.data.random_crop and .random_flip",
        ),
        ({"reward": {"samples": 2}}, "config.reward.samples exclude each other"),
        ({"attention": {"supervised_map": "posterior"}}, "'posterior' needs .*product_form=True"),
        (
            MARGINAL | {"hard": {}, "attention": {"kind": "hard", "supervised_map": "posterior"}},
            "'marginal', 'top_k' or 'variational'",
        ),
        (
            MARGINAL | {"attention": {"supervised_map": "posterior"}},
            "'posterior' needs .*and hard attention",
        ),
        (
            {
                "hard": {"objective": "top_k"},
                "attention": {"kind": "hard", "state_reads": "nothing"}
                | {"supervised_map": "posterior"},
            },
            "'posterior' needs .*product_form=True",
        ),
    ],
)
def test_supervision_that_fits_nothing_is_one_line(stated, message):
    attention = {"supervision": 0.5} | stated.get("attention", {})
    data = {"name": "shapes"} | stated.get("data", {})
    with pytest.raises(UserError, match=message) as caught:
        config.from_dict(stated | {"attention": attention, "data": data})
    assert "\n" not in str(caught.value) and str(caught.value).startswith("config.")


def test_supervision_of_a_posterior_fits_the_marginal():
    attention = MARGINAL["attention"] | {"supervision": 0.5, "supervised_map": "posterior"}
    stated = MARGINAL | {"data": {"name": "shapes"}, "attention": attention}
    assert config.from_dict(stated).attention.supervision == 0.5


def test_a_number_beyond_floats_is_one_line():
    stated = {"data": {"name": "shapes"}, "train": {"epochs": 10**400}}
    with pytest.raises(UserError, match=r"config.train.epochs"):
        config.from_dict(stated)


def test_numbers_come_in_the_settings_type():
    settings = config.from_dict({"data": {"name": "shapes"}, "train": {"epochs": 3, "rows": 2.0}})
    assert type(settings.train.epochs) is float and type(settings.train.rows) is int


def test_greedy_decoding_keeps_the_rules_of_a_search_and_nothing_else():
    rules = Decode(max_length=9, no_repeat=2, min_length=3)
    drawn = dataclasses.replace(rules, search="sample", top_k=3, top_p=0.5, temperature=2.0)
    agreed = dataclasses.replace(rules, beam=6, groups=3, n_best=6, consensus=True, neighbours=9)
    for decoding in (drawn, agreed):
        assert decoding.greedy == dataclasses.replace(rules, beam=1)
