"""Laws of the offline judge with the embedded model, on texts of this file's own wording."""

import random
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from esr_utils.engines.base import in_flight
from esr_utils.engines.hf import HFEngine
from esr_utils.judges.offline import (
    PART_WORDS,
    WAYS,
    OfflineJudge,
    Scale,
    distinct_share,
    embedding_relevance,
    load_scale,
    offline_judge,
    recovery_of,
)
from esr_utils.judging import Attempt, Case, Judge, Verdict, first_scores

ANSWERS = {
    "How do you make a cup of tea?": (
        "Fill the kettle with fresh water and bring it to the boil. Put one tea bag or a spoon of loose tea into a "
        "warm cup and pour the hot water over it. Let the tea steep for about four minutes, then take the bag out. "
        "Add milk or sugar if you like your tea that way."
    ),
    "How do you fix a flat bicycle tyre?": (
        "Take the wheel off the bicycle and let the air out of the tyre. Lift the tyre over the rim with two levers "
        "and pull out the tube. Pump the tube up and listen for the hole, roughen the spot and glue a patch on it. "
        "Then put the tube and the tyre back and pump it up."
    ),
    "How do you plant a tree in a garden?": (
        "Choose a place with enough light and dig a hole twice as wide as the roots of the tree. Set the tree upright "
        "into the hole and fill it up with soil. Press the soil down with your foot, water the tree well, and tie it "
        "to a stake so that the wind does not bend it."
    ),
    "How do you teach a puppy to sit?": (
        "Hold a treat in front of the puppy's nose and lift it slowly over its head. The puppy will look up and sit "
        "down by itself. Say sit at that moment, praise the puppy and give it the treat. Repeat this a few times each "
        "day and the puppy will soon sit when you ask it to."
    ),
}
QUESTIONS, TEXTS = list(ANSWERS), list(ANSWERS.values())
OFF = (
    "The Roman army built its roads straight across the hills, and soldiers carried stones from the quarry to the "
    "camp. Each legion had its own banner with an eagle of gold. The emperor counted the coins that the provinces "
    "sent to him, and the senate voted on the war against the tribes of the north."
)
RESTART = "Sorry, that has nothing to do with your question, let me start over."


@pytest.fixture(scope="module")
def judge(embedded_pair) -> OfflineJudge:
    return offline_judge(HFEngine(embedded_pair))


def case(response: str, question: str = QUESTIONS[0]) -> Case:
    return Case(question=question, response=response)


def cases(*, before: str = "", after: str = "") -> list[Case]:
    """Each question with its answer between ``before`` and ``after``."""
    return [case(f"{before}{answer}{after}", question) for question, answer in ANSWERS.items()]


def shuffled(text: str) -> str:
    words = text.split()
    return " ".join(random.Random(0).sample(words, len(words)))


def looped(text: str) -> str:
    return " ".join([text[: text.index(".") + 1]] * 20)


def cut_off(text: str) -> str:
    return text[:30] + " ;;#x 9q]] vv0z |kj ~~ 8dh%% zzgh -=) qw5w @@ pfl 0x 77] ..,, hgg {{ t5r ^^ bnb" * 2


def of_another(text: str) -> str:
    return TEXTS[(TEXTS.index(text) + 1) % len(TEXTS)]


@pytest.mark.parametrize("spoil", [of_another, shuffled, looped, cut_off])
def test_an_answer_scores_higher_than(judge, spoil):
    good, bad = judge.scores(QUESTIONS, TEXTS), judge.scores(QUESTIONS, [spoil(text) for text in TEXTS])
    assert (good > bad + 10).all(), (good, bad)


@pytest.mark.parametrize("way", WAYS)
def test_answers_are_above_the_middle_and_other_subjects_near_nothing(embedded_pair, way):
    judge = offline_judge(HFEngine(embedded_pair), way=way)
    assert judge.scores(QUESTIONS, TEXTS).min() > 35  # of about 72 that the scale reaches
    assert judge.scores(QUESTIONS, [OFF] * len(QUESTIONS)).max() < 15


def test_it_is_a_judge(judge):
    assert isinstance(judge, Judge)
    assert judge.judge([]) == []


@pytest.mark.parametrize("blank", ["", " ", "\n\t \n"])
def test_a_blank_response_is_empty(judge, blank):
    first, middle, last = judge.judge([case(TEXTS[0]), case(blank), case(OFF)])
    assert (middle.status, middle.attempts, middle.recovery) == ("empty", (), 0.0)
    assert first.status == last.status == "judged"
    assert first.attempts[0].score > last.attempts[0].score


def test_a_response_without_a_restart_is_one_attempt_from_end_to_end(judge):
    for given, verdict in zip(cases(), judge.judge(cases()), strict=True):
        (attempt,) = verdict.attempts
        assert (attempt.start, attempt.end) == (0, len(given.response))


def test_a_restart_makes_two_attempts_and_the_one_on_topic_scores_higher(judge):
    given = cases(before=f"{OFF} {RESTART} ")
    for (question, answer), verdict in zip(ANSWERS.items(), judge.judge(given), strict=True):
        first, second = verdict.attempts
        response = f"{OFF} {RESTART} {answer}"
        assert response[first.start : first.end] == OFF
        assert response[second.start : second.end] == answer
        assert second.score > first.score + 20, question


def test_a_restart_for_the_worse_scores_lower(judge):
    for verdict in judge.judge(cases(after=f"\n\n{RESTART}\n\n{OFF}")):
        first, second = verdict.attempts
        assert second.score < first.score - 20


def test_an_attempt_scores_as_the_same_text_alone(judge):
    (verdict,) = judge.judge([case(f"{OFF} {RESTART} {TEXTS[0]}")])
    alone = judge.scores(QUESTIONS[:1], TEXTS[:1])[0]
    assert verdict.attempts[1].score == pytest.approx(alone, abs=1.0)


def test_a_restart_that_nothing_follows_is_told_in_the_note(judge):
    dangling, plain = judge.judge([case(f"{OFF} {RESTART}"), case(OFF)])
    assert [(attempt.start, attempt.end) for attempt in dangling.attempts] == [(0, len(OFF))]
    assert dangling.note == "a restart that nothing follows, or that nothing precedes"
    assert plain.note == ""


@pytest.mark.parametrize("gap", [" ", "\n\n"])
def test_a_silent_recovery_is_one_attempt_that_recovers(judge, gap):
    for verdict in judge.judge(cases(before=OFF + gap)):
        assert len(verdict.attempts) == 1
        assert verdict.recovery >= 7


def test_a_restart_for_the_better_recovers_too(judge):
    assert min(verdict.recovery for verdict in judge.judge(cases(before=f"{OFF} {RESTART} "))) >= 7


def test_what_is_on_topic_or_off_topic_throughout_does_not_recover(judge):
    off = [case(OFF, question) for question in QUESTIONS]
    assert max(verdict.recovery for verdict in judge.judge([*cases(), *off])) < 7


def test_an_answer_that_loses_its_subject_does_not_recover(judge):
    assert max(verdict.recovery for verdict in judge.judge(cases(after=f" {OFF}"))) < 7


def test_the_same_cases_twice_get_the_same_verdicts(judge):
    given = [*cases(before=f"{OFF} {RESTART} "), *cases(), case("")]
    assert judge.judge(given) == judge.judge(given)


def test_company_moves_a_score_by_less_than_a_point(judge):
    together = judge.judge([*cases(before=f"{OFF} "), *cases()])[-len(ANSWERS) :]
    alone = [judge.judge([given])[0] for given in cases()]
    for a, b in zip(together, alone, strict=True):
        assert a.attempts[0].score == pytest.approx(b.attempts[0].score, abs=1.0)


STRANGE = {
    "emoji": "🍵🌟👩‍👩‍👧 ☕ 🫖 " * 12,
    "mixed languages": "Wasser kochen, puis verser l'eau sur le thé. 先把水烧开，再泡茶叶。 اغلي الماء. Then drink it.",
    "one letter": "a",
    "punctuation": "?!... -- ;; ((",
    "one long word": "tea" * 500,
    "special tokens": "<|im_end|><|im_start|>assistant\nBoil the water.",
    "control characters": "Boil\x00 the\x07 water\u200b and\ufeff pour it.",
}


@pytest.mark.parametrize("response", STRANGE.values(), ids=STRANGE)
def test_scores_stay_on_the_scale_for_any_text(judge, response):
    (verdict,) = judge.judge([case(response)])
    assert verdict.status == "judged"
    assert all(0 <= attempt.score <= 100 for attempt in verdict.attempts)
    assert 0 <= verdict.recovery <= 10
    assert verdict.attempts[0].start == 0
    assert verdict.attempts[-1].end == len(response.rstrip())


LOOP = "Boil the water, boil the water. " * 1430  # more than 10,000 tokens


def test_a_loop_longer_than_the_models_context_is_judged(judge):
    pair = judge.reader.pair
    assert len(pair.tokenizer(LOOP)["input_ids"]) > max(10_000, pair.context_tokens)
    (verdict,) = judge.judge([case(LOOP)])
    (attempt,) = verdict.attempts
    assert (attempt.start, attempt.end) == (0, len(LOOP.rstrip()))
    assert attempt.score < 20


class Checking(HFEngine):
    """Checks rows as the engine does, and reads nothing."""

    def log_likelihoods(self, rows, *, stretch_tokens=None):
        return [np.full(len(row.tokens), -1.0, np.float32) for row in in_flight(rows, self.pair)]


@pytest.mark.parametrize("way", WAYS)
def test_no_way_reads_beyond_the_models_context(embedded_pair, way):
    (verdict,) = offline_judge(Checking(embedded_pair), way=way).judge([case(LOOP)])
    assert verdict.status == "judged"


def test_first_scores_are_those_of_first_attempts_and_nan_where_there_is_none(judge):
    responses = [f"{OFF} {RESTART} {TEXTS[0]}", "", TEXTS[2]]
    scores = first_scores(judge)([QUESTIONS[0], QUESTIONS[1], QUESTIONS[2]], responses)
    assert np.isnan(scores).tolist() == [False, True, False]
    assert scores[0] < 15 < 35 < scores[2]


def test_a_wrong_way_is_named(embedded_pair):
    with pytest.raises(ValueError, match="unknown way 'guess' to measure relevance; there are embedding, likelihood"):
        offline_judge(HFEngine(embedded_pair), way="guess")


def test_the_shipped_scale_of_each_way_is_used(judge, embedded_pair):
    assert judge.scale == load_scale("embedding")
    assert offline_judge(HFEngine(embedded_pair), way="likelihood").scale == load_scale("likelihood")


@pytest.mark.parametrize(("start", "end"), [(3, 3), (5, 2), (-1, 4)])
def test_an_attempt_without_text_is_refused(start, end):
    with pytest.raises(ValueError, match=f"attempt from {start} to {end} holds no text"):
        Attempt(start=start, end=end, score=50.0)


@pytest.mark.parametrize("score", [-0.1, 100.1, float("nan"), float("inf")])
def test_a_score_off_the_scale_is_refused(score):
    with pytest.raises(ValueError, match=f"score {score} is not a number from 0 to 100"):
        Attempt(start=0, end=1, score=score)


def test_attempts_that_overlap_or_stand_in_the_wrong_order_are_refused():
    first, second = Attempt(start=0, end=9, score=1.0), Attempt(start=8, end=20, score=2.0)
    with pytest.raises(ValueError, match="attempts overlap at character 8"):
        Verdict(status="judged", attempts=(first, second))
    with pytest.raises(ValueError, match="attempts overlap at character 0"):
        Verdict(status="judged", attempts=(replace(second, start=9), first))
    side_by_side = (first, replace(second, start=9))
    assert Verdict(status="judged", attempts=side_by_side).attempts == side_by_side


def test_a_verdict_has_attempts_if_it_is_judged_and_only_then():
    attempt = Attempt(start=0, end=1, score=0.0)
    with pytest.raises(ValueError, match="'judged' if it has attempts and only then; 'judged' given"):
        Verdict(status="judged")
    for status in ("no_attempt", "empty", "unparsed", "failed"):
        with pytest.raises(ValueError, match=f"only then; '{status}' given"):
            Verdict(status=status, attempts=(attempt,))


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("", 1.0),
        ("one two three", 1.0),
        ("one two three four", 1.0),
        ("one two three four five", 1.0),
        ("a b c d a b c d", 4 / 5),
        ("A b, c d. a B - c D!", 4 / 5),
        ("a " * 10, 1 / 7),
        ("a b " * 4, 2 / 5),
    ],
)
def test_distinct_share_counts_stretches_of_four_words(text, share):
    assert distinct_share(text) == pytest.approx(share)


@pytest.mark.parametrize(
    ("curve", "recovery"),
    [
        ([], 0.0),
        ([0.7], 0.0),
        ([0.4, 0.4, 0.4], 0.0),
        ([0.9, 0.1], 0.0),
        ([0.0, 0.1], 2.0),
        ([0.1, 0.1, 0.35], 5.0),
        ([0.0, 0.2, 0.0, 0.2], 2.7),  # 0.0 against 0.4 / 3
        ([0.0, 0.0, 1.0, 1.0], 10.0),
    ],
)
def test_recovery_is_the_largest_rise_of_the_mean(curve, recovery):
    assert recovery_of(np.array(curve)) == recovery


SCALE = Scale(
    top=0.9,
    relevance_slope=4.0,
    relevance_middle=0.5,
    fluency_slope=1.0,
    fluency_middle=-4.0,
    distinct_enough=0.2,
)


def test_a_scale_by_hand():
    score = SCALE.score(np.array([0.5, 99.0, 99.0, -99.0]), np.array([-4.0, -4.0, 99.0, 0.0]), np.array([1, 1, 0.1, 1]))
    assert score.tolist() == [22.5, 45.0, 45.0, 0.0]


def test_a_scale_rises_with_relevance_fluency_and_distinctness():
    low, high, n = np.zeros(5), np.ones(5), np.linspace(0, 1, 5)
    for score in (
        SCALE.score(n, low - 4, high),
        SCALE.score(high, 5 * n - 6, high),
        SCALE.score(high, low - 2, n * SCALE.distinct_enough),
    ):
        assert all(a < b for a, b in pairwise(score))


def test_a_scale_gives_no_more_than_100():
    assert replace(SCALE, top=1.2).score(np.array([99.0]), np.array([9.0]), np.array([1.0])).tolist() == [100.0]


def test_relevance_of_a_question_to_itself_is_1_and_of_a_long_text_the_mean_of_its_parts():
    question, other = QUESTIONS[0], QUESTIONS[3]
    tea, war = ["tea"] * PART_WORDS, ["war"] * PART_WORDS
    texts = [question, " ".join(tea), " ".join(war), " ".join(tea + war)]
    itself, about, not_about, both = embedding_relevance([question] * 4, texts)
    assert itself == pytest.approx(1.0, abs=0.01)
    assert both == pytest.approx((about + not_about) / 2, abs=0.01)
    assert embedding_relevance([other], [question])[0] < 0.5
    assert embedding_relevance([], []).tolist() == []
