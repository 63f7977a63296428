"""Laws of the restart gate: on sentences of this file's own wording, none of which it was fitted to."""

import re
import time

import pytest

from esr_utils.judges.restarts import Restart, attempt_spans, find_restarts, sentences_of

PLAIN = "Sorry, I lost the thread, let me start over."
PLAIN_TOO = "No, that is not what you asked, let me try again."
OFF, ON = "The tea is a fish and swims in the harbour.", "Boil the water and pour it over the leaves."
SECONDS = 30.0  # on a busy machine; a few when it is idle

DRIFTED = (  # a start that drifts, an end on topic
    (
        "First take the wheel off the frame and lay it on the floor. The volcano then rises from the sea, and its ash "
        "feeds the vineyards of the island.",
        "Pull the tube out, find the hole with a bowl of water, and glue a patch on it.",
    ),
    (
        "Put the egg into the pan and the violins begin. The orchestra tunes to the oboe while the conductor lifts the "
        "baton.",
        "Bring water to the boil, lower the egg in with a spoon, and take it out after eight minutes.",
    ),
    (
        "Begin with the date and the tide tables of the harbour. Fishing boats leave at dawn, and their nets are "
        "mended in winter.",
        "Say which post you apply for, why you want it, and what you have done that fits it.",
    ),
    (
        "Dig a hole in the queue of the bank, where interest rates rise. Every savings account has a goalkeeper of its "
        "own.",
        "Make the hole twice as wide as the roots, set the tree upright, fill in the soil and water it well.",
    ),
    (
        "Start with the collar, which the knights of the old castle wore in battle. Swords were forged there from iron "
        "and charcoal.",
        "Press the collar first, then the cuffs and the sleeves, and last the front and the back.",
    ),
)

RESTARTS = (
    "Oh, I have been rambling about the wrong thing, so let me take it from the beginning.",
    "Sorry about that, I somehow ended up talking about something else.",
    "Wait, what am I saying? That has nothing to do with it.",
    "I apologise, the lines above are not an answer to what you asked.",
    "No, that's not right at all, let me try once more.",
    "Forget what I just wrote.",
    "Please ignore everything up to here; I'll answer properly now.",
    "Hang on, I got carried away.",
    "Let me start this answer afresh.",
    "Oops, wrong topic.",
    "Actually, that was complete nonsense, and I take it back.",
    "I have drifted off the point, so here is a second attempt.",
    "My mistake: none of this was what you wanted.",
    "Right, back to the question that you really asked.",
    "Erm, I don't know why I wrote that.",
    "Correction: what I said above is false.",
    "I'm sorry, I completely lost track of your question.",
    "That went wrong somewhere, so I will begin again.",
    "Scratch everything I said so far.",
    "Okay, I need to stop and restart, because this is off topic.",
    "I realise that I have not answered your question at all.",
    "Let me rephrase my whole answer, since it made no sense.",
    "Hold on, this isn't about what you asked me.",
    "Well, that was beside the point; here is the proper answer.",
    "Pardon me, I was thinking of a different question.",
    "I should not have gone there, so let me return to your request.",
    "On second thought, disregard all of that.",
    "Ah, I misread the question; let me do it over.",
    "This is not making any sense, so I'll try a new answer.",
    "I got mixed up there, apologies.",
    "To be honest, nothing I have written so far helps you.",
    "Let me scrap that and give you a real answer.",
    "I went off on a tangent there; back to the matter at hand.",
    "Excuse the mess above, I'll begin from scratch.",
    "Wait, no, that is the wrong answer.",
    "I take back the last few sentences.",
    "Sorry, let me pull myself together and answer what you asked.",
    "What I wrote above is gibberish, please skip it.",
    "Hmm, that doesn't answer your question, does it? Let me try again.",
    "I have been talking about something unrelated, so let me refocus.",
)

NEAR_MISSES = (
    "Warm the pot and add one spoon of leaves for each cup. Pour boiling water over them and wait 10 minutes if you "
    "like it strong. Actually, milk is best added last.",
    "Set the ladder on firm ground, one foot out for every four up. Climb slowly and hold on to the rim of the hatch "
    "with both hands. Wait, and listen, before you step onto the roof.",
    "That is a good question, so let me try to explain it in simple words. The area of a circle is pi times the square "
    "of its radius. For a radius of two metres that makes about 12.6 square metres.",
    "Let's start with the basics. Hold the neck of the guitar with your left hand and press the strings close to the "
    "frets. Go back to the first chord whenever your fingers get tired.",
    "Making an omelette is actually quite easy. Beat three eggs, melt some butter, and pour the eggs in. If it tears, "
    "do not worry: scrape the pan clean and start over with fresh eggs.",
    "Keep an apology short. You could write: Dear Ms Brown, I am sorry that I missed our meeting on Tuesday. It was my "
    "mistake and I should have called. I would be glad to meet on another day.",
    "Save your work every few minutes. If the program hangs, close it and start again from the last copy. Undo the "
    "last change if the page looks wrong.",
    "Cast on forty stitches and knit two rows. If you drop a stitch, go back to the row before it and begin again from "
    "there. Nobody gets it right the first time.",
    "Add the two equations to lose one unknown. If the result is negative, you made a mistake in the signs, so check "
    "step two once more. Then put the value back into the first equation.",
    "Read your draft aloud the next day. Cross out whatever is off topic, and rewrite a paragraph that drifts from the "
    "question. Ask a friend whether it makes sense.",
    "Practise the first minute of your speech until you know it by heart. If you lose the thread, smile, take a "
    "breath and return to your notes. No one will mind.",
    "I'm sorry, but I can't taste food, so take these times as a guide. Roast the potatoes for forty minutes at 200 "
    "degrees. Turn them once they are brown on one side.",
    "Sit upright and count your breaths from one to ten. When your mind wanders off, notice it and bring it back to "
    "the breath. Start at one again each time you lose count.",
    "Type the address before you drive off. If you took a wrong turn, stay calm and go on until the device finds "
    "another route. Never turn around on a motorway.",
    "Let the interviewer finish before you answer. Let me give you an example: a good reply names a task, what you did "
    "and what came of it. Hmm is no answer, so prepare three stories.",
    "Look at the whole board before you touch a piece. No, the queen isn't always the best piece to move first. Wait "
    "for your opponent to castle, and then attack.",
    "Sand the door and wipe off the dust. Never mind small drips, since they can be scraped off when dry. Wait until "
    "the first coat is hard before you start the second.",
    "Many people rinse pasta after cooking. That is a mistake, because the starch helps the sauce to stick. Now back "
    "to the pot, which should be boiling by now.",
    "Strike the right tone from the first line. If you sent the wrong file, open the message, choose recall, and send "
    "the right one. Say what was wrong in one sentence.",
    "Say no firmly when the puppy bites, and turn away. Once it is calm, start the exercise again from the beginning. "
    "Sorry as you may feel for it, do not give in.",
    "Pin the pattern to the cloth and cut along the line. If the seam is crooked, unpick it, iron it flat and sew it "
    "again. Let us go back to the sleeves, which we left pinned.",
    "Heat always moves from the warm body to the cold one. In other words, your hand loses heat to the snow. Let me "
    "put it another way: the snow does not send cold to you.",
    "Fill in the form in capital letters. To correct an error, cross it out once, write the right word above it and "
    "add your initials. Ignore the grey boxes, which are for the office.",
    "Saying sorry first is often the hardest part. Tell your friend that you were wrong and that you should have "
    "listened. Then ask how you can make up for it.",
    "Unplug the router, wait thirty seconds, and plug it in again. If that fails, reset it and begin anew with the "
    "password on its back. I hope that answers your question.",
    "Soak the beans overnight. Oops moments happen: if they burn, throw them away and scrub the pot with soda. Hold on "
    "to the cooking water, because it thickens the soup.",
    "There is no right or wrong way to pack a suitcase. Actually, rolling shirts saves more room than folding them. "
    "Let me know if you would like a list.",
    "To answer your question, most cacti need water every two weeks. Forget about the misting that some books advise. "
    "If the soil stays wet, take the plant out and repot it in sand.",
    "Write the formula on the board and ask the class what each letter means. Correct mistakes at once but kindly. "
    "Then go over the first example again, more slowly.",
    "Compare three quotes before you choose a mover. Please disregard offers that ask for all the money at once. As I "
    "said above, get everything in writing.",
    "Set a budget for the month and stick to it. If you went over it, do not scrap the plan; begin afresh on the first "
    "of the month. I made that mistake myself and learned from it.",
    "Stretch for five minutes before you run. Stop if your knee hurts, and try again after two days of rest. Wrong "
    "shoes are behind most pains of beginners.",
)

NAMED = {  # what is quoted, and how
    "double": f'If you ramble in a talk, say "{PLAIN}" and smile. Then go on with your notes.',
    "curly": f"If you ramble in a talk, say “{PLAIN}” and smile. Then go on with your notes.",
    "single": f"If you ramble in a talk, say '{PLAIN}' and smile. Then go on with your notes.",
    "curly single": f"If you ramble in a talk, say ‘{PLAIN}’ and smile. Then go on with your notes.",
    "backticks": f"If you ramble in a talk, say `{PLAIN}` and smile. Then go on with your notes.",
    "single, with an apostrophe": "If you ramble in a talk, say 'Sorry, I've lost the thread, let's start over.' and "
    "smile. Then go on with your notes.",
    "curly single, with an apostrophe": "If you ramble in a talk, say ‘Sorry, I’ve lost the thread, let’s start over.’ "
    "and smile. Then go on with your notes.",
}

STRAY = {
    "one double": f'The tea " is a fish and swims. {PLAIN} {ON}',
    "two doubles apart": f'The tea " is a fish and swims. {PLAIN} Boil the " water.',
    "an inch": f'The tea is a fish of 12" and swims. {PLAIN} {ON}',
    "opening double": f'The "tea is a fish and swims. {PLAIN} {ON}',
    "opening double, then a quotation": f'The "tea is a fish and swims. {PLAIN} Boil the "water" for tea.',
    "opening curly": f"The “tea is a fish and swims. {PLAIN} {ON}",
    "opening curly, then a quotation": f"The “tea is a fish and swims. {PLAIN} Boil the “water” for tea.",
    "closing curly": f"The tea” is a fish and swims. {PLAIN} {ON}",
    "one single": f"The tea ' is a fish and swims. {PLAIN} {ON}",
    "opening single": f"The 'tea is a fish and swims. {PLAIN} {ON}",
    "apostrophes": f"The teas' fish don't swim in the dogs' harbour. {PLAIN} {ON}",
    "opening curly single": f"The ‘tea is a fish and swims. {PLAIN} {ON}",
    "opening curly single, then a quotation": f"The ‘tea is a fish and swims. {PLAIN} Boil the ‘water’ for tea.",
    "one backtick": f"The tea ` is a fish and swims. {PLAIN} {ON}",
}


def restarts_in(response: str) -> list[str]:
    (found,) = find_restarts([response])
    return [response[restart.start : restart.end] for restart in found]


def drifted(restart: str, i: int, *, gap: str = " ") -> str:
    off, on = DRIFTED[i % len(DRIFTED)]
    return f"{off}{gap}{restart}{gap}{on}"


def test_most_restarts_are_found_in_answers_that_drifted():
    found = find_restarts([drifted(restart, i) for i, restart in enumerate(RESTARTS)])
    missed = [restart for restart, spans in zip(RESTARTS, found, strict=True) if not spans]
    assert len(missed) <= 0.15 * len(RESTARTS), missed


def test_what_is_found_is_where_the_restart_is():
    responses = [drifted(restart, i) for i, restart in enumerate(RESTARTS)]
    for response, restart, spans in zip(responses, RESTARTS, find_restarts(responses), strict=True):
        at = response.index(restart)
        assert all(at <= span.start < span.end <= at + len(restart) for span in spans), restart


def test_everyday_answers_do_not_restart():
    false = [(i, restarts_in(answer)) for i, answer in enumerate(NEAR_MISSES)]
    assert sum(bool(found) for _, found in false) <= 1, [found for found in false if found[1]]


@pytest.mark.parametrize("gap", [" ", "\n", "\n\n", "  "])
def test_a_span_is_exactly_the_sentence(gap):
    assert restarts_in(drifted(PLAIN, 0, gap=gap)) == [PLAIN]


@pytest.mark.parametrize("restart", [restart for restart in RESTARTS if re.search(r"\w[,;:] ", restart)])
def test_a_restart_of_several_clauses_is_marked_whole(restart):
    assert restarts_in(drifted(restart, 1)) == [restart]


@pytest.mark.parametrize("i", range(0, len(DRIFTED), 2))
def test_a_response_may_restart_several_times(i):
    response = " ".join([OFF, PLAIN, DRIFTED[i][0], PLAIN_TOO, ON])
    assert restarts_in(response) == [PLAIN, PLAIN_TOO]


@pytest.mark.parametrize("gap", [" ", "\n\n"])
def test_restarts_in_a_row_are_one(gap):
    assert restarts_in(f"{OFF} {PLAIN}{gap}{PLAIN_TOO} {ON}") == [f"{PLAIN}{gap}{PLAIN_TOO}"]


@pytest.mark.parametrize("opening", [PLAIN, f"\n {PLAIN}", f"Well. {PLAIN}", f"{PLAIN} {PLAIN_TOO}"])
def test_nothing_restarts_at_the_very_start(opening):
    response = f"{opening} {ON}"
    assert restarts_in(response) == []
    assert len(attempt_spans(response, find_restarts([response])[0])) == 1


@pytest.mark.parametrize("response", NAMED.values(), ids=NAMED)
def test_a_quoted_restart_is_not_the_writers_own(response):
    assert restarts_in(response) == []


def test_what_is_quoted_is_blanked_and_the_rest_stays_in_place():
    response = 'Say "no, wait" to him. Go on.'
    assert sentences_of(response) == [(0, 22, "Say __________ to him."), (23, 29, "Go on.")]


@pytest.mark.parametrize("response", STRAY.values(), ids=STRAY)
def test_a_stray_quotation_mark_hides_nothing(response):
    assert restarts_in(response) == [PLAIN]


@pytest.mark.parametrize(
    "before", ["The tea is a fish and then", "Swim to the harbour of the", "Step 1: take the fish,"]
)
def test_a_restart_needs_no_full_stop_before_it(before):
    assert restarts_in(f"{before} {PLAIN} {ON}") == [PLAIN]


def test_a_restart_that_nothing_follows_is_found_and_leaves_one_attempt():
    response = f"{OFF} {PLAIN}"
    (found,) = find_restarts([response])
    assert [response[restart.start : restart.end] for restart in found] == [PLAIN]
    assert attempt_spans(response, found) == [(0, len(OFF))]


@pytest.mark.parametrize("response", ["", " \n\t ", "?!", "🍄🌟", "Ok", "Sorry.", "..." * 50])
def test_what_holds_no_sentence_does_not_restart(response):
    assert restarts_in(response) == []


def test_no_responses_give_no_restarts():
    assert find_restarts([]) == []


RESPONSES = [
    *(drifted(restart, i) for i, restart in enumerate(RESTARTS[:8])),
    *NEAR_MISSES[:6],
    f"{OFF} {PLAIN} {ON} {PLAIN_TOO} {OFF}",
    "",
]


def test_the_order_of_responses_changes_nothing():
    assert find_restarts(RESPONSES[::-1]) == find_restarts(RESPONSES)[::-1]


def test_the_company_of_a_response_changes_nothing():
    assert [find_restarts([response])[0] for response in RESPONSES] == find_restarts(RESPONSES)


MIXED = {
    "emoji": ("🍄🌟 The tea is a fish 🐟👩‍👩‍👧, and it swims 🎉! ", " 🫖 Boil the water."),
    "accents": ("Le thé est un poisson très âgé, où nage-t-il\u0301 ? ", " Wasser kochen, öfter rühren, fertig."),
    "chinese": (
        "茶是一条鱼，它在港口游泳。 The fish swims in the harbour. ",
        " 先把水烧开，再把茶叶放进杯子里泡四分钟。",
    ),
    "arabic": ("الشاي سمكة في الميناء. The fish swims in the harbour. ", " اغلي الماء ثم صبه على أوراق الشاي."),
    "not in the basic plane": ("𝔗𝔥𝔢 𝔱𝔢𝔞 is a 𝒻𝒾𝓈𝒽 and it swims. ", " 𝐁𝐨𝐢𝐥 the water."),
    "carriage returns": ("The tea is a fish.\r\nIt swims in the harbour.\r\n", "\r\nBoil the water."),
}


@pytest.mark.parametrize(("before", "after"), MIXED.values(), ids=MIXED)
def test_positions_are_exact_beside_any_characters(before, after):
    response = before + PLAIN + after
    (found,) = find_restarts([response])
    assert found == [Restart(start=len(before), end=len(before) + len(PLAIN))]
    first, second = attempt_spans(response, found)
    assert response[slice(*first)] == before.strip()
    assert response[slice(*second)] == after.strip()


LONG = {
    "loop": "the cat sat on the mat. " * 1500,
    "loop without stops": "tea " * 10_000,
    "one line": " ".join(f"word{i} goes on" for i in range(12_500)),
    "one line of sentences": " ".join(f"Number {i} is the next fish in the harbour." for i in range(4_700)),
    "one line of restarts": f"{OFF} " + f"{PLAIN} {OFF} " * 2_200,
    "capitals": "Fish Tea " * 22_000,
    "full stops": "." * 200_000 + "a",
    "closing marks": ".)" * 100_000 + "a",
    "quotation marks": "\"a 'b “c ‘d `" * 15_000,
}


@pytest.mark.parametrize("response", LONG.values(), ids=LONG)
def test_long_responses_take_seconds(response):
    find_restarts([OFF])  # the models are loaded
    start = time.process_time()
    find_restarts([response])
    assert time.process_time() - start < SECONDS


def test_a_loop_of_restarts_has_an_attempt_a_round():
    response = f"{OFF} " + f"{PLAIN} {OFF} " * 300
    (found,) = find_restarts([response])
    assert {response[restart.start : restart.end] for restart in found} == {PLAIN}
    assert len(found) == 300
    assert len(attempt_spans(response, found)) == 301
