"""Episodes: stretches cover exactly the attempts' tokens, and what is read again is what was recorded."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from esr_utils import episodes
from esr_utils.engines.hf import HFEngine
from esr_utils.episodes import Episode, aligned, exact_span, find_episodes, paired_tests, read_episodes, stretch_means
from esr_utils.steering import Row, Sampling, Steer
from esr_utils.tests.conftest import byte_tokenizer

RESPONSES = {
    "plain": ("Ships sail far.", " Wait, no. ", "Boil the rice."),
    "emoji": ("Ships 🚢 sail.", " Hmm 🤔, again: ", "Boil 🍚 it."),
    "quotes": ('He said "sail".', " “No”, that is wrong. ", 'Boil "it".'),
    "newlines": ("Ships\nsail.\n", "\nSorry.\n\n", "1. Boil.\n2. Eat."),
    "the same words twice": ("Boil it.", " No. ", "Boil it."),
    "accents": ("Ça dérive.", " Non, désolé : ", "Faites bouillir."),
}


def frames(off: str, correction: str, on: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    known = {"trial_id": "t", "question": "How?", "latent": 3, "strength": 4.0, "is_multi": True}
    trials = pd.DataFrame([known | {"response": off + correction + on}])
    attempts = pd.DataFrame({"trial_id": ["t", "t"], "index": [0, 1], "text": [off, on]})
    return trials, attempts


@pytest.mark.parametrize("parts", RESPONSES.values(), ids=RESPONSES.keys())
def test_stretches_cover_exactly_the_texts_of_the_attempts(parts):
    tokenizer = byte_tokenizer()
    (episode,) = find_episodes(tokenizer, *frames(*parts))
    for name, text in zip(episodes.STRETCHES, parts, strict=True):
        ids = [token for token, of in zip(episode.token_ids, episode.stretch, strict=True) if of == name]
        assert tokenizer.decode(ids) == text
    assert episode.stretch[episode.corrected_at] == "correction"


def test_a_word_with_its_space_belongs_to_the_stretch_of_the_word(embedded_pair):
    (episode,) = find_episodes(embedded_pair.tokenizer, *frames("Ships sail far.", " Wait, no.", " Now boil rice."))
    of = dict(zip(embedded_pair.tokenizer.convert_ids_to_tokens(episode.token_ids), episode.stretch, strict=True))
    assert of["ĠWait"] == "correction"
    assert of["ĠNow"] == "on_topic"


def test_what_lies_between_the_first_correction_and_the_last_attempt_is_named_nothing():
    trials, attempts = frames("Ships.", " No. ", "Boats. Hm. Rice.")
    attempts = pd.DataFrame({"trial_id": "t", "index": range(3), "text": ["Ships.", "Boats.", "Rice."]})
    (episode,) = find_episodes(byte_tokenizer(), trials, attempts)
    told = "".join({"off_topic": "o", "correction": "c", "on_topic": "n", "": "."}[name] for name in episode.stretch)
    assert told == "o" * 6 + "c" * 5 + "." * 11 + "n" * 5


def test_attempts_that_adjoin_leave_no_correction_and_begin_anew_at_the_second():
    (episode,) = find_episodes(byte_tokenizer(), *frames("Ships.", "", " No, rice."))
    assert set(episode.stretch) == {"off_topic", "on_topic"}
    assert episode.corrected_at == len("Ships.")


def test_an_attempt_that_is_not_in_its_response_is_told():
    trials, attempts = frames("Ships.", " No. ", "Rice.")
    with pytest.raises(ValueError, match="the attempt 'Bread.' is not in the response after character 6; judge"):
        find_episodes(byte_tokenizer(), trials, attempts.assign(text=["Ships.", "Bread."]))
    with pytest.raises(ValueError, match="is not in the response"):
        exact_span("abc", "a", after=1)


@pytest.fixture(scope="module")
def recorded(tiny_llama) -> tuple[HFEngine, Episode, np.ndarray]:
    """A steered response with what was recorded while it was written, as an episode."""
    engine = HFEngine(tiny_llama)
    settings = {"steer": (Steer(latent=3, strength=4.0),), "record": (5, 9), "sampling": Sampling(max_new_tokens=24)}
    responses = engine.generate([Row(messages="How?", seed=seed, **settings) for seed in range(20)])
    response = max(responses, key=lambda response: len(response.token_ids))
    n = len(response.token_ids)
    episode = Episode(
        trial_id="t",
        question="How?",
        response=response.text,
        token_ids=response.token_ids,
        stretch=("off_topic",) * (n - 6) + ("correction",) * 2 + ("on_topic",) * 4,
        corrected_at=n - 6,
        latent=3,
        strength=4.0,
    )
    return engine, episode, np.stack([response.activations[latent] for latent in (5, 9)])


def test_what_is_read_again_is_what_was_recorded(recorded):
    engine, episode, values = recorded
    read = read_episodes(engine, [episode], [5, 9])["t"]
    for again, once in zip((read[5], read[9]), values, strict=True):
        known = np.isfinite(once)
        assert known.sum() > 10
        np.testing.assert_allclose(again[known], once[known], atol=1e-4)


def test_reading_without_the_steering_differs(recorded):
    engine, episode, values = recorded
    read = read_episodes(engine, [replace(episode, strength=0.0)], [5, 9])["t"]
    known = np.isfinite(values[0])
    assert not np.allclose(read[5][known], values[0][known], atol=1e-3)


def test_no_latent_and_a_latent_twice_are_told(recorded):
    engine, episode, _ = recorded
    with pytest.raises(ValueError, match="no latents to read"):
        read_episodes(engine, [episode], [])
    with pytest.raises(ValueError, match="a latent is to be read twice"):
        read_episodes(engine, [episode], [5, 5])


def test_stretch_means_are_over_the_tokens_of_the_stretch(recorded):
    _, episode, _ = recorded
    n = len(episode.token_ids)
    means = stretch_means([episode], {"t": {5: np.arange(n, dtype=float)}}).iloc[0]
    assert means["on_topic"] == n - 2.5
    assert means["correction"] == n - 5.5
    without = replace(episode, stretch=("off_topic",) * (n - 2) + ("correction",) * 2)
    assert np.isnan(stretch_means([without], {"t": {5: np.ones(n)}}).iloc[0]["on_topic"])


def test_the_paired_test_finds_a_difference_and_corrects_for_the_number_of_latents():
    rng = np.random.default_rng(0)
    lines = [
        {"trial_id": i, "latent": latent, "off_topic": rng.normal(1.0 if latent == 7 else 0.0, 1.0), "correction": 0.0}
        | {"on_topic": rng.normal(0.0, 1.0) if i else np.nan}
        for latent in range(10)
        for i in range(60)
    ]
    table = paired_tests(pd.DataFrame(lines)).set_index("latent")
    assert table.loc[7, "p_holm"] < 0.05
    assert (table.drop(index=7)["p_holm"] > 0.05).all()
    assert (table["p_holm"] >= table["p"]).all()
    assert (table["n_episodes"] == 59).all()
    assert table.loc[7, "ci_low"] < table.loc[7, "difference"] < table.loc[7, "ci_high"]


def test_a_single_episode_cannot_be_tested():
    lines = pd.DataFrame([{"trial_id": 0, "latent": 1, "off_topic": 1.0, "correction": 0.0, "on_topic": 0.0}])
    with pytest.raises(ValueError, match="1 episodes have both stretches, and a paired test needs at least two"):
        paired_tests(lines)


def test_aligned_means_leave_out_what_an_episode_does_not_reach():
    long = pd.DataFrame({"trial_id": "a", "pos": range(-3, 4), "x": 2.0})
    short = pd.DataFrame([{"trial_id": name, "pos": pos, "x": 4.0} for name in "bcdef" for pos in range(-1, 2)])
    table = aligned(pd.concat([long, short]), "x", window=3).set_index("pos")
    assert table.index.tolist() == [-1, 0, 1]  # fewer than five reach the others
    assert table["n"].tolist() == [6, 6, 6]
    assert table["mean"].tolist() == pytest.approx([22 / 6] * 3)


def test_a_trace_sums_its_groups_and_counts_from_the_restart():
    tokenizer = byte_tokenizer()
    (episode,) = find_episodes(tokenizer, *frames("Sea.", " No. ", "Rice."))
    n = len(episode.token_ids)
    read = {3: np.full(n, 9.0), 5: np.arange(n) * 1.0, 6: np.full(n, 2.0)}
    table = episodes.trace(episode, read, {"detectors": [5, 6], "backtracking": [6]}, tokenizer)
    assert table["pos"].tolist() == list(range(-4, n - 4))
    assert "".join(table["token"]) == episode.response
    assert table["detectors"].tolist() == pytest.approx([i + 2.0 for i in range(n)])
    assert set(table["steered"]) == {9.0}
    assert table.loc[table["pos"] == 0, "stretch"].tolist() == ["correction"]


def test_reading_a_response_again_gives_what_was_recorded_while_it_was_made(tiny_llama):
    engine = HFEngine(tiny_llama)
    row = Row(
        messages="Why?", steer=(Steer(latent=3, strength=2.0),), record=(4, 5), sampling=Sampling(max_new_tokens=9)
    )
    (made,) = engine.generate([row])
    (read,) = engine.generate([replace(row, prefill=made.token_ids, sampling=Sampling(max_new_tokens=0))])
    check = episodes.compare_reading(made, read)
    assert check["correlation"] > 0.999
    assert check["max_difference"] < 1e-4
    (unsteered,) = engine.generate(
        [replace(row, steer=(), prefill=made.token_ids, sampling=Sampling(max_new_tokens=0))]
    )
    assert episodes.compare_reading(made, unsteered)["max_difference"] > 1e-2


def test_the_scarcer_kind_decides_how_many_are_matched():
    known = {"level": 1.0, "question": "q"}
    lines = [known | {"trial_id": i, "n_attempts": 2, "is_multi": True, "first_score": 10.0} for i in range(3)]
    lines += [known | {"trial_id": 9, "n_attempts": 1, "is_multi": False, "first_score": 50.0}]
    assert episodes.matched_uncorrected(pd.DataFrame(lines))["trial_id"].tolist() == [9]


def test_each_episode_is_matched_with_another_response_of_like_score():
    known = {"level": 1.0, "question": "q"}
    trials = pd.DataFrame(
        [
            known | {"trial_id": f"m{i}", "n_attempts": 2, "is_multi": True, "first_score": s}
            for i, s in enumerate((10, 11))
        ]
        + [
            known | {"trial_id": f"s{i}", "n_attempts": 1, "is_multi": False, "first_score": s}
            for i, s in enumerate((9, 12, 70))
        ]
        + [known | {"trial_id": "u", "n_attempts": 1, "is_multi": False, "first_score": 10, "level": 0.0}]
    )
    matched = episodes.matched_uncorrected(trials)
    assert set(matched["trial_id"]) == {"s0", "s1"}
