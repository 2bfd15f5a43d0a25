"""Marks questions that ask for the same thing as an earlier one. Nothing is deleted.

Similar spelling is not similar meaning: "Which valve closes first?" and "Which valve closes last?" share most of their
letters. So a pair is a duplicate only for a reason, and the spelling decides among those:

* the questions are equal but for case, spacing, typography and closing punctuation ("exact"), or
* ("lexical") they have the same content words in the same order, and differ in plurals and in little words (articles,
  forms of "be"), or
* they have the same content words, and a clause moved: "In 1969, who ...?" and "Who ... in 1969?", "the pump's
  pressure" and "the pressure of the pump", or
* one has words more than the other, and the answers agree: "the capital of France", "the capital city of France".

Numbers, signs and negations must agree always. Pairs without such a reason score at most 0.85: a threshold lower than
the default takes them in.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Literal

from rapidfuzz import fuzz, process

from gristmill.data.kinds import Duplicate, Evaluation, Example, Vector
from gristmill.errors import InputError
from gristmill.operators.dedup_found import Found
from gristmill.operators.dedup_groups import Keep, Scope, choose_kept, within
from gristmill.operators.dedup_vectors import find_near, vectors_of
from gristmill.operators.operator import Context, Derived, operator
from gristmill.operators.wording import fold, has_possessive, negations, numbers, question_key, words

WITHOUT_REASON = 0.85  # the most that spelling alone can reach
LOWEST_THRESHOLD = 0.5  # below it everything resembles everything, and the index is no help
ANSWERS_AGREE = 80.0  # of 100

_ARTICLES = {
    "en": "a an the",
    "de": "der die das den dem des ein eine einen einem einer eines",
    "fr": "le la les l un une des du",
    "es": "el la los las un una unos unas",
    "it": "il lo la i gli le un una uno",
    "pt": "o a os as um uma",
    "nl": "de het een",
    "zh": "的 了 吗 呢",
    "ja": "の は が を に で か",
}
_LITTLE_WORDS = {
    "en": "of is are was were be been being do does did has have had it its there this that these those please exactly",
    "de": "ist sind war waren wird werden wurde wurden",
    "fr": "de d est sont était étaient",
    "es": "de del es son era eran fue fueron",
    "it": "di del della è sono era erano",
    "pt": "de do da é são era eram foi foram",
    "nl": "van is zijn was waren wordt worden werd werden",
    "zh": "是 请 问 在 该 此",
}
_SAME = {"which": "what", "are": "is", "were": "was"}
_OPENING = "in on at for during under within when if after before by according while since"
_OPENINGS = frozenset(_OPENING.split())


Method = Literal["exact", "lexical", "vectors"]


@operator("dedup", version=1, barrier=True, isolate=True)
async def dedup(
    examples: list[Example | Evaluation | Vector],
    ctx: Context,
    threshold: float = 0.9,
    method: Method = "lexical",
    keep: Keep = "first",
    scope: Scope = "run",
) -> list[Derived[Duplicate]]:
    """A mark for every example whose question repeats another one's; of each group one is kept.

    The parents of a mark are the duplicate and the kept one, as positions in `examples`. `threshold` is the least
    similarity, 0.5 to 1 (default 0.9). `method`: "exact" compares folded questions only, "lexical" (default) words,
    "vectors" the vectors of the questions, which a step before has to make. `keep`: the "first" (default), the
    "best_score" of evaluations that a step before has made, or the "longest" question and answer. `scope="label"` looks
    for duplicates among those of the same label only. Function words are known for en, de, fr, es, it, pt, nl, zh and
    ja (by `ctx.language`); in other languages fewer pairs are found.

    Raises `InputError` for a threshold out of range, T223 for a question without a vector, T224 for "best_score"
    without evaluations. Holds about 2 KB of memory for an example, and its vector.
    """
    if not LOWEST_THRESHOLD <= threshold <= 1.0:
        raise InputError(f"dedup: threshold is {threshold}, it is between {LOWEST_THRESHOLD} and 1")
    places = [place for place, one in enumerate(examples) if isinstance(one, Example)]
    rows = [one for one in examples if isinstance(one, Example)]
    points = [one for one in examples if isinstance(one, Vector)]
    vectors = await vectors_of(rows, points, ctx.blobs) if method == "vectors" else []

    def find(members: list[int]) -> list[Found]:
        own = [rows[member] for member in members]
        near = find_near(own, [vectors[member] for member in members], threshold) if vectors else None
        found = find_duplicates(own, threshold=threshold, method=method, language=ctx.language, near=near)
        return [one._replace(later=members[one.later], kept=members[one.kept]) for one in found]

    marks = choose_kept(rows, within(rows, scope, find), keep, [one for one in examples if isinstance(one, Evaluation)])
    ctx.notes.update(examples=len(rows), duplicates=len(marks))
    return [
        Derived(Duplicate(similarity=score, method=how), (places[later], places[kept]))
        for later, kept, score, how in marks
    ]


def find_duplicates(
    examples: list[Example], *, threshold: float = 0.9, method: str = "lexical", language: str = "en",
    near: dict[int, tuple[int, float]] | None = None,
) -> list[Found]:  # fmt: skip
    """What `dedup` marks, in the order of the duplicates; the first of each group is kept.

    `near`: what `find_near` found, in place of a comparison of words.

    Plain code that does not yield: about 15 s for 100,000 questions on one core, several times that below 0.85.
    """
    first: dict[str, int] = {}
    exact: dict[int, int] = {}
    for position, example in enumerate(examples):
        kept = first.setdefault(question_key(example.question), position)
        if kept != position:
            exact[position] = kept
    if method == "exact":
        return [Found(later, kept, 1.0, "exact") for later, kept in exact.items()]
    if near is None:
        close = _find_close(examples, exact, threshold, language)
    else:
        close = {one: Found(one, kept, cosine, "vectors") for one, (kept, cosine) in near.items()}
    found: list[Found] = []
    for position in range(len(examples)):
        if position in close:
            found.append(close[position])
        elif position in exact:
            # Its twin may itself be the lexical duplicate of an earlier one: that one is kept.
            twin = close.get(exact[position])
            found.append(
                twin._replace(later=position) if twin else Found(position, exact[position], 1.0, "exact")
            )  # fmt: skip
    return found


@dataclass(frozen=True, slots=True)
class _Form:
    """A question as it is compared."""

    position: int
    sorted_words: str  # without articles, a space after each
    content: tuple[str, ...]
    guard: tuple[tuple[str, ...], int]  # numbers and signs, number of negations: equal or no duplicates
    answer: str
    question: str


def _find_close(examples: list[Example], skipped: dict[int, int], threshold: float, language: str) -> dict[int, Found]:
    code = language.split("-")[0].lower()
    articles = frozenset(_ARTICLES.get(code, "").split())
    light = articles.union(_LITTLE_WORDS.get(code, "").split())
    remaining = (position for position in range(len(examples)) if position not in skipped)
    forms = [_form(position, examples[position], articles, light) for position in remaining]
    rarity = Counter(word for form in forms for word in set(form.content))
    # Two questions at least this similar share one of the rarest words that either has: only those are compared.
    shelves: dict[tuple[object, str], list[_Form]] = defaultdict(list)
    close: dict[int, Found] = {}
    for form in forms:
        keys = [(form.guard, word) for word in _signature(form, rarity, threshold)]
        best = _best(form, [shelves[key] for key in keys if key in shelves], threshold)
        if best is not None:
            close[form.position] = best
            continue
        for key in keys:
            shelves[key].append(form)
    return close


def _form(position: int, example: Example, articles: frozenset[str], light: frozenset[str]) -> _Form:
    tokens = words(example.question)
    stems = [(word, _stem(word)) for word in tokens]
    content = tuple(stem for word, stem in stems if word not in light)
    compared = [stem for word, stem in stems if word not in articles or not content]
    guard = (tuple(sorted(numbers(tokens))), negations(tokens))
    return _Form(
        position,
        "".join(f"{stem} " for stem in sorted(compared)),
        content or tuple(compared),
        guard,
        example.answer,
        example.question,
    )


def _stem(word: str) -> str:
    """Singular and plural, and two spellings, as one word; more would join what differs ("active" and "inactive")."""
    if word in _SAME:
        return _SAME[word]
    if len(word) > 3 and word.isascii() and word.isalpha():
        if word.endswith("s") and not word.endswith(("ss", "us", "is")):
            word = word[:-3] + "y" if word.endswith("ies") and len(word) > 4 else word[:-1]
        if len(word) > 5 and word.endswith(("our", "ise")):
            word = word[:-3] + ("or" if word.endswith("our") else "ize")
    return word


def _signature(form: _Form, rarity: Counter[str], threshold: float) -> list[str]:
    """The rarest words, as many as can be missing from a question that is similar enough, and one more.

    A similarity of t leaves at most 2(1-t)/(2-t) of a question's letters in words that the other one does not have.
    """
    spare = 2 * (1 - threshold) / (2 - threshold) * len(form.sorted_words) + 1e-6
    chosen: list[str] = []
    for word in sorted(set(form.content), key=lambda word: (rarity[word], word)):
        chosen.append(word)
        spare -= len(word) + 1
        if spare < 0:
            break
    return chosen


def _best(form: _Form, shelves: list[list[_Form]], threshold: float) -> Found | None:
    candidates = {other.position: other for shelf in shelves for other in shelf}
    if not candidates:
        return None
    # The ratio over letters is never below the similarity over words, and much quicker: it sorts most of them out.
    close = process.extract(
        form.sorted_words, {position: other.sorted_words for position, other in candidates.items()},
        scorer=fuzz.ratio, processor=None, score_cutoff=threshold * 100 - 0.01, limit=None,
    )  # fmt: skip
    best: Found | None = None
    for _, ratio, position in close:  # the highest ratio first
        if best is not None and ratio < best.similarity * 100 - 0.01:
            break
        similarity = _similarity(form.sorted_words, candidates[position].sorted_words)
        if similarity > WITHOUT_REASON and not _has_reason(form, candidates[position]):
            similarity = WITHOUT_REASON
        better = best is None or (-similarity, position) < (-best.similarity, best.kept)
        if similarity >= threshold and better:
            best = Found(form.position, position, similarity, "lexical")
    return best


def _similarity(left: str, right: str) -> float:
    """The share of letters (0 to 1) that stand in words of both, in any order."""
    shared = Counter(left.split()) & Counter(right.split())
    letters = sum((len(word) + 1) * count for word, count in shared.items())
    return round(2 * letters / (len(left) + len(right)), 4)


def _has_reason(left: _Form, right: _Form) -> bool:
    if left.content == right.content:
        return True
    if len(left.content) == len(right.content):
        return _moved(left, right)
    short, long = sorted((left.content, right.content), key=len)
    return _is_within(short, long) and _answers_agree(left.answer, right.answer)


def _moved(left: _Form, right: _Form) -> bool:
    """The same content words, of which one block changed places with the next, for a reason of grammar.

    Without that reason a changed order is a changed meaning: "from Celsius to Kelvin", "from Kelvin to Celsius".
    """
    pairs = zip(left.content, right.content, strict=True)
    differing = [index for index, (one_word, other_word) in enumerate(pairs) if one_word != other_word]
    start, stop = differing[0], differing[-1] + 1
    one, other = left.content[start:stop], right.content[start:stop]
    if not any(one[cut:] + one[:cut] == other for cut in range(1, len(one))):
        return False
    if start == 0 and _opens_with_clause(left.question) != _opens_with_clause(right.question):
        return True
    return has_possessive(left.question) != has_possessive(right.question)


def _opens_with_clause(question: str) -> bool:
    folded = fold(question)
    return folded.partition(" ")[0] in _OPENINGS and "," in folded


def _is_within(short: tuple[str, ...], long: tuple[str, ...]) -> bool:
    rest = iter(long)
    return all(word in rest for word in short)


def _answers_agree(left: str, right: str) -> bool:
    """They say the same. "Yes" and "no" agree too often by chance to count."""
    one, other = words(left), words(right)
    if numbers(one) != numbers(other) or negations(one) != negations(other):
        return False
    if len("".join(one)) < 4 and not numbers(one):
        return False
    return fuzz.token_sort_ratio(" ".join(one), " ".join(other)) >= ANSWERS_AGREE
