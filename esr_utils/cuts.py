"""Cutting texts where a reader would: at the end of a sentence."""

import re


def first_sentences(text: str, n_words: int) -> str:
    """``text`` up to the first end of a sentence after ``n_words`` words, or at most 15 words later if none follows."""
    words = list(re.finditer(r"\S+", text))
    if len(words) <= n_words:
        return text.rstrip()
    end = re.compile(r"[.!?:](?=\s)|\n").search(text, words[n_words].start())
    limit = words[min(n_words + 15, len(words) - 1)].end()
    return text[: min(end.end() if end else limit, limit)].rstrip()
