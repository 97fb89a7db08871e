import itertools
import json
from collections import Counter

import numpy as np
import pytest

from show_attend_tell.data.batches import (
    Augmentation,
    BatchPlan,
    eval_batches,
    source_ids,
    train_batches,
)
from show_attend_tell.data.images import read_image
from show_attend_tell.data.vocabulary import Vocabulary

EOS = 2
SETTINGS = dict(batch_size=8, rows=3, buckets=4, max_length=40, seed=7)


@pytest.fixture(scope="module")
def captions():
    """61 images with 1 to 5 captions of 1 to 30 words; all captions differ."""
    rng = np.random.default_rng(0)
    words = itertools.count(4)
    return [
        [[next(words) for _ in range(rng.integers(1, 31))] + [EOS] for _ in range(n)]
        for n in rng.integers(1, 6, 61)
    ]


def unpack(rows):
    """The captions in the rows of one image."""
    found = []
    for row in rows:
        words = row[row != 0].tolist()
        assert not np.any(row[len(words) :]), "a word after the padding"
        assert not words or words[-1] == EOS, "a row that does not end with <eos>"
        while words:
            end = words.index(EOS) + 1
            found.append(words[:end])
            words = words[end:]
    return found


def epoch(plan, number):
    first = number * plan.batches_per_epoch
    return [plan.batch(first + i) for i in range(plan.batches_per_epoch)]


@pytest.mark.parametrize("rows", [1, 3, 5])
@pytest.mark.parametrize("batch_size", [8, 61, 100])
def test_every_epoch_has_each_image_once_with_its_own_captions(captions, rows, batch_size):
    plan = BatchPlan(captions, **SETTINGS | {"rows": rows, "batch_size": batch_size})
    for number in range(3):
        seen = Counter()
        for images, tokens in epoch(plan, number):
            assert images.shape == (batch_size,) and tokens.dtype == np.int32
            assert tokens.shape[1] == rows and tokens.shape[2] in plan.lengths
            for image, of_image in zip(images, tokens, strict=True):
                if of_image.any():
                    seen[int(image)] += 1
                    assert sorted(unpack(of_image)) == sorted(captions[image])
        assert seen == Counter(range(61))


def test_shapes_are_few_and_equally_many_in_every_epoch(captions):
    plan = BatchPlan(captions, **SETTINGS)
    shapes = [Counter(tokens.shape for _, tokens in epoch(plan, number)) for number in range(4)]
    assert len(shapes[0]) <= 4
    assert shapes[1:] == shapes[:1] * 3
    assert plan.batches_per_epoch == 8  # ceil(61 / 8)


def test_counts_cover_one_epoch(captions):
    plan = BatchPlan(captions, **SETTINGS)
    batches = epoch(plan, 1)
    assert plan.positions_per_epoch == sum(tokens.size for _, tokens in batches)
    assert plan.tokens_per_epoch == sum(int((tokens != 0).sum()) for _, tokens in batches)
    assert plan.captions == sum(len(of_image) for of_image in captions)


def test_an_image_lies_in_the_shortest_bucket_that_holds_it(captions):
    plan = BatchPlan(captions, **SETTINGS | {"batch_size": 1})
    for _, tokens in epoch(plan, 0):
        longest = int((tokens != 0).sum(axis=2).max())
        assert tokens.shape[2] == min(length for length in plan.lengths if length >= longest)


def test_more_buckets_and_packing_leave_less_padding():
    rng = np.random.default_rng(3)
    captions = [[[4] * n + [EOS] for n in rng.integers(5, 25, 5)] for _ in range(400)]

    def positions(**change):
        return BatchPlan(captions, **SETTINGS | change).positions_per_epoch

    assert positions(rows=5, buckets=6) < positions(rows=5, buckets=1)
    assert positions(rows=3, buckets=6) < positions(rows=5, buckets=6)


def test_order_depends_on_seed_and_epoch_only(captions):
    def order(number, seed=7):
        return [
            image
            for images, _ in epoch(BatchPlan(captions, **SETTINGS | {"seed": seed}), number)
            for image in images
        ]

    assert order(0) == order(0)
    assert order(0) != order(1)
    assert order(0) != order(0, seed=8)


def test_lengths_of_batches_are_shuffled(captions):
    lengths = [tokens.shape[2] for _, tokens in epoch(BatchPlan(captions, **SETTINGS), 0)]
    assert lengths != sorted(lengths)


def test_long_captions_are_cut_and_counted():
    captions = [[[4, 5, 6, 7, EOS], [8, EOS]], [[9, 10, 11, EOS]]]
    plan = BatchPlan(captions, batch_size=2, rows=2, buckets=1, max_length=3, seed=0)
    images, tokens = plan.batch(0)
    assert plan.truncated == 1
    assert tokens[list(images).index(0)].tolist() == [[4, 5, 6, EOS], [8, EOS, 0, 0]]
    assert tokens[list(images).index(1)].tolist() == [[9, 10, 11, EOS], [0, 0, 0, 0]]


@pytest.mark.parametrize("rows", [1, 3])
def test_numbers_of_maps_lie_at_their_tokens(captions, rows):
    # All words differ; a word's map has its own number, <eos> has none.
    numbers = [[[*c[:-1], 0] for c in of_image] for of_image in captions]
    settings = SETTINGS | {"rows": rows, "max_length": 9}
    plan = BatchPlan(captions, maps=numbers, **settings)
    plain = BatchPlan(captions, **settings)
    table = np.random.default_rng(0).random((4000, 2)).astype(np.float16)
    inputs, share = np.zeros((61, 1)), slice(2, 7)
    batches = train_batches(inputs, plan, maps=table, share=share)
    for index in range(plan.batches_per_epoch):
        tokens = plain.batch(index)[1]
        np.testing.assert_array_equal(plan.batch(index)[1], tokens)
        wanted = np.where(tokens == EOS, 0, tokens)
        np.testing.assert_array_equal(plan.maps_of(index), wanted)
        batch = next(batches)
        np.testing.assert_array_equal(batch["tokens"], tokens[share])
        np.testing.assert_array_equal(batch["maps"], table[wanted[share]])
    assert next(train_batches(inputs, plain)).keys() == {"inputs", "tokens"}


def test_maps_of_other_tokens_are_rejected():
    with pytest.raises(ValueError, match="image 1 has maps for other tokens"):
        BatchPlan([[[4, EOS]], [[4, 5, EOS]]], maps=[[[1, 0]], [[1, 0]]], **SETTINGS)


@pytest.mark.parametrize(
    "captions",
    [[], [[]], [[[]]], [[[4, 5]]], [[[4, EOS, 5, EOS]]], [[[0, EOS]]]],
    ids=["no images", "no captions", "empty", "no eos", "eos within", "pad within"],
)
def test_malformed_captions_are_rejected(captions):
    with pytest.raises(ValueError):
        BatchPlan(captions, **SETTINGS)


@pytest.mark.parametrize("prefetch", [0, 5])
def test_inputs_belong_to_their_images(captions, prefetch):
    plan = BatchPlan(captions, **SETTINGS)
    inputs = np.random.default_rng(1).normal(size=(61, 2, 3)).astype(np.float16)
    batches = train_batches(inputs, plan, prefetch=prefetch)
    for index in range(2 * plan.batches_per_epoch):
        images, tokens = plan.batch(index)
        batch = next(batches)
        np.testing.assert_array_equal(batch["inputs"], inputs[images])
        np.testing.assert_array_equal(batch["tokens"], tokens)


@pytest.mark.parametrize("flip", [None, "swap"])
def test_processes_share_a_batch(captions, flip):
    plan = BatchPlan(captions, **SETTINGS)
    inputs = np.random.default_rng(1).integers(0, 256, (61, 6, 6, 3), np.uint8)
    augmentation = flip and Augmentation(size=4, crop=0.7, flip=flip, sides=(4, 5), seed=0)
    whole = train_batches(inputs, plan, augmentation=augmentation)
    halves = [
        train_batches(inputs, plan, augmentation=augmentation, share=share)
        for share in (slice(0, 4), slice(4, 8))
    ]
    for _ in range(10):
        expected, parts = next(whole), [next(half) for half in halves]
        assert all(len(part["inputs"]) == len(part["tokens"]) == 4 for part in parts)
        for name, value in expected.items():
            np.testing.assert_array_equal(np.concatenate([p[name] for p in parts]), value)


def test_source_sentences_are_cut_to_their_bucket():
    """Sentence i has 2 + i words, and a translation of one word or of ten."""
    lengths = np.arange(2, 14)
    captions = [[[4] * (10 if i % 5 == 0 else 1) + [EOS]] for i in range(12)]
    inputs = np.zeros((12, 20), np.int32)
    for row, length in zip(inputs, lengths, strict=True):
        row[:length] = 7
    plan = BatchPlan(
        captions, batch_size=2, rows=1, buckets=3, max_length=40, seed=0, input_lengths=lengths
    )
    batches = train_batches(inputs, plan, cut_to_bucket=True)
    assert len(plan.lengths) == 3 and plan.lengths[-1] == 13
    seen = []
    for index in range(plan.batches_per_epoch):
        images, tokens = plan.batch(index)
        batch = next(batches)
        np.testing.assert_array_equal(batch["tokens"], tokens)
        assert batch["inputs"].shape == (2, tokens.shape[-1])
        np.testing.assert_array_equal((batch["inputs"] == 7).sum(axis=1), lengths[images])
        seen += images.tolist()
    assert sorted(seen) == list(range(12))
    whole = next(train_batches(inputs, plan))  # only when asked to
    assert whole["inputs"].shape == (2, 20)


@pytest.mark.parametrize("stop", [0, 3, 8, 21])
def test_a_restored_iterator_continues_the_same(captions, stop):
    inputs = np.arange(61, dtype=np.float16)[:, None]
    first = train_batches(inputs, BatchPlan(captions, **SETTINGS))
    for _ in range(stop):
        next(first)
    state = json.loads(json.dumps(first.get_state()))
    second = train_batches(inputs, BatchPlan(captions, **SETTINGS))
    next(second)
    second.set_state(state)
    for _ in range(12):  # 8 batches an epoch: across an epoch's end
        expected, found = next(first), next(second)
        np.testing.assert_array_equal(found["inputs"], expected["inputs"])
        np.testing.assert_array_equal(found["tokens"], expected["tokens"])
    assert first.get_state() == second.get_state()


def test_batches_never_end(captions):
    plan = BatchPlan(captions, **SETTINGS)
    batches = train_batches(np.zeros((61, 1)), plan)
    batches.set_state({"next_index": 1_000_003})
    np.testing.assert_array_equal(next(batches)["tokens"], plan.batch(1_000_003)[1])


def test_a_wrong_number_of_inputs_is_rejected(captions):
    with pytest.raises(ValueError, match="60 inputs, but captions of 61 images"):
        train_batches(np.zeros((60, 2)), BatchPlan(captions, **SETTINGS))


def test_eval_batches_have_one_shape_and_count_what_is_valid():
    inputs = np.arange(10, dtype=np.float16).reshape(5, 2)
    batches = list(eval_batches(inputs, 3))
    assert [(batch.shape, valid) for batch, valid in batches] == [((3, 2), 3), ((3, 2), 2)]
    np.testing.assert_array_equal(np.concatenate([b[:n] for b, n in batches]), inputs)
    [(batch, valid)] = eval_batches(inputs[:1], 3)
    assert batch.shape == (3, 2) and valid == 1


def test_source_sentences_are_encoded_closed_and_cut():
    vocabulary = Vocabulary.from_captions([["a", "b", "c"]], 1, "words")
    ids, cut = source_ids(["a b c", "b a", "", "c ?", "c c c c"], vocabulary, 3)
    assert ids.dtype == np.int32 and cut == 1
    assert ids.tolist() == [
        [4, 5, 6, EOS],
        [5, 4, EOS, 0],
        [EOS, 0, 0, 0],
        [6, 3, EOS, 0],
        [6, 6, 6, EOS],
    ]


LEFT, RIGHT = 5, 6


def augmented(count=64, **changes):
    """A batch of equal images, half white from the left, captioned `left x`, `x right` or `x`."""
    images = np.zeros((count, 20, 20, 3), np.uint8)
    images[:, :, :10] = 255
    tokens = np.array([[[LEFT, 7, EOS]], [[7, RIGHT, EOS]], [[7, EOS, 0]]] * count, np.int32)
    tokens = tokens[:count]
    settings = dict(size=10, crop=1.0, flip="off", sides=(LEFT, RIGHT), seed=3) | changes
    share = settings.pop("share", slice(None))
    index = settings.pop("index", 0)
    made = Augmentation(**settings).apply(images[share], tokens, index, share)
    return made["inputs"], made["tokens"], tokens[share]


def test_without_crop_and_flip_an_image_is_only_resized():
    seen, tokens, before = augmented()
    np.testing.assert_array_equal(tokens, before)
    assert (seen[:, :, :4] > 250).all() and (seen[:, :, 6:] < 5).all()


@pytest.mark.parametrize("size, crop, stored", [(10, 1.0, 10), (10, 0.5, 20), (10, 0.7, 15)])
def test_stored_images_are_as_large_as_the_smallest_crop_needs(size, crop, stored):
    made = Augmentation(size=size, crop=crop, flip="off", sides=(), seed=0)
    assert made.stored_size == stored and stored * crop >= size


def test_a_flipped_image_has_its_words_swapped():
    seen, tokens, before = augmented(flip="swap")
    flipped = seen[:, 0, 0, 0] < 128
    assert 16 < flipped.sum() < 48
    np.testing.assert_array_equal(tokens[~flipped], before[~flipped])
    swap = np.arange(8)
    swap[[LEFT, RIGHT]] = RIGHT, LEFT
    np.testing.assert_array_equal(tokens[flipped], swap[before[flipped]])


@pytest.mark.parametrize("changes", [{"flip": "skip"}, {"flip": "swap", "sides": (LEFT,)}])
def test_images_whose_captions_name_sides_can_be_left_unflipped(changes):
    seen, tokens, before = augmented(**changes)
    flipped = seen[:, 0, 0, 0] < 128
    np.testing.assert_array_equal(tokens, before)
    named = (before == LEFT).any(axis=(1, 2))
    named |= (before == RIGHT).any(axis=(1, 2)) & (changes["flip"] == "skip")
    assert not flipped[named].any() and flipped[~named].any()


def test_crops_are_parts_of_the_image_and_differ():
    seen, _, _ = augmented(crop=0.5)
    white = (seen[:, 0, :, 0] > 128).mean(axis=1)  # the half that is white, of what is seen
    assert len(np.unique(white)) > 4 and white.min() < 0.4 and white.max() > 0.6


def test_a_crop_is_the_window_that_read_image_takes():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (1, 20, 20, 3), np.uint8)
    augmentation = Augmentation(size=10, crop=0.5, flip="off", sides=(), seed=3)
    made = augmentation.apply(images, np.full((1, 1, 1), EOS, np.int32), 9, slice(None))
    height, width, top, left, _ = np.random.default_rng([3, 9]).uniform(size=5)
    height, width = 1 - 0.5 * height, 1 - 0.5 * width
    window = (
        top * (1 - height),
        left * (1 - width),
        top * (1 - height) + height,
        left * (1 - width) + width,
    )
    np.testing.assert_array_equal(made["inputs"][0], read_image(images[0], 10, window))


def test_views_depend_on_seed_and_batch_only_whatever_the_share():
    settings = dict(crop=0.5, flip="swap")
    whole = augmented(**settings)
    np.testing.assert_array_equal(augmented(**settings)[0], whole[0])
    for share in (slice(0, 32), slice(32, 64)):
        seen, tokens, _ = augmented(**settings, share=share)
        np.testing.assert_array_equal(seen, whole[0][share])
        np.testing.assert_array_equal(tokens, whole[1][share])
    for other in ({"seed": 4}, {"index": 1}):
        assert (augmented(**settings, **other)[0] != whole[0]).any()


def test_augmented_batches_can_be_resumed():
    captions = [[[7, LEFT, EOS]]] * 6
    plan = BatchPlan(captions, batch_size=3, rows=1, buckets=1, max_length=5, seed=0)
    inputs = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), np.uint8)
    augmentation = Augmentation(size=8, crop=0.5, flip="swap", sides=(LEFT, RIGHT), seed=0)
    batches = train_batches(inputs, plan, augmentation=augmentation)
    seen = [next(batches) for _ in range(2)]
    state = batches.get_state()
    seen += [next(batches) for _ in range(2)]
    assert all(batch["inputs"].shape == (3, 8, 8, 3) for batch in seen)
    again = train_batches(inputs, plan, augmentation=augmentation)
    again.set_state(state)
    for batch in seen[2:]:
        for name, value in next(again).items():
            np.testing.assert_array_equal(value, batch[name])


def test_the_rows_of_languages_take_turns():
    captions = [[[4, EOS], [5, 5, EOS], [6, EOS], [7, 7, EOS]], [[4, EOS], [5, EOS]]]
    languages = [(0, 1, 0, 1), (1, 1)]
    settings = {"batch_size": 2, "rows": 2, "buckets": 1, "max_length": 9, "seed": 0}
    plan = BatchPlan(captions, languages=languages, **settings)
    images, tokens = plan.batch(0)
    assert tokens.shape == (2, 4, 3) and plan.positions_per_epoch == tokens.size
    of = dict(zip(images.tolist(), tokens.tolist(), strict=True))
    assert sorted(of[0][::2]) == [[4, EOS, 0], [6, EOS, 0]]
    assert sorted(of[0][1::2]) == [[5, 5, EOS], [7, 7, EOS]]
    assert of[1][::2] == [[0, 0, 0]] * 2 and sorted(of[1][1::2]) == [[4, EOS, 0], [5, EOS, 0]]
    maps = [[[*range(1, len(c)), 0] for c in of_image] for of_image in captions]
    mapped = BatchPlan(captions, languages=languages, maps=maps, **settings)
    assert (mapped.maps_of(0) > 0).tolist() == (tokens > EOS).tolist()
