"""Filters, search and sampling of latents."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from esr_utils import latents
from esr_utils.engines.hf import HFEngine
from esr_utils.latents import (
    filter_table,
    is_concrete,
    is_unrelated,
    load_contexts,
    load_labels,
    max_activations,
    question_rows,
    sample_latents,
    search_labels,
    survivors,
)
from esr_utils.steering import Row, Sampling

LABELS = pd.DataFrame(
    {
        "label": ["“cello”; about music", "text with flour, oven", "“the”"],
        "topics": ["string quartets; jazz", "baking bread", "tides; jazz"],
        "concreteness": [40.0, 80.0, 2.0],
        "density": [0.01, 0.002, 0.3],
    },
    index=pd.Index([3, 5, 9], name="latent"),
)
SHORT = Sampling(max_new_tokens=6)


def test_search_wants_every_word_in_label_or_topics():
    assert search_labels(LABELS, "jazz").index.tolist() == [3, 9]
    assert search_labels(LABELS, "Jazz cello").index.tolist() == [3]
    assert search_labels(LABELS, "[").empty
    assert len(search_labels(LABELS, "")) == 3


def test_concreteness_rules():
    assert is_concrete(LABELS, rule="paper").tolist() == [True, True, False]
    assert is_concrete(LABELS, rule="code").tolist() == [False, True, False]


def test_sampling_is_seeded_and_without_replacement():
    assert sample_latents(LABELS, 2, seed=4) == sample_latents(LABELS, 2, seed=4)
    assert sample_latents(LABELS, 3, seed=0) == [3, 5, 9]
    with pytest.raises(ValueError, match="4 latents asked for, and 3 are left"):
        sample_latents(LABELS, 4, seed=0)


def test_code_rule_keeps_only_latents_silent_on_every_question(tiny):
    engine, questions = HFEngine(tiny), ["one?", "another one?"]
    keep = is_unrelated(engine, questions, rule="code")
    peaks = max_activations(engine, question_rows(engine, questions)).max(dim=0).values
    assert keep.tolist() == (peaks == 0).tolist()
    assert 0 < keep.sum() < len(keep)


def test_code_rule_reads_the_question_without_the_answers_header(tiny_llama):
    (row,) = question_rows(HFEngine(tiny_llama), ["why?"])
    text = tiny_llama.tokenizer.decode([*row.token_ids, *row.prefill])
    assert text == "<|im_start|>user\nwhy?<|im_end|>\n"


def test_paper_rule_drops_the_most_active_of_each_response(tiny, monkeypatch):
    monkeypatch.setattr("esr_utils.latents.N_DROPPED_PER_QUESTION", 5)
    engine = HFEngine(tiny)
    keep = is_unrelated(engine, ["one?"], rule="paper", sampling=SHORT)
    peaks = max_activations(engine, [Row(messages="one?", seed=0, sampling=SHORT)])[0]
    assert sorted(np.flatnonzero(~keep)) == sorted(peaks.topk(5).indices.tolist())


def test_unknown_rule_is_named(tiny_llama):
    with pytest.raises(ValueError, match="rule 'v2' is neither 'paper' nor 'code'"):
        is_unrelated(HFEngine(tiny_llama), ["one?"], rule="v2")


def test_a_row_without_response_tokens_is_an_error(tiny_llama):
    with pytest.raises(ValueError, match="no response tokens"):
        max_activations(HFEngine(tiny_llama), [Row(messages="x", sampling=Sampling(max_new_tokens=0))])


def test_survivors_pass_both_filters(tiny_llama):
    table = filter_table(HFEngine(tiny_llama), LABELS, ["one?"], SHORT)
    assert table["latent"].tolist() == [3, 5, 9]
    assert table["concrete_code"].tolist() == [False, True, False]
    table["unrelated_paper"] = [True, False, True]
    assert survivors(table, "paper") == [3]


def test_embedded_labels_cover_the_live_latents():
    labels = load_labels("smollm2-135m")
    assert labels["label"].notna().all()
    assert labels["density"].between(0, 1, inclusive="right").all()
    assert labels["concreteness"].between(0, 100).all()
    for latent in labels.index[:: len(labels) // 20]:
        contexts = load_contexts("smollm2-135m", int(latent))
        assert 1 <= len(contexts) <= 10
        assert all(c["acts"][c["peak"]] == max(c["acts"]) > 0 for c in contexts)


def test_a_latent_without_contexts_is_named():
    with pytest.raises(KeyError, match="latent 99999 of smollm2-135m has no contexts"):
        load_contexts("smollm2-135m", 99999)


def test_an_empty_answer_drops_no_latent_and_none_at_all_is_told(tiny_llama, monkeypatch):
    whole = HFEngine(tiny_llama)
    before = is_unrelated(whole, ["What is tea?", "Why?"], sampling=SHORT)
    answers = whole.generate

    def mute(rows, **rest):
        return [replace(r, resid={}) if i in silent else r for i, r in enumerate(answers(rows, **rest))]

    monkeypatch.setattr(whole, "generate", mute)
    monkeypatch.setattr(latents, "N_DROPPED_PER_QUESTION", 3)
    silent = {1}
    assert is_unrelated(whole, ["What is tea?", "Why?"], sampling=SHORT).sum() == len(before) - 3
    silent = {0, 1}
    with pytest.raises(ValueError, match="tiny-llama answers none of the questions without steering"):
        is_unrelated(whole, ["What is tea?", "Why?"], sampling=SHORT)
