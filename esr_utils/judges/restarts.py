"""The restart gate: where a response openly withdraws what it said, or says that it starts again.

A rule on the text itself, so that no judge can invent a restart. Each family of phrases below is a way to say that
one's own answer is withdrawn; what is quoted, or addressed to the reader as advice, is not the writer's own.
"""

import re
from dataclasses import dataclass

MIN_CHARACTERS = 12  # of an attempt, blanks left out: a restart at the very start withdraws nothing

# Parts that several families share.
_I = r"(?:i|we)(?:'ve|'m|'d|'ll|'re)?(?: (?:have|had|am|was|would|will|should|must|may|might|did|just|really|seem|think|may have))*"
_WRITTEN = (
    r"(?:answer|answers|reply|response|explanation|explanations|text|paragraphs?|sentences?|lines?|parts?|section|"
    r"instructions?|steps?|description|advice|passage|bit|attempt|words|thoughts|information|version)"
)
_BEFORE = r"(?:preceding|previous|above|earlier|foregoing|prior|first|last|last few|last several|initial|former)"
_MINE = (
    rf"(?:(?:my|the|this|that|those|these|our) (?:\w+ ){{0,2}}?{_BEFORE} (?:\w+ )?{_WRITTEN}|"
    rf"(?:my|this|the) {_WRITTEN}(?: (?:above|so far|i gave|i was giving|up to here|until now))?|the above|"
    rf"(?:what|everything|anything|all|all that|most of what|much of what)(?:'s| (?:of )?(?:that|i|i've|you|you've|was|is|has))"
    rf"(?: (?:just|have|has|been))* (?:said|wrote|written|read|stated|told|came|described|above|before|put|given)"
    rf"(?: (?:above|so far|before|earlier|until now|down))?)"
)
_ASK = r"(?:ask(?:ed)?|want(?:ed|ing)?|request(?:ed)?|need(?:ed)?|were after|were looking for|had in mind|meant)"
_QUESTION = (
    r"(?:(?:your|the|this) (?:\w+ ){0,2}?(?:question|topic|subject|request|enquiry|inquiry|query|prompt|task|point|matter)|"
    rf"what you(?:'d| had| have| actually| really| first)* {_ASK}|yours\b|you (?:had )?asked\b)"
)
_AGAIN = (
    r"(?:over|again|afresh|anew|once more|once again|a second time|another (?:try|go|shot|attempt)|a fresh start|"
    r"from (?:the )?(?:top|scratch|beginning|start)|one more time|all over)"
)
_AFRESH = r"(?:over|again|afresh|anew|once more|one more time|from (?:the )?(?:top|scratch))"
_OFF = r"(?:off[ -](?:the )?(?:topic|track|course|subject|point|rails|mark)|(?:far |away )?from (?:your|the) (?:question|topic|subject|point)|astray|sideways|off on)"
_WRONG = r"(?:(?:all |completely |totally |quite |just |simply |also |not quite |plain )*(?:wrong|incorrect|mistaken|inaccurate|nonsense|not right|not correct|not it|not accurate|irrelevant|unrelated|off topic|off-topic))"
_NOT = r"(?:(?:n't| not| never| no longer)\b)"

FAMILIES = {
    "not_asked": [
        rf"\b(?:that|this|it|which|above|none of (?:that|this|it))\b[^.!?\n]{{0,30}}{_NOT}[^.!?\n]{{0,25}}\b(?:what|the (?:question|thing)) you[^.!?\n]{{0,20}}\b{_ASK}",
        rf"\b(?:that|this|it|{_MINE})[^.!?\n]{{0,40}}\b(?:nothing|little|not much) to do with (?:{_QUESTION}|what)",
        rf"\byou{_NOT}? ?(?:had |have |actually |were |really )*{_ASK} (?:me )?(?:for |about )?(?:something|a) (?:\w+ )?(?:else|different|other)",
        rf"\b{_MINE}\b[^.!?\n]{{0,30}}(?:{_NOT} (?:\w+ )?(?:answer|address|help|relate|match|fit)|fail(?:s|ed)? to answer|miss(?:es|ed) the point)",
        rf"\b(?:unrelated|irrelevant|not related|not relevant|of no relevance) to {_QUESTION}",
        r"\byou (?:did not|didn't|never) (?:actually |really )?(?:ask|asked|want|wanted|request) (?:me )?(?:for |about |to \w+ |to know )?(?:any |all |most )?(?:of )?(?:this|that)\b",
        r"\b(?:answer|reply|response|that|this|it)(?:'s| is| was|,)?(?: \w+){0,3} (?:for|to) (?:another|some other|an? (?:\w+ )?(?:different|other)) question\b",
        rf"\b(?:that|this|it) (?:does|did){_NOT} (?:\w+ )?(?:answer|address) {_QUESTION}",
    ],
    "drifted": [
        rf"\b{_I} (?:\w+ ){{0,4}}?(?:wander|drift|stray|veer|digress|rambl|slip|derail|went|gone|going|got|gotten|getting|took|wound up|ended up|turned)\w*\b[^.!?\n]{{0,30}}\b(?:{_OFF}|sidetracked|side-tracked|distracted|carried away|on (?:a|some) tangent|(?:answering|discussing) (?:\w+ ){{0,2}}(?:wrong|other|another|different|else))",
        rf"\b{_I} (?:\w+ ){{0,3}}?(?:sidetracked|side-tracked|digress(?:ed|ing)?|(?:been )?rambling|off (?:topic|track|course|subject))",
        rf"\b{_I} (?:\w+ ){{0,2}}?(?:lost|losing) (?:the|my) (?:thread|way|train|track)\b",
        rf"\b(?:that|this|it|{_MINE}|everything[^.!?\n]{{0,40}})(?:'s| is| was| were| has| had|,)[^.!?\n]{{0,30}}\b(?:a (?:bit of a |long |complete )?(?:digression|tangent|detour|diversion|slip)|{_OFF}|beside the point|not relevant|gibberish)\b",
        rf"\b{_MINE}\b[^.!?\n]{{0,40}}\b(?:went|go|goes|drift|drifted|wander|wandered|stray|strayed|ran|veered|slipped|lost|got|turned)\b[^.!?\n]{{0,20}}\b(?:{_OFF}|lost|wrong|nonsense|rails|thread)",
        r"\b(?:my|our) (?:mind|thoughts|attention|focus|pen) (?:\w+ )?(?:wandered|drifted|slipped|strayed|ran)",
        r"\blost (?:sight|track) of (?:your|the question|the topic|what you)\b",
        r"\b(?:where|what) (?:was|am) i (?:even )?(?:saying|on about|talking about)?\s*\?",
        r"\b(?<!had )(?:don't know|do not know|not sure|no idea|can't say|cannot say) (?:why|what|how) (?:i (?:wrote|said|went|got|ended|started (?:on|talking|writing)|was (?:saying|talking|writing|on))|(?:that|this|all that) (?:came|was about|had to do))\b",
        r"\b(?:this|that|it)(?:'s| is| was) (?:going|leading|getting us|getting) (?:nowhere|off)\b",
        r"\bstopped (?:being about|answering|addressing)\b",
        r"\bnone of (?:that|this|it|the above|what)(?! options| choices)[^.!?\n]{0,40}\b(?:relevant|sense|answer|useful|helps?|to do with|matters?|right|correct|related)",
        r"\bwhy (?:am|was) i (?:even )?(?:telling|talking|saying|writing|going on|discussing|explaining|describing)",
        r"\b(?:where|how) (?:that|this|all that|any of that) came from",
        r"\b(?:i|we|this|that|it)(?:'m|'s|'re| am| is| was| are| were)(?: \w+){0,2} (?:on|down|in) the wrong (?:track|path|direction|road)\b",
    ],
    "again": [
        rf"\b(?:let me|let us|let's|i'll|i will|i'd like to|i would like to|i want to|i should|i must|i need to|i am going to|i'm going to|allow me to|permit me to|may i|can i|i'd better|time to|we should)(?: \w+){{0,2}}? (?:(?:start|begin)(?: (?:this|that|it|things|my answer|the answer))* {_AFRESH}|(?:try|redo|do|take|attempt|answer|write|give|have)(?: (?:this|that|it|things|my answer|the answer|your question|this one|another|a))*(?: \w+)? {_AGAIN})(?=\s*(?:[.,;:!?—–-]|and\b|with\b|by\b|from\b|properly\b|then\b|because\b|since\b|$))",
        rf"\b(?:i'll|i will|let me|let us|let's|i'd like to|i should|i want to) (?:\w+ ){{0,4}}(?:different|another|better|new|second) (?:answer|attempt|reply|response|explanation)\b",
        rf"(?:^|[,;:—–.…-]\s*)(?:so |okay |ok |now |and )*(?:starting|beginning|trying|restarting)(?: (?:this|that|it))? {_AFRESH}",
        rf"\bi(?:'m| am| will be|'ll be)? (?:start|begin|restart)(?:ning|ting|ing)? {_AFRESH}",
        rf"\b(?:a |an |my |the )?(?:fresh|new|second|another|corrected|proper)(?: \w+)? (?:attempt|answer|version|reply|try|response|explanation)\b(?: (?:follows|(?:is )?given|begins|comes|at)\b)",
        rf"\bhere(?:'s| is| comes| goes)(?: \w+){{0,2}}? (?:proper|real|actual|correct|corrected|right|better|second|another|fresh)(?: \w+)? (?:attempt|answer|reply|try|response|explanation|go)\b",
    ],
    "return": [
        rf"\b(?:let me|let us|let's|i'll|i will|i'd like to|i would like to|i want to|i should|i must|i need to|allow me to|time to|we should|so|now|and)(?: \w+){{0,3}}? (?:return|get back|go back|going back|come back|back|turn back|bring this back|steer back)(?: \w+)? to (?:answer(?:ing)? )?{_QUESTION}",
        rf"(?:^|[,;:—–.…-]\s*)(?:now |okay |ok |so |and |anyway |right )*,? ?back (?:on track|to (?:answering )?{_QUESTION})",
        rf"\b(?:i|we) (?:\w+ )?(?:should|would|could|ought to|need to) (?:have )?(?:stuck|stick|stay|stayed|kept|keep)(?: \w+)? (?:to|with|on) (?:{_QUESTION}|topic)",
        rf"\bnow for {_QUESTION}",
        rf"(?:^|[,;:—–.…-]\s*)(?:now |okay |so |and )*(?:returning|turning|turning back|coming back|going back|getting back|moving back) to (?:answering )?{_QUESTION}",
    ],
    "withdraw": [
        rf"(?:^|[,;:.…—–-]\s*|\b(?:please|let's|let us|let me|so|and|can|just) (?:just )?)(?:scratch|strike|forget|ignore|disregard|discard|skip|cross out|never mind|pay no attention to|set aside)(?: out)? (?:all |all of |most of |about )?(?:that|this|it|{_MINE})(?=\s*(?:[.,;:!?—–-]|and\b|because\b|since\b|please\b|as\b|for\b|line\b|part\b|bit\b|last\b|$))",
        r"\b(?:let me|let us|allow me to|i'll|i will|i should|i must|i need to|i'd like to|i would like to|i want to|may i) (?:just |quickly |please |first )?(?:(?:restart|rewind|backtrack|start over|take that back)\b|(?:correct|rephrase|revise|rewrite|redo|retract|withdraw|undo|fix) (?:that|this|it|myself|my|what i|the above|the answer)\b)",
        r"(?:^|[.!?,;:—–…-]\s*)(?:scrap|strike|cancel|scratch|undo|never mind) (?:that|this|it|all that|all of that|the above)\b",
        rf"\b{_MINE}\b[^.!?\n]{{0,60}}\b(?:should|can|may|must|is to|are to|is|are|be)(?: be| hereby)? (?:disregarded|ignored|skipped|withdrawn|retracted|discarded|forgotten)",
        r"\bi(?:'d| would)?(?: (?:must|have to|need to|hereby|should|like to|want to))* (?:take (?:it|that|this|all that|what i \w+) (?:all )?back|take back\b|retract|withdraw|correct (?:myself|that|this|it|what))\b",
    ],
    "mistake": [
        rf"\b{_I} (?:\w+ )?(?:made|make|making) (?:a|an|some|another|one)(?: \w+)? (?:mistake|error|slip|blunder|mix-up)",
        rf"\b{_I} (?:\w+ ){{0,2}}?(?:misread|misunderst\w+|misspoke|misinterpreted|mixed (?:\w+ ){{0,2}}?up|mixing (?:\w+ ){{0,2}}?up|messed (?:\w+ ){{0,2}}?up|confus(?:ed|ing) (?:\w+ )?(?:this|that|your|the|two|things|myself|it)|got (?:that|this|it|things|everything) (?:\w+ )?(?:wrong|confused|mixed up|muddled)|got (?:confused|mixed up|muddled)|answer(?:ed|ing) (?:\w+ ){{0,2}}?(?:wrong|different|other|another))",
        rf"\b(?:i|we)(?:'m| was| were| am| have been|'ve been)(?: afraid| clearly| simply| quite| so)? {_WRONG}",
        r"(?:^|[,;:.—–…-]\s*)(?:\w+, )?my (?:mistake|bad|error|fault|apologies)(?=\s*(?:[.,;:!?—–-]|for\b|$))",
        rf"\b{_MINE}\b(?:'s| is| was| were| are)(?: \w+)? {_WRONG}",
        r"\b(?:an?|the) (?:error|mistake|mix-up) (?:crept|slipped|was made|in (?:my|the) (?:answer|text|reply|response))",
        rf"(?:^|[.!?,;:—–…-]\s*)(?:wait|no|hold on|hang on|hmm+|oops|sorry|actually|oh|whoa|ah|um+|erm?|well|okay|ok)[,.!…—– -]+(?:\w+[, ]+){{0,3}}?(?:that|this|it)(?:'s| is| was| came out| did| does| sounds| looks){_NOT}?[^.!?\n]{{0,15}}(?:{_WRONG}|make sense|working)",
        rf"(?:^|[.!?]\s+)that(?:'s| is| was| came out)(?: \w+)? (?:all )?(?:wrong|incorrect|not right|not correct)\s*(?:[.!…—–]|$)",
        r"(?:^|[.!?]\s+)correction\s*[:—–-]",
        rf"\b{_MINE}[^.!?\n]{{0,20}}(?:does|did|do){_NOT} make (?:any |much )?sense",
    ],
    "apology": [
        r"\bi owe you (?:an apology|a (?:proper|better|real|correct|straight) (?:answer|reply|response))",
        r"\b(?:apologies|apologise|apologize|sorry|pardon|excuse|forgive)(?: me)?(?: (?:for|about))? (?:the |my |this |that |all )+(?:\w+ )?(?:confusion|mistake|error|digression|tangent|mix-up|detour|ramble|rambling|misunderstanding|diversion|sidetrack|slip|nonsense|mess|wrong)",
    ],
}
_FAMILIES = {
    name: re.compile("|".join(f"(?:{pattern})" for pattern in patterns), re.IGNORECASE | re.MULTILINE)
    for name, patterns in FAMILIES.items()
}
_SENTENCE = re.compile(r"[^.!?\n…]*(?:[.!?…]+[\"'”’)*]*(?=\s|$)|\n|$|[.!?…]+)")
_QUOTED = re.compile(r"\"[^\"\n]{2,400}\"|“[^”\n]{2,400}”|(?<!\w)'[^'\n]{2,200}'(?!\w)|(?<!\w)‘[^’\n]{2,200}’(?!\w)|`[^`\n]+`")
_TO_READER = re.compile(
    r"\b(?:if|when|whenever|once|unless|until|in case|should) (?:that|this|it|you|your|they|he|she|someone|somebody|people|the)\b"
    r"|\byou (?:can|could|may|might|should|would|must|need|have) (?:simply |just |also |always |then )*(?:to )?(?:say|write|tell|ask|reply|answer|try|start|begin|go|return|erase|correct|apologi)"
    r"|^\s*dear \w+",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class Restart:
    """Characters ``start`` to ``end`` (exclusive) of the sentences that withdraw or restart; ``family`` of phrase."""

    start: int
    end: int
    family: str


def find_restarts(response: str) -> list[Restart]:
    """Every open restart of ``response``, in order; sentences that follow one another are one restart."""
    plain = _without_quotes(response).replace("’", "'")
    found: list[Restart] = []
    for sentence in _SENTENCE.finditer(plain):
        family = _family(sentence.group().lstrip())
        if family is None or _n_characters(response[: sentence.start()]) < MIN_CHARACTERS:
            continue
        start = sentence.start() + len(sentence.group()) - len(sentence.group().lstrip())
        if found and not response[found[-1].end : start].strip():
            found[-1] = Restart(start=found[-1].start, end=sentence.end(), family=found[-1].family)
        else:
            found.append(Restart(start=start, end=sentence.end(), family=family))
    return found


def attempt_spans(response: str, restarts: list[Restart] | None = None) -> list[tuple[int, int]]:
    """Characters of each attempt: what stands before, between and after the restarts, which belong to none.

    A stretch of fewer than ``MIN_CHARACTERS`` is no attempt of its own. A response without any text has none.
    """
    restarts = find_restarts(response) if restarts is None else restarts
    edges = [0, *[edge for restart in restarts for edge in (restart.start, restart.end)], len(response)]
    spans = [_trimmed(response, *edges[i : i + 2]) for i in range(0, len(edges), 2)]
    kept = [span for span in spans if _n_characters(response[slice(*span)]) >= MIN_CHARACTERS]
    whole = _trimmed(response, 0, len(response))
    return kept or ([whole] if response.strip() else [])


def _family(sentence: str) -> str | None:
    for name, pattern in _FAMILIES.items():
        match = pattern.search(sentence)
        if match and not _TO_READER.search(sentence[: match.end()]):
            return name
    return None


def _without_quotes(text: str) -> str:
    """``text`` with quoted stretches blanked, so that positions stay."""
    return _QUOTED.sub(lambda quote: "_" * len(quote.group()), text)


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    part = text[start:end]
    return start + len(part) - len(part.lstrip()), start + len(part.rstrip())


def _n_characters(text: str) -> int:
    return sum(not character.isspace() for character in text)
