from __future__ import annotations

import math
from collections.abc import Callable

import jiwer
import numpy as np
import pytest
import sacrebleu
import scipy.signal
import torch

from braid.errors import BraidError
from braid.evaluation.captions import bleu, cider, exact_match, word_error_rate
from braid.evaluation.metrics import (
    Estimate,
    bits_per_byte,
    bits_per_dimension,
    bootstrap,
    frechet,
    kernel_distance,
    mean,
    precision_recall,
    psnr,
    ratio,
    retrieval_recall,
    si_sdr,
    ssim,
)
from braid.evaluation.quality import frechet_distance

SAID = ["a small cat sits on the mat", "two dogs run in the wet park", "a red car", "blue sky"]
TRUE = ["a small cat sat on the mat", "two dogs play in the green park", "the red car", "blue sky"]


def normal(n: int, width: int, seed: int, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1, (n, width))


def holds(estimate: Estimate, value: float) -> bool:
    return estimate.low <= value <= estimate.high


# --- the bootstrap


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    drawn = rng.exponential(1.0, (300, 60))
    covered = np.mean([holds(mean(row, seed=i), 1.0) for i, row in enumerate(drawn)])
    assert 0.88 <= covered <= 0.98


def test_a_wider_level_gives_a_wider_interval():
    values = normal(50, 1, 0)[:, 0]
    narrow, wide = mean(values, level=0.5), mean(values, level=0.99)
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high


def test_the_bootstrap_repeats_with_its_seed():
    values = normal(40, 1, 1)[:, 0]
    assert mean(values, seed=3) == mean(values, seed=3) != mean(values, seed=4)


@pytest.mark.parametrize("n", [1, 7, 3000])
def test_sums_give_the_same_interval_as_the_plain_bootstrap(n: int):
    values = normal(n, 1, 2)[:, 0]
    fast, plain = mean(values, seed=5), bootstrap(lambda i: float(values[i].mean()), n, seed=5)
    assert [fast.value, fast.low, fast.high] == pytest.approx([plain.value, plain.low, plain.high])
    assert fast.n == plain.n == n


def test_an_estimate_is_a_row_of_numbers():
    estimate = Estimate(0.5, 0.25, 0.75, 8)
    assert estimate.numbers("x") == {"x": 0.5, "x_low": 0.25, "x_high": 0.75}


def test_a_ratio_counts_units_and_not_items():
    estimate = ratio([1.0, 30.0], [1.0, 10.0])
    assert estimate.value == pytest.approx(31 / 11)
    assert holds(estimate, estimate.value)


@pytest.mark.parametrize("per", [bits_per_byte, bits_per_dimension])
def test_bits_are_nats_through_the_logarithm_of_two(per: Callable[..., Estimate]):
    assert per([8 * math.log(2), 24 * math.log(2)], [4, 4]).value == pytest.approx(4.0)


# --- texts


def test_exact_match_forgives_upper_case_and_white_space():
    assert exact_match(["A  cat ", "dog", "x"], ["a cat", "dogs", "X"]).value == pytest.approx(
        2 / 3
    )


def test_word_errors_are_counted_by_hand():
    # a substitution; a deletion; an insertion; nothing: 3 edits of 3 + 3 + 1 + 2 words
    said, true = ["a b x", "a c", "a b", "a b"], ["a b c", "a b c", "a", "a  b"]
    assert word_error_rate(said, true).value == pytest.approx(3 / 9)
    assert word_error_rate([""], ["a b"]).value == 1.0
    assert word_error_rate(["a\tb \n c"], ["a b\u00a0c"]).value == 0.0
    assert word_error_rate(["x y z"], ["a"]).value == 3.0


def test_the_word_error_rate_is_that_of_the_corpus():
    estimate = word_error_rate(SAID, TRUE)
    assert estimate.value == pytest.approx(jiwer.wer(TRUE, SAID))
    assert holds(estimate, estimate.value)


@pytest.mark.parametrize("order", [2, 4])
def test_bleu_is_that_of_sacrebleu(order: int):
    other = [t.replace("the", "a") for t in TRUE]
    expected = sacrebleu.BLEU(max_ngram_order=order).corpus_score(SAID, [TRUE, other]).score
    found = bleu(SAID, list(zip(TRUE, other, strict=True)), order=order)
    assert found.value == pytest.approx(expected)
    assert found.low < found.value < found.high


def test_bleu_takes_one_reference_or_different_numbers_of_them():
    assert bleu(SAID, TRUE) == bleu(SAID, [[t] for t in TRUE])
    assert bleu(TRUE, [[t, "another one"][: i % 2 + 1] for i, t in enumerate(TRUE)]).value == (
        pytest.approx(100)
    )


def test_a_perfect_bleu_has_no_spread():
    found = bleu(SAID[:2], SAID[:2])
    assert [found.value, found.low, found.high] == pytest.approx([100, 100, 100])


def test_the_bootstrap_of_bleu_is_that_of_whole_corpora():
    def whole(items: np.ndarray) -> float:
        said, true = ([texts[i] for i in items] for texts in (SAID, TRUE))
        return sacrebleu.corpus_bleu(said, [true]).score

    fast, plain = bleu(SAID, TRUE, resamples=50), bootstrap(whole, len(SAID), resamples=50)
    assert [fast.low, fast.high] == pytest.approx([plain.low, plain.high])


def test_cider_of_a_tiny_case_is_computed_by_hand():
    # items {a b}, {a c}: "a" is in both and weighs 0; all else weighs log 2.
    # 1-grams of "a b b" against "a b": clipped 1 * 1, over sizes 2 and 1; 2-grams: {ab, bb} against
    # {ab}: 1 over sqrt 2 and 1; 3- and 4-grams none. One word longer: exp(-1 / 72).
    first = 10 * math.exp(-1 / 72) * (1 / 2 + 1 / math.sqrt(2)) / 4
    assert cider(["a b b", "x"], ["a b", "a c"]).value == pytest.approx(first / 2)


def test_cider_ranks_the_same_above_the_near_above_the_different():
    true = [*TRUE, "a tall tree stands alone there"]
    near = [*SAID, "a tall tree stands alone"]
    scores = [cider(texts, true).value for texts in (true, near, true[::-1])]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > scores[1] > scores[2] >= 0


def test_cider_of_identical_long_texts_is_ten():
    texts = ["one two three four five", "six seven eight nine ten"]
    assert cider([t.upper() + "!" for t in texts], [[t] for t in texts]).value == pytest.approx(10)


def test_cider_is_the_mean_over_references():
    texts = ["one two three four", "five six seven eight"]
    one = cider(texts, texts).value
    assert cider(texts, [[t, "other words are here"] for t in texts]).value < one


# --- sets of features


def test_retrieval_finds_a_permutation_only_where_rows_belong_together():
    a = torch.from_numpy(normal(64, 16, 0))
    there, back = retrieval_recall(a, 3 * a)
    assert there.value == back.value == 1.0
    wrong = retrieval_recall(a, a.roll(1, 0))
    assert wrong[0].value == wrong[1].value == 0.0


def test_ties_count_against_the_true_row():
    same = torch.ones(8, 4)
    there, back = retrieval_recall(same, same)
    assert there.value == back.value == 0.0
    pairs = torch.eye(4).repeat_interleave(2, 0)
    assert retrieval_recall(pairs, pairs, k=1)[0].value == 0.0
    assert retrieval_recall(pairs, pairs, k=2)[0].value == 1.0


def test_retrieval_has_its_two_directions_apart():
    a = torch.tensor([[1.0, 0.0], [0.9, 0.1]])
    b = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    there, back = retrieval_recall(a, b)
    assert (there.value, back.value) == (0.5, 1.0)


def test_galleries_make_chance_what_they_say():
    a, b = (torch.from_numpy(normal(2003, 8, seed)) for seed in (0, 1))
    there, back = retrieval_recall(a, b, among=10)
    assert there.n == back.n == 2000
    assert abs(there.value - 0.1) < 0.03
    assert abs(back.value - 0.1) < 0.03


def test_the_kernel_distance_is_about_zero_within_a_distribution_and_not_between_two():
    same = kernel_distance(normal(400, 8, 0), normal(500, 8, 1))
    apart = kernel_distance(normal(400, 8, 0), normal(500, 8, 1, shift=0.5))
    assert holds(same, 0.0)
    assert apart.low > same.high


def test_the_kernel_distance_is_the_mean_over_pairs():
    a, b = normal(5, 3, 0), normal(4, 3, 1)

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return float((x @ y / 3 + 1) ** 3)

    own = [
        np.mean([kernel(x[i], x[j]) for i in range(len(x)) for j in range(len(x)) if i != j])
        for x in (a, b)
    ]
    across = np.mean([kernel(x, y) for x in a for y in b])
    assert kernel_distance(a, b).value == pytest.approx(own[0] + own[1] - 2 * across)


def test_the_kernel_distance_of_a_subset_is_near_that_of_all():
    a, b = normal(1500, 4, 0), normal(1500, 4, 1, shift=0.5)
    whole = kernel_distance(a, b, resamples=20)
    assert holds(kernel_distance(a, b, rows=700), whole.value)


def mean_kernel(moments: tuple[float, float, float], width: int) -> float:
    """Return E (1 + x y / D)^3 of independent coordinates, from E p, E p^2, E p^3 of p = x_i y_i.

    Cumulants add up over coordinates, so this is exact.
    """
    one, two, three = moments
    spread, skew = two - one**2, three - 3 * one * two + 2 * one**3
    middle = 1 + one
    return middle**3 + 3 * middle * spread / width + skew / width**2


def test_the_interval_of_the_kernel_distance_covers_the_truth():
    shift, width, rows = 0.5, 8, 80
    square = 1 + shift**2  # E y^2 of y ~ N(shift, 1)
    truth = (
        mean_kernel((0, 1, 0), width)
        + mean_kernel((shift**2, square**2, (3 * shift + shift**3) ** 2), width)
        - 2 * mean_kernel((0, square, 0), width)
    )
    rng = np.random.default_rng(0)
    found = [
        kernel_distance(
            rng.normal(0, 1, (rows, width)), rng.normal(shift, 1, (rows, width)), resamples=100
        )
        for _ in range(100)
    ]
    assert np.mean([f.value for f in found]) == pytest.approx(truth, abs=0.1)
    assert np.mean([holds(f, truth) for f in found]) >= 0.85


def test_identical_sets_have_full_precision_and_recall_and_disjoint_ones_none():
    a = normal(60, 5, 0)
    assert [e.value for e in precision_recall(a, a)] == [1.0, 1.0]
    assert [e.value for e in precision_recall(a, a + 100)] == [0.0, 0.0]


def test_precision_and_recall_tell_a_lost_half_from_an_invented_one():
    two = np.concatenate([normal(80, 4, 0), normal(80, 4, 1, shift=50)])
    one = normal(160, 4, 2)
    precision, recall = precision_recall(two, one)
    assert precision.value > 0.8
    assert recall.value < 0.6
    swapped = precision_recall(one, two)
    assert (swapped[0].value, swapped[1].value) == (recall.value, precision.value)


def test_the_frechet_interval_holds_the_plain_distance():
    a, b = normal(200, 6, 0), normal(150, 6, 1, shift=0.3)
    found = frechet(torch.from_numpy(a), b)
    assert found.value == pytest.approx(frechet_distance(a, b))
    assert found.low < found.value < found.high
    assert found.n == 150


def test_the_frechet_distance_of_one_column_is_that_of_two_normals():
    a, b = normal(400, 1, 0), 2 * normal(400, 1, 1) + 1
    want = (a.mean() - b.mean()) ** 2 + (a.std(ddof=1) - b.std(ddof=1)) ** 2
    assert frechet_distance(a, b) == pytest.approx(want)
    assert frechet(a, b, resamples=5).value == pytest.approx(want)


def test_the_frechet_distance_of_a_set_to_itself_is_not_below_zero():
    rows = normal(20, 300, 0)
    found = frechet(rows, rows, resamples=3)
    assert 0 <= found.value < 1e-3
    assert found.low <= found.value


def test_the_frechet_interval_of_a_larger_shift_lies_above():
    a, b = normal(300, 6, 0), normal(300, 6, 1)
    assert frechet(a, b).high < frechet(a, b + 1).low


# --- pictures and sounds


def test_the_noise_of_a_picture_has_its_decibels():
    a = np.full((2, 4, 4, 3), 0.5)
    b = a + np.array([0.1, 0.01]).reshape(2, 1, 1, 1)
    assert psnr(a, b) == pytest.approx([20, 40])
    zero, one = np.zeros((1, 4, 4, 1), np.uint8), np.ones((1, 4, 4, 1), np.uint8)
    assert psnr(zero, one) == pytest.approx([20 * math.log10(255)])
    assert psnr(a, a).tolist() == [math.inf, math.inf]


@pytest.mark.slow
def test_structural_similarity_is_one_of_equal_and_known_of_plain_pictures():
    noise = np.random.default_rng(0).integers(0, 256, (300, 12, 13, 3)).astype(np.uint8)
    assert ssim(noise, noise) == pytest.approx(np.ones(300), abs=1e-5)
    assert (ssim(noise, noise[::-1].copy()) < 0.5).all()
    a, b = np.full((1, 16, 16, 1), 0.2), np.full((1, 16, 16, 1), 0.6)
    expected = (2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4)  # no variance: means alone
    assert ssim(a, b) == pytest.approx([expected], abs=1e-4)


def test_structural_similarity_looks_through_windows_that_lie_whole_within_the_picture():
    rng = np.random.default_rng(0)
    a, b = rng.uniform(size=(2, 3, 16, 20, 2))
    b = (a + 0.3 * b) / 1.3
    at = np.arange(-5, 6)
    row = np.exp(-(at**2) / (2 * 1.5**2))
    window = np.outer(row, row) / row.sum() ** 2

    def blurred(x):
        return scipy.signal.convolve2d(x, window, "valid")

    def similarity(x, y):
        mx, my = blurred(x), blurred(y)
        xx, yy, xy = blurred(x * x) - mx**2, blurred(y * y) - my**2, blurred(x * y) - mx * my
        up = (2 * mx * my + 1e-4) * (2 * xy + 9e-4)
        return (up / ((mx**2 + my**2 + 1e-4) * (xx + yy + 9e-4))).mean()

    both = zip(a, b, strict=True)
    want = [np.mean([similarity(x[..., c], y[..., c]) for c in range(2)]) for x, y in both]
    assert ssim(a, b) == pytest.approx(want, abs=1e-5)


def test_the_distortion_of_a_clip_has_its_decibels_at_any_volume():
    rng = np.random.default_rng(0)
    target = rng.normal(size=4000)
    noise = rng.normal(size=4000)
    noise -= target * (noise @ target) / (target @ target)  # what is parallel would be volume
    noise *= np.linalg.norm(target) / np.linalg.norm(noise)
    estimates = [0.3 * (target + 10 ** (-db / 20) * noise) for db in (0, 10, 25)]
    assert si_sdr(estimates, [target] * 3) == pytest.approx([0, 10, 25])


def test_a_scaled_clip_is_not_distorted_and_silence_wholly():
    target = np.random.default_rng(0).normal(size=(2, 100))
    assert (si_sdr(-7 * target, target) > 200).all()
    assert si_sdr(0 * target, target).tolist() == [-math.inf, -math.inf]


# --- mistakes

ROWS = torch.ones(4, 3)


@pytest.mark.parametrize(
    "call",
    [
        lambda: mean([]),
        lambda: mean([1.0, math.nan]),
        lambda: mean([math.inf, 1.0]),
        lambda: mean([1.0, 2.0], level=95),
        lambda: bootstrap(lambda i: 0.0, 0),
        lambda: bootstrap(lambda i: math.nan, 3),
        lambda: ratio([1.0, 2.0], [1.0]),
        lambda: ratio([1.0, 2.0], [1.0, 0.0]),
        lambda: bits_per_byte([math.nan], [1]),
        lambda: exact_match([], []),
        lambda: exact_match(["a"], ["a", "b"]),
        lambda: exact_match("ab", ["a", "b"]),
        lambda: word_error_rate(["a"], [" "]),
        lambda: bleu(["a", "b"], [["a"]]),
        lambda: bleu(["a", "b"], [["a"], []]),
        lambda: cider(["a"], [["a"]]),
        lambda: retrieval_recall(ROWS, ROWS[:3]),
        lambda: retrieval_recall(ROWS, ROWS, k=4),
        lambda: retrieval_recall(ROWS, ROWS, among=5),
        lambda: retrieval_recall(ROWS, ROWS * math.nan),
        lambda: kernel_distance(ROWS, ROWS[:, :2]),
        lambda: kernel_distance(ROWS, ROWS[:1]),
        lambda: frechet(ROWS, ROWS * math.nan),
        lambda: frechet(ROWS[:0], ROWS),
        lambda: precision_recall(ROWS, ROWS, k=4),
        lambda: psnr(np.zeros((1, 2, 2, 1)), np.zeros((2, 2, 2, 1))),
        lambda: psnr(np.full((1, 2, 2, 1), math.nan), np.zeros((1, 2, 2, 1))),
        lambda: psnr(np.full((1, 2, 2, 1), 255.0), np.zeros((1, 2, 2, 1))),
        lambda: ssim(np.zeros((1, 8, 8, 1)), np.zeros((1, 8, 8, 1))),
        lambda: si_sdr([], []),
        lambda: si_sdr([np.ones(3)], [np.ones(4)]),
        lambda: si_sdr([np.ones(3)], [np.zeros(3)]),
        lambda: si_sdr([np.full(3, math.nan)], [np.ones(3)]),
    ],
)
def test_what_cannot_be_measured_is_refused(call: Callable[[], object]):
    with pytest.raises(BraidError):
        call()
