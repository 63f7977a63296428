"""Detectors: planted ones are found, noise is not, and only response tokens are read."""

import numpy as np
import pytest
import torch

from esr_utils import detectors
from esr_utils.detectors import (
    Rule,
    auc,
    derangements,
    false_discoveries,
    paired_effect,
    phrase_frequency,
    phrase_peaks,
    read_deranged,
    read_pairs,
    selection_frequency,
    separable_rule,
    sum_rule,
    superiority,
    zero_rule,
)
from esr_utils.engines.hf import HFEngine
from esr_utils.steering import Row, Sampling

N_RESPONSES, N_ORDERS, N_LATENTS, PLANTED = 40, 8, 200, (3, 77, 120)


@pytest.fixture(scope="module")
def noise() -> tuple[np.ndarray, np.ndarray]:
    """Activations that depend on the text alone, up to a little noise."""
    rng = np.random.default_rng(0)
    text = rng.gamma(1.0, 1.0, (N_RESPONSES, N_LATENTS))
    matched = text + rng.normal(0, 0.2, text.shape)
    return matched, text + rng.normal(0, 0.2, (N_ORDERS, *text.shape))


@pytest.fixture(scope="module")
def planted(noise) -> tuple[np.ndarray, np.ndarray]:
    """The same, with latents that rise under another question by as much as the noise."""
    matched, mismatched = noise
    mismatched = mismatched.copy()
    mismatched[:, :, PLANTED] += 0.4
    return matched, mismatched


def test_derangements_leave_none_in_its_place_and_differ():
    orders = derangements(12, 30, seed=1)
    assert (orders != np.arange(12)).all()
    assert all(sorted(order) == list(range(12)) for order in orders.tolist())
    assert len({tuple(order) for order in orders.tolist()}) == 30
    assert not np.array_equal(orders, derangements(12, 30, seed=2))


def test_more_derangements_than_there_are_are_refused():
    assert len(derangements(3, 2)) == 2
    with pytest.raises(ValueError, match="3 different derangements of 3 responses asked for, and 2 were found"):
        derangements(3, 3)


def test_planted_detectors_are_chosen_and_nothing_else(planted):
    frequency = selection_frequency(*planted, Rule(), n_draws=40)
    assert tuple(np.flatnonzero(frequency >= 0.8)) == PLANTED


def test_chance_labels_choose_hardly_anything(planted):
    counts = false_discoveries(*planted, Rule(), n_draws=30, n_shuffles=10)
    assert len(counts) == 10
    assert counts.mean() < 0.5


def test_a_loose_rule_makes_false_discoveries_and_they_are_counted(noise):
    loose = Rule(min_superiority=0.5, min_frequency=0.5)
    chosen = (selection_frequency(*noise, loose, n_draws=30) >= 0.5).sum()
    expected = false_discoveries(*noise, loose, n_draws=30, n_shuffles=10).mean()
    assert chosen > 40
    assert 0.6 < expected / chosen < 1.6  # in pure noise all that is chosen is false


def test_auc_is_that_of_ranks_with_ties_as_half():
    matched, mismatched = np.array([[0.0, 1.0], [1.0, 1.0]]), np.array([[1.0, 1.0], [2.0, 1.0], [0.0, 1.0]])
    expected = np.mean([[(b > a) + 0.5 * (b == a) for b in mismatched[:, 0]] for a in matched[:, 0]])
    assert auc(matched, mismatched) == pytest.approx([expected, 0.5])


def test_superiority_counts_responses_and_no_change_as_half():
    matched = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    mismatched = np.array([[2.0, 0.0], [2.0, 0.0], [0.5, 0.0], [1.0, 0.0]])
    assert superiority(matched, mismatched).tolist() == [0.625, 0.5]


def test_the_papers_rule_is_silence_on_all_and_four_in_five():
    matched = np.array([[0.0, 0.0, 0.1], [0.0, 0.0, 0.0]] + [[0.0, 0.0, 0.0]] * 3)
    mismatched = np.array([[1.0, 1.0, 1.0]] * 4 + [[0.0, 1.0, 1.0]])
    assert zero_rule(matched, mismatched).tolist() == [True, True, False]
    assert not zero_rule(matched[:4], mismatched[[0, 0, 4, 4]])[0]


def test_the_authors_list_wants_every_mismatched_peak_above_every_matched_one():
    matched, mismatched = np.array([[1.0, 1.0], [2.0, 1.0]]), np.array([[3.0, 3.0], [2.5, 1.0]])
    assert separable_rule(matched, mismatched).tolist() == [True, False]


def test_the_rule_of_sums_keeps_fifty_whatever_is_there(noise):
    matched, mismatched = noise
    assert sum_rule(matched, mismatched[0]).sum() == 50
    silent = mismatched[0].copy()
    silent[:8, :190] = 0.0  # a fifth of the pairs
    assert set(np.flatnonzero(sum_rule(matched, silent))) <= set(range(190, 200))


def test_one_reading_under_the_own_question_then_one_a_derangement(tiny_llama):
    engine, questions, responses = HFEngine(tiny_llama), ["Why?", "How?", "Who?"], ["So.", "Thus.", "He."]
    orders = derangements(3, 2)
    read = read_deranged(engine, questions, responses, orders)
    for i, order in enumerate([[0, 1, 2], *orders.tolist()]):
        peaks, means = read_pairs(engine, [questions[j] for j in order], responses)
        np.testing.assert_array_equal(read.peaks[i], peaks)
        np.testing.assert_array_equal(read.means[i], means)


def test_the_true_match_is_among_the_others_when_another_reading_is_called_so(monkeypatch):
    """Under chance labels every reading is used once: as the matched one or as one of the others."""
    matched, mismatched = np.zeros((5, 1)), np.arange(1, 4)[:, None, None] * np.ones((3, 5, 1))
    seen = []
    monkeypatch.setattr(
        detectors,
        "selection_frequency",
        lambda first, others, *a, **k: seen.append((first, others)) or np.zeros(1),
    )
    false_discoveries(matched, mismatched, Rule(), n_draws=1, n_shuffles=20)
    for first, others in seen:
        used = np.concatenate([first[None], others])[:, :, 0]
        assert (np.sort(used, axis=0) == np.arange(4)[:, None]).all()
    assert len({tuple(first[:, 0]) for first, _ in seen}) > 10


def test_the_effect_compares_the_same_text(planted):
    effect = paired_effect(*planted)
    assert (effect[list(PLANTED)] > 1.5).all()
    assert np.abs(np.delete(effect, PLANTED)).max() < 1.0


@pytest.mark.parametrize("settings", [{"min_superiority": 1.1}, {"min_superiority": 0.4}, {"min_frequency": 0.0}])
def test_rules_that_make_no_sense_are_refused(settings):
    with pytest.raises(ValueError, match="outside 0.5"):
        Rule(**settings)


def test_only_response_tokens_are_read(tiny_llama):
    engine, sae, layer = HFEngine(tiny_llama), tiny_llama.sae, tiny_llama.reading_layer
    questions, responses = ["Why is the sea salt?", "How?"], ["The rivers bring it.", "So."]
    peaks, means = read_pairs(engine, questions, responses)
    for i, (question, response) in enumerate(zip(questions, responses, strict=True)):
        row = Row(messages=question, prefill=response, record_resid=(layer,), sampling=Sampling(max_new_tokens=0))
        (read,) = engine.generate([row])
        acts = sae.encode(read.resid[layer])
        assert len(acts) == len(response)  # one token a byte
        torch.testing.assert_close(torch.tensor(peaks[i]), acts.max(0).values)
        torch.testing.assert_close(torch.tensor(means[i]), acts.mean(0))


def test_a_response_without_tokens_is_told(tiny_llama):
    with pytest.raises(ValueError, match="a response has no tokens to read; leave empty responses out"):
        read_pairs(HFEngine(tiny_llama), ["Why?"], [""])


def test_a_phrase_is_read_alone_after_its_opening(tiny_llama):
    engine, sae, layer = HFEngine(tiny_llama), tiny_llama.sae, tiny_llama.reading_layer
    (peaks,) = phrase_peaks(engine, ["Why?"], ["Ships sail."], ["No, wait."])
    row = Row(
        messages="Why?", prefill="Ships sail. No, wait.", record_resid=(layer,), sampling=Sampling(max_new_tokens=0)
    )
    (read,) = engine.generate([row])
    torch.testing.assert_close(torch.tensor(peaks), sae.encode(read.resid[layer])[-len(" No, wait.") :].max(0).values)


def test_latents_that_tell_restarts_apart_are_found_again_in_halves():
    rng = np.random.default_rng(2)
    plain, restarts = rng.random((60, 30)), rng.random((70, 30))
    restarts[:, 5] += 1.0
    frequency = phrase_frequency(plain, restarts, min_auc=0.9, n_draws=30)
    assert np.flatnonzero(frequency >= 0.8).tolist() == [5]
