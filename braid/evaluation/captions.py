"""Measures of texts against references: exact match, word errors, BLEU and CIDEr-D."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from braid.data.rows import require
from braid.errors import BraidError
from braid.evaluation.metrics import Estimate, bootstrap_sums, mean, ratio

References = Sequence[str] | Sequence[Sequence[str]]
"""The references of each text: one, or several."""

_WORD = re.compile(r"\w+(?:'\w+)*")
_SIGMA = 6.0  # of the length penalty of CIDEr-D, in words
_Gram = tuple[str, ...]
_Grams = list[Counter[_Gram]]  # for n = 1..4: n-gram to number of times
_Rarity = Callable[[_Gram], float]


def exact_match(
    said: Sequence[str], true: Sequence[str], resamples: int = 1000, seed: int = 0
) -> Estimate:
    """Return the share of texts that are right but for upper case and white space."""
    _aligned(said, true)
    return mean([_plain(a) == _plain(b) for a, b in zip(said, true, strict=True)], resamples, seed)


def word_error_rate(
    said: Sequence[str], true: Sequence[str], resamples: int = 1000, seed: int = 0
) -> Estimate:
    """Return the word edits of all texts through the words of the true ones; it can exceed 1.

    Upper case and punctuation count, white space does not.
    """
    jiwer = require("jiwer", "eval")
    _aligned(said, true)
    edits, words = [], []
    for i, (a, b) in enumerate(zip(said, true, strict=True)):
        if not b.split():
            raise BraidError(f"true text {i} has no words; leave it out, it has no word error rate")
        found = jiwer.process_words(" ".join(b.split()), " ".join(a.split()))
        edits.append(found.substitutions + found.deletions + found.insertions)
        words.append(found.hits + found.substitutions + found.deletions)
    return ratio(edits, words, resamples, seed)


def bleu(
    said: Sequence[str],
    references: References,
    order: int = 4,
    resamples: int = 1000,
    seed: int = 0,
) -> Estimate:
    """Return sacrebleu's corpus BLEU, 0..100, with its tokens ("13a") and smoothing ("exp").

    `order` is the longest n-gram: texts of fewer than 4 words have none of 4, hence a BLEU of 0.
    """
    module = require("sacrebleu.metrics", "eval")
    several = _several(said, references)
    # a sentence's counts do not depend on effective_order; with it, no warning about its score
    metric = module.BLEU(max_ngram_order=order, effective_order=True)
    scores = [metric.sentence_score(a, refs) for a, refs in zip(said, several, strict=True)]
    stats = np.array([[*s.counts, *s.totals, s.sys_len, s.ref_len] for s in scores])  # [n, K]

    def corpus(sums: np.ndarray) -> np.ndarray:
        """Return the BLEU of each row of sums, [R, K] to [R]."""
        return np.array(
            [
                module.BLEU.compute_bleu(
                    row[:order], row[order:-2], *row[-2:], "exp", max_ngram_order=order
                ).score
                for row in sums.tolist()
            ]
        )

    return bootstrap_sums(corpus, stats, resamples, seed)


def cider(
    said: Sequence[str], references: References, resamples: int = 1000, seed: int = 0
) -> Estimate:
    """Return CIDEr-D, 0..10: words weigh by how few items' references use them.

    Cosines of tf-idf vectors of n-grams, n = 1..4, clipped at the reference's counts, times a
    Gaussian penalty of the difference in length, averaged over n and references, times 10
    (arXiv:1411.5726, sec. 6). Words are lower case without punctuation; counts are not divided by
    the length, as is usual. The document frequencies are those of all references given, so compare
    models only on the same items; the interval keeps them and resamples the texts.
    """
    several = _several(said, references)
    if len(several) < 2:
        raise BraidError("CIDEr got 1 item, in which every word is equally rare; give at least 2")
    counted = [[_grams(r) for r in refs] for refs in several]
    rarity = _rarity(counted)
    scores = []
    for text, refs in zip(said, counted, strict=True):
        own = _grams(text)
        scores.append(10 * np.mean([_likeness(own, ref, rarity) for ref in refs]))
    return mean(np.array(scores), resamples, seed)


def _grams(text: str) -> _Grams:
    """Return how often each n-gram of words occurs, for n = 1..4."""
    words = _WORD.findall(text.casefold())
    return [
        Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1)) for n in range(1, 5)
    ]


def _rarity(counted: Sequence[Sequence[_Grams]]) -> _Rarity:
    """Return a function of an n-gram: log(items / items whose references hold it)."""
    items = Counter[_Gram]()
    for refs in counted:
        items.update({gram for ref in refs for grams in ref for gram in grams})
    most = math.log(len(counted))  # what no reference holds is as rare as what one does
    return lambda gram: most - math.log(max(1, items[gram]))


def _likeness(said: _Grams, true: _Grams, rarity: _Rarity) -> float:
    """Return the mean over n of the clipped cosines, times the penalty of the length."""
    apart = said[0].total() - true[0].total()
    cosines = [_cosine(a, b, rarity) for a, b in zip(said, true, strict=True)]
    return math.exp(-(apart**2) / (2 * _SIGMA**2)) * sum(cosines) / len(cosines)


def _cosine(said: Counter[_Gram], true: Counter[_Gram], rarity: _Rarity) -> float:
    """Return the cosine of two weighted counts, those of `said` clipped at those of `true`."""
    common = sum(min(said[g], true[g]) * true[g] * rarity(g) ** 2 for g in said.keys() & true)
    if common == 0:  # also where a text has no such n-grams
        return 0.0
    sizes = (sum((c * rarity(g)) ** 2 for g, c in text.items()) for text in (said, true))
    return common / math.sqrt(math.prod(sizes))


def _plain(text: str) -> str:
    """Return a text without upper case, and with single spaces."""
    return " ".join(text.casefold().split())


def _several(said: Sequence[str], references: References) -> list[list[str]]:
    """Return the references of each text as lists."""
    _aligned(said, references)
    several = [[r] if isinstance(r, str) else list(r) for r in references]
    if not all(several):
        i = [bool(refs) for refs in several].index(False)
        raise BraidError(f"text {i} has no references; give at least one, or leave it out")
    return several


def _aligned(said: Sequence[str], true: Sequence[object]) -> None:
    """Refuse lists of different lengths, empty ones, and single texts."""
    if isinstance(said, str) or isinstance(true, str):
        raise BraidError("got a single text; give lists of texts, one an item")
    if len(said) != len(true) or not said:
        raise BraidError(
            f"got {len(said)} texts and {len(true)} true ones; give one of each an item, at least "
            "one"
        )
