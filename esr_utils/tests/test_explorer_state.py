"""States: what they refuse, and that a string or JSON gives back exactly what was saved."""

import json
from dataclasses import replace

import pytest

from esr_utils.explorer.state import MAX_STRING, Pick, State, StateError

PAIRS = ("smollm2-135m", "smollm2-135m-corrector")
STATE = State(
    pair="smollm2-135m-corrector",
    prompt="How do you tie a knot — “fast”?\nAnd then?",
    meta_prompt="label",
    wording=2,
    picks=(Pick(latent=12, strength=71.25), Pick(latent=9, share=0.5)),
    share=0.25,
    seed=11,
    temperature=0.0,
    max_new_tokens=40,
    scope="generated",
    colour="topicality",
)


def test_a_string_gives_back_the_state():
    text = STATE.to_string()
    assert text.startswith("esr1.smollm2-135m-corrector.")
    assert " " not in text
    assert State.from_string(f"  {text}\n", pairs=PAIRS) == STATE


def test_a_string_is_short():
    state = State(pair="smollm2-135m", prompt="How do you boil an egg?", picks=(Pick(latent=23, strength=70.39),))
    assert len(state.to_string()) < 200
    assert State.from_string(state.to_string(), pairs=PAIRS) == state


def test_json_gives_back_the_state():
    assert State.from_json(STATE.to_json(), pairs=PAIRS) == STATE


def test_whole_numbers_will_do_for_strengths():
    changed = json.loads(STATE.to_json()) | {"picks": [{"latent": 1, "strength": 40}], "temperature": 1}
    state = State.from_json(json.dumps(changed), pairs=PAIRS)
    assert (state.picks, state.temperature) == ((Pick(latent=1, strength=40.0),), 1.0)


def test_a_string_of_another_pair_names_both():
    with pytest.raises(StateError, match=r"pair 'smollm2-135m-corrector'.*those here \(smollm2-135m\)"):
        State.from_string(STATE.to_string(), pairs=["smollm2-135m"])


def test_a_pair_changed_in_the_string_is_noticed():
    text = STATE.to_string().replace("smollm2-135m-corrector", "smollm2-135m")
    with pytest.raises(StateError, match="names two pairs"):
        State.from_string(text, pairs=PAIRS)


def test_another_version_is_named():
    with pytest.raises(StateError, match="version '2', and this kit reads version 1"):
        State.from_string(STATE.to_string().replace("esr1", "esr2"), pairs=PAIRS)
    with pytest.raises(StateError, match="version 2, and this kit reads version 1"):
        State.from_json(json.dumps({**json.loads(STATE.to_json()), "version": 2}), pairs=PAIRS)


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_string_that_was_cut_off_is_damaged(cut):
    with pytest.raises(StateError, match="damaged"):
        State.from_string(STATE.to_string()[:-cut], pairs=PAIRS)


@pytest.mark.parametrize("text", ["", "hello", "esr1", "esr1.", "x" * (MAX_STRING + 1)])
def test_a_text_that_is_no_state_is_refused(text):
    with pytest.raises(StateError, match="is not a state"):
        State.from_string(text, pairs=PAIRS)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000])
def test_a_text_that_is_no_json_is_refused(text):
    with pytest.raises(StateError, match="not JSON"):
        State.from_json(text, pairs=PAIRS)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"colour_of_sky": 1}, "no field 'colour_of_sky'"),
        ({"picks": 3}, "picks is not a list"),
        ({"picks": [{"strength": 1.0}]}, "needs the field 'latent'"),
        ({"picks": [{"latent": 1, "boost": 2}]}, "no field 'boost'"),
        ({"seed": 1.5}, "seed 1.5 is not a whole number"),
        ({"seed": True}, "seed True is not a whole number"),
        ({"prompt": 7}, "prompt 7 is not a text"),
        ({"temperature": "hot"}, "temperature is 'hot'"),
        ({"temperature": 10**400}, "temperature is 1000.*not a finite number"),
        ({"scope": "some"}, "scope 'some' is not one of all, generated"),
    ],
)
def test_json_by_hand_is_checked(change, told):
    text = json.dumps(json.loads(STATE.to_json()) | change)
    with pytest.raises(StateError, match=told):
        State.from_json(text, pairs=PAIRS)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"prompt": " \n"}, "the prompt is empty; ask the model something"),
        ({"meta_prompt": "beg"}, "meta_prompt 'beg' is not one of none, neutral"),
        ({"seed": -1}, "seed -1 is not a whole number from 0 up"),
        ({"max_new_tokens": 0}, "there would be no answer"),
        ({"temperature": float("nan")}, "temperature nan is outside"),
        ({"temperature": 11.0}, r"outside 0 \(greedy\) to 10"),
        ({"share": 1.5}, "share 1.5 of the detectors is outside 0"),
        ({"picks": (Pick(latent=1), Pick(latent=1))}, "latent 1 is picked twice"),
        ({"picks": tuple(Pick(latent=i) for i in range(40))}, "40 latents are picked"),
    ],
)
def test_a_bad_setting_is_told_in_one_sentence(change, told):
    with pytest.raises(StateError, match=told):
        replace(STATE, **change)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"strength": 1e9}, r"strength 1e\+09 of latent 5 is beyond 1e\+06"),
        ({"strength": float("inf")}, "strength inf of latent 5 is beyond"),
        ({"strength": float("nan")}, "strength nan of latent 5 is beyond"),
        ({"share": -0.1}, "share -0.1 of latent 5 is outside"),
        ({"latent": -1}, "latent -1 is not a whole number"),
    ],
)
def test_a_bad_pick_is_told_in_one_sentence(change, told):
    with pytest.raises(StateError, match=told):
        Pick(**{"latent": 5} | change)
