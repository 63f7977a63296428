"""The splits of the kit's own questions share nothing."""

import re
from itertools import combinations

import pytest

from esr_utils.embedding import embed
from esr_utils.prompts import SPLITS, load_prompts

SMALLEST = {"calibration": 20, "evaluation": 40, "discovery": 40, "fine_tuning": 40, "held_out": 20}
FORM = re.compile(r"\b(a|an|and|by|do|explain|for|from|how|in|into|is|of|on|out|the|to|what|with|without|you|your)\b")
VERBS = re.compile(r"\b(add|clean|draw|fold|get|grow|learn|look|make|prepare|read|remove|set|teach|work|write)\b")


def content(question: str) -> set[str]:
    """Words that carry the subject, without plural endings; everyday verbs say little about it."""
    subject = VERBS.sub(" ", FORM.sub(" ", question.lower()))
    return {word.rstrip("s") for word in re.findall(r"[a-z']+", subject)} - {"new", "hand"}


@pytest.mark.parametrize("split", SPLITS)
def test_a_split_is_large_enough_and_repeats_nothing(split):
    questions = load_prompts(split)
    assert len(set(questions)) == len(questions) >= SMALLEST[split]
    assert all(question == question.strip() and question[-1] in ".?" for question in questions)


@pytest.mark.parametrize(("one", "other"), combinations(SPLITS, 2))
def test_no_question_of_a_split_has_a_near_double_in_another(one, other):
    doubles = [
        (a, b)
        for a in load_prompts(one)
        for b in load_prompts(other)
        if len(content(a) & content(b)) >= 0.5 * min(len(content(a)), len(content(b)))
    ]
    assert doubles == []


def test_an_unknown_split_is_named_with_those_that_exist():
    with pytest.raises(ValueError, match="unknown split 'test'; there are calibration, evaluation"):
        load_prompts("test")


def test_no_question_of_a_split_means_the_same_as_one_in_another():
    """Cosines of sentence embeddings; a question and its paraphrase lie near 0.9."""
    asked = [(split, question) for split in SPLITS for question in load_prompts(split)]
    vectors = embed([question for _, question in asked])
    near = [
        (a, b) for (i, a), (j, b) in combinations(enumerate(asked), 2) if a[0] != b[0] and vectors[i] @ vectors[j] > 0.7
    ]
    assert near == []
    same, paraphrase = embed(["How do you bake a loaf of bread?", "Explain how to bake bread at home."])
    assert same @ paraphrase > 0.8


def test_a_question_in_two_splits_is_told(tmp_path):
    for split in SPLITS:
        (tmp_path / f"{split}.txt").write_text(f"What is {split}?\n")
    assert load_prompts("evaluation", folder=tmp_path) == ["What is evaluation?"]
    with (tmp_path / "fine_tuning.txt").open("a") as file:
        file.write("what is Evaluation\n")
    sentence = "'what is Evaluation' stands in fine_tuning.txt and in evaluation.txt, .*; take it out of one of them"
    with pytest.raises(ValueError, match=sentence):
        load_prompts("fine_tuning", folder=tmp_path)
    with pytest.raises(ValueError, match="'What is evaluation.' stands in evaluation.txt and in fine_tuning.txt"):
        load_prompts("evaluation", folder=tmp_path)
