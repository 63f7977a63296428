"""The explorer without a front end, on tiny pairs: arms, streaming, cards, sweeps, episodes, what is kept."""

import ctypes
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace

import nbformat
import numpy as np
import pytest

from esr_utils.explorer import kept, rows, serve, shown
from esr_utils.explorer.core import Explorer
from esr_utils.explorer.page import to_html
from esr_utils.explorer.state import Pick, StateError
from esr_utils.judging import Attempt
from esr_utils.steering import Row, Steer
from esr_utils.tests.explorer_parts import GROUPS, HalvingJudge, tiny_explorer, tiny_state, tiny_subject


@pytest.fixture(scope="module")
def explorer(tiny_llama) -> Explorer:
    return tiny_explorer(tiny_llama)


@pytest.fixture(scope="module")
def result(explorer) -> shown.Shown:
    return explorer.run(tiny_state(explorer.subject("tiny-llama").engine.pair))


def test_three_arms_share_question_and_seed(tiny_llama):
    state = tiny_state(tiny_llama, picks=(Pick(latent=7, strength=6.0), Pick(latent=3, share=0.5)))
    made = rows.rows(state, groups=GROUPS, labels={})
    assert list(made) == list(rows.ARMS)
    assert {(row.messages, row.seed, row.sampling) for row in made.values()} == {
        (state.prompt, 3, made["unsteered"].sampling)
    }
    assert [len(row.steer) for row in made.values()] == [0, 1, 1]
    ablated = [{latent: a.share for a in row.ablate for latent in a.latents} for row in made.values()]
    assert ablated == [{}, {3: 0.5}, {3: 0.5, 4: 1.0}]


def test_without_a_pick_there_is_no_steered_arm(tiny_llama):
    made = rows.rows(tiny_state(tiny_llama, picks=()), groups=GROUPS, labels={})
    assert list(made) == ["unsteered", "detectors_ablated"]


def test_the_meta_prompt_that_names_the_label_names_the_steered_latent(tiny_llama):
    state = tiny_state(tiny_llama, meta_prompt="label", picks=(Pick(latent=2, share=1.0), Pick(latent=7, strength=1.0)))
    assert "tides" in rows.asked(state, {7: "tides", 2: "bread"})
    with pytest.raises(ValueError, match="this latent has none"):
        rows.asked(state, {})


def test_answers_are_those_of_the_engine(explorer, result):
    pair = explorer.subject("tiny-llama").engine.pair
    row = replace(
        Row(messages=result.state.prompt, seed=3),
        sampling=rows.rows(result.state, groups={}, labels={})["unsteered"].sampling,
    )
    steered = replace(row, steer=(Steer(latent=7, strength=6.0),))
    alone = [explorer.subject(pair.name).engine.generate([one])[0].text for one in (row, steered)]
    assert [result.answer("unsteered").text, result.answer("steered").text] == alone
    assert alone[0] != alone[1]


def test_an_unknown_arm_names_those_there_are(result):
    with pytest.raises(KeyError, match="there are unsteered, steered, detectors_ablated"):
        result.answer("drunk")


def test_pieces_spell_the_text_and_every_series_has_a_number_each(result):
    for answer in result.answers:
        assert "".join(answer.pieces) == answer.text
        assert {len(values) for values in answer.series.values()} == {len(answer.pieces)}
        assert list(answer.series) == ["latent 7", "detectors", "backtracking", "topicality"]


def test_the_sum_of_a_group_is_that_of_its_latents(explorer, result):
    subject = explorer.subject("tiny-llama")
    row = replace(rows.rows(result.state, groups=GROUPS, labels={})["steered"], record=tuple(GROUPS["detectors"]))
    recorded = subject.engine.generate([row])[0].activations
    told = np.array(result.answer("steered").series["detectors"], dtype=float)
    assert np.allclose(told, recorded[3] + recorded[4], atol=2e-3, equal_nan=True)


def test_the_streamed_pieces_are_the_answers(explorer):
    streamed: dict[str, str] = {}

    def listen(arm: str, piece: str) -> None:
        streamed[arm] = streamed.get(arm, "") + piece

    result = explorer.run(on_piece=listen)
    for answer in result.answers:
        assert answer.text.startswith(streamed[answer.arm])
        assert len(answer.text) - len(streamed[answer.arm]) <= 3


def test_a_set_stop_event_gives_the_answers_as_they_stand(explorer):
    stop = threading.Event()
    result = explorer.run(on_piece=lambda arm, piece: stop.set(), stop=stop)
    assert {answer.stop_reason for answer in result.answers} <= {"cancelled", "stop"}
    assert "stopped before its end" in {answer.note for answer in result.answers}


def test_the_state_is_the_last_one_that_ran(explorer, tiny_llama):
    state = tiny_state(tiny_llama, seed=5)
    explorer.run(state)
    assert explorer.state == state


def test_a_state_of_another_pair_is_refused(explorer, tiny_llama):
    with pytest.raises(StateError, match="'elsewhere', and this explorer holds tiny-llama"):
        explorer.run(replace(tiny_state(tiny_llama), pair="elsewhere"))


def test_a_latent_out_of_range_is_told_with_the_range(explorer, tiny_llama):
    with pytest.raises(ValueError, match=r"latent 64 is not in .*64 latents \(0 to 63\)"):
        explorer.run(tiny_state(tiny_llama, picks=(Pick(latent=64, strength=1.0),)))


def test_the_chosen_latent_colours_first(explorer, tiny_llama):
    result = explorer.run(tiny_state(tiny_llama, colour="latent 20"))
    assert list(result.series)[0] == "latent 20"
    assert "latent 20" in result.answer("steered").series


def test_the_strongest_edit_allowed_still_gives_answers(explorer, tiny_llama):
    result = explorer.run(tiny_state(tiny_llama, picks=(Pick(latent=7, strength=1e6),)))
    assert len(result.answers) == 3


def test_a_relative_strength_is_a_share_of_the_median_norm(tiny_llama):
    subject = tiny_subject(tiny_llama)
    resid = subject.read[2]
    assert subject.relative(7, 6.0) == pytest.approx(6.0 / float(resid.norm(dim=1).median()), rel=1e-4)


def test_a_sweep_at_level_0_is_unsteered_and_at_level_1_steered(explorer, result):
    swept = explorer.sweep(result.state, levels=(0.0, 1.0))
    assert [a.arm for a in swept.answers] == ["x 0", "x 1"]
    assert [a.text for a in swept.answers] == [result.answer("unsteered").text, result.answer("steered").text]


def test_a_sweep_without_a_strength_says_so(explorer, tiny_llama):
    with pytest.raises(ValueError, match="nothing to sweep"):
        explorer.sweep(tiny_state(tiny_llama, picks=(Pick(latent=7, share=1.0),)))


def test_an_episode_is_the_first_seed_whose_answer_restarts(tiny_llama):
    everywhere = tiny_explorer(tiny_llama)
    texts = [everywhere.run(tiny_state(tiny_llama, seed=3 + i)).answer("steered").text for i in range(6)]
    mark = texts[4][:3]
    first = next(i for i, text in enumerate(texts) if mark in text)
    explorer = tiny_explorer(tiny_llama, HalvingJudge(mark))
    found = explorer.find_episode(tiny_state(tiny_llama), limit=6)
    assert found.n_tries == first + 1
    assert found.state == tiny_state(tiny_llama, seed=3 + first)
    assert explorer.run(found.state).answer("steered").is_multi


def test_a_search_for_an_episode_ends_at_its_limit(tiny_llama):
    tries: list[int] = []
    explorer = tiny_explorer(tiny_llama, HalvingJudge("no answer holds this"))
    found = explorer.find_episode(tiny_state(tiny_llama), limit=20, on_try=tries.append)
    assert (found.n_tries, found.state) == (20, None)
    assert tries == [16, 20]
    with pytest.raises(ValueError, match="limit of 0"):
        explorer.find_episode(tiny_state(tiny_llama), limit=0)


def test_a_stopped_search_counts_whole_tries_only(tiny_llama):
    stop = threading.Event()
    explorer = tiny_explorer(tiny_llama, HalvingJudge("no answer holds this"))
    found = explorer.find_episode(tiny_state(tiny_llama), limit=64, on_try=lambda n: stop.set(), stop=stop)
    assert (found.n_tries, found.state) == (16, None)


def test_labels_are_searched_and_filtered(explorer):
    found = explorer.search("oven", density=(0.5, 1.0), concreteness=(0.0, 40.0))
    assert found.index.tolist() == [39, 37, 35, 33, 31]
    assert explorer.search("12").index.tolist() == [12]


def test_a_sentence_finds_the_latents_that_fire_on_it(explorer):
    subject = explorer.subject("tiny-llama")
    found = explorer.fires_on("bread rises")
    assert found["activation"].is_monotonic_decreasing
    assert (found["activation"] > 0).all()
    row = Row(messages="Tell me something.", prefill="bread rises", record=(int(found.index[0]),))
    peak = np.nanmax(
        subject.engine.generate([replace(row, sampling=replace(row.sampling, max_new_tokens=0))])[0].activations[
            int(found.index[0])
        ]
    )
    assert found["activation"].iloc[0] == pytest.approx(peak, abs=0.01)
    with pytest.raises(ValueError, match="no sentence to read"):
        explorer.fires_on("  ")


def test_a_card_tells_what_is_known(explorer):
    card = explorer.card(7)
    subject = explorer.subject("tiny-llama")
    assert (card.label, card.calibrated) == ("“word7”", 8.0)
    assert card.relative == pytest.approx(subject.relative(7, 8.0))
    directions = subject.engine.pair.sae.W_dec
    best = int((directions @ directions[7]).argsort()[-2])
    assert card.nearest[0][0] == best
    logits = [logit for _, logit in card.top_logits]
    assert logits == sorted(logits, reverse=True)
    assert logits[0] > card.bottom_logits[0][1]


def test_the_histogram_counts_every_token_on_which_the_latent_fires(explorer):
    subject = explorer.subject("tiny-llama")
    active = subject.engine.pair.sae.encode(subject.read[2]) > 0
    latent = int(active.sum(dim=0).argmax())
    card = explorer.card(latent)
    assert sum(card.histogram[1]) == int(active[:, latent].sum()) > 0
    assert card.n_read == len(active)


def test_a_card_of_a_silent_latent_is_empty_but_there(explorer):
    card = explorer.card(63)
    assert card.label == "no label: it never fired in the corpus"
    assert card.histogram == ((), ())
    with pytest.raises(ValueError, match="latent 64 is not in"):
        explorer.card(64)


def test_tokens_between_attempts_are_a_restart():
    attempts = [Attempt(start=1, end=4, score=1.0), Attempt(start=9, end=12, score=2.0)]
    pieces = [" ", "ab", "c", " no", "w ", "de", "f", "\n"]
    assert shown.attempt_of(pieces, attempts) == (0, 0, 0, -1, -1, 1, 1, 1)
    assert shown.attempt_of(pieces, []) == (0,) * 8


def test_characters_in_several_tokens_are_spelled_whole(tiny_llama):
    text = "né — 🙂!"
    ids = tiny_llama.tokenizer(text, add_special_tokens=False)["input_ids"]
    pieces = shown.spell(tiny_llama.tokenizer, ids, text)
    assert len(pieces) == len(ids) > len(text)
    assert "".join(pieces) == text


def test_a_page_stands_alone_and_cannot_be_broken_by_its_text(explorer, tiny_llama):
    state = tiny_state(tiny_llama, prompt="Is </script><script>alert(1)</script> safe?")
    page = to_html(explorer.run(state))
    assert "<script>alert" not in page
    assert page.count("</script>") == 2
    for outside in ("http://", "https://", "src=", "@import", "url("):
        assert outside not in page.replace("http://www.w3.org/2000/svg", "")
    assert state.to_string() in page


def test_a_page_holds_the_answers_without_scripts(result):
    page = to_html(result)
    assert page.count("<pre>") == 3
    data = page.split('id="esr-data">')[1].split("</script>")[0]
    assert json.loads(data) == {"shown": result.to_dict(), "swept": None}


def test_a_page_holds_the_sweep_too(explorer, result):
    swept = explorer.sweep(result.state, levels=(0.0, 1.0))
    page = to_html(result, swept=swept)
    assert page.count("<pre>") == 5
    data = page.split('id="esr-data">')[1].split("</script>")[0]
    assert json.loads(data)["swept"] == swept.to_dict()


def test_the_app_is_the_notebook_up_to_the_explorer():
    notebook = nbformat.read(serve.NOTEBOOK, as_version=4)
    before = [cell.source for cell in notebook.cells]
    cut = serve.until_explorer(None, notebook, "")
    assert [cell.source for cell in cut.cells] == before[: len(cut.cells)]
    assert cut.cells[-1].source.startswith("App(explorer")
    cut.cells.pop()
    with pytest.raises(ValueError, match="no cell of the notebook is tagged 'explorer'"):
        serve.until_explorer(None, cut, "")


def test_a_kept_trial_is_on_disk_once(result, tmp_path):
    path = kept.keep(result, folder=tmp_path)
    kept.keep(result, folder=tmp_path)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["arm"] for line in lines] == list(rows.ARMS)
    assert lines[1]["response"] == result.answer("steered").text


def test_two_threads_never_use_the_model_at_once(tiny_llama):
    explorers = [tiny_explorer(tiny_llama), tiny_explorer(tiny_llama)]
    inside, most = [], []
    for one in explorers:
        engine = one.subject("tiny-llama").engine
        generate = engine.generate

        def watched(rows, generate=generate, **callbacks):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.05)
            made = generate(rows, **callbacks)
            inside.pop()
            return made

        engine.generate = watched
    threads = [threading.Thread(target=one.run) for one in explorers]
    threads.append(threading.Thread(target=explorers[0].measured, args=("tiny-llama",)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) >= 3
    assert max(most) == 1


def test_the_frame_has_a_line_a_token(result):
    frame = result.frame()
    assert len(frame) == sum(len(answer.pieces) for answer in result.answers)
    assert "".join(frame[frame["arm"] == "steered"]["token"]) == result.answer("steered").text


MEMORY = """
import ctypes, torch
import esr_utils.explorer

class Counts(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Counts
weight = torch.randn(384, 384, dtype=torch.bfloat16)

def used_mb(lengths):
    for n in lengths:
        torch.nn.functional.linear(torch.randn(n, 384, dtype=torch.bfloat16), weight)
    return libc.mallinfo2().uordblks / 1e6

before = used_mb(range(1, 101))
print(used_mb(range(101, 301)) - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="counted by glibc 2.33 or newer")
def test_ever_new_lengths_do_not_pile_up_compiled_products():
    """On AMX 0.2 MB stay of 200 lengths; 54 if one of the two caches is as large as usual, 112 if both are."""
    usual = {name: value for name, value in os.environ.items() if "CACHE_CAPACITY" not in name}
    done = subprocess.run([sys.executable, "-c", MEMORY], env=usual, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 10
