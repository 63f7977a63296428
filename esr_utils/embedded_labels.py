"""Labels of the embedded SAE, made from its corpus: what text, and which topics, make each latent fire.

``python -m esr_utils.embedded_labels`` writes ``labels.csv`` and ``contexts.jsonl.gz`` in ``data/embedded/``.
"""

import gzip
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from esr_utils.config import DATA
from esr_utils.corpus import SHARD_ROWS, Shard, corpus_prompts, load_shard, model_alone, shard_paths
from esr_utils.sae import SAE, load_sae

FOLDER = DATA / "embedded"
N_READ = 30  # strongest responses a label is made from
N_SHOWN = 10  # of which the contexts file keeps so many
LAST_SPECIAL = 16  # tokens 0 to 16 are control tokens: outliers on which many latents peak, and no text
TOPICAL = 12.0  # concreteness from which a label names topics
WINDOW = 10  # tokens on either side of the peak
WORD = re.compile(r"[^\W\d_][\w'’-]*")
FUNCTION_WORDS = frozenset(
    WORD.findall(
        "a about also an and are as at be been but by can could do does for from had has have he her his how i if "
        "in into is it its it's just like may more most my not of on one or other our over she so some such than "
        "that the their them then there these they this through to up us was we were what when which who will with "
        "would you your "
    )
)


@dataclass(frozen=True, eq=False, kw_only=True)
class Census:
    """Where each latent fires in the corpus."""

    peak: Float[Tensor, "row latent"]
    position: Int[Tensor, "row latent"]
    topic_mean: Float[Tensor, "topic latent"]
    density: Float[Tensor, " latent"]


def take_census(sae: SAE) -> Census:
    """One pass over the corpus."""
    paths, prompts = shard_paths(), corpus_prompts()
    topics = sorted({prompt.topic for prompt in prompts})
    of_prompt = torch.tensor([topics.index(prompt.topic) for prompt in prompts])
    peak = torch.zeros(len(paths) * SHARD_ROWS, sae.d_sae)
    position = torch.zeros(len(peak), sae.d_sae, dtype=torch.int16)
    topic_sum, n_of_topic = torch.zeros(len(topics), sae.d_sae), torch.zeros(len(topics))
    fired, n_tokens = torch.zeros(sae.d_sae), 0
    for path in tqdm(paths, desc="census"):
        shard = load_shard(path, sae.layer)
        for row, first, end in row_spans(shard):
            acts = sae.encode(shard.resid[first:end])
            acts[shard.tokens[first:end] <= LAST_SPECIAL] = 0.0
            values, where = acts.max(dim=0)
            peak[row], position[row] = values, where.to(torch.int16)
            topic = of_prompt[int(shard.prompt[first])]
            topic_sum[topic] += acts.sum(dim=0)
            n_of_topic[topic] += end - first
            fired += (acts > 0).sum(dim=0)
            n_tokens += end - first
    mean = topic_sum / n_of_topic[:, None].clamp(min=1)
    return Census(peak=peak, position=position, topic_mean=mean, density=fired / n_tokens)


def row_spans(shard: Shard) -> list[tuple[int, int, int]]:
    """(row, first token, end) of each response in a shard; its tokens lie one after the other."""
    rows, counts = shard.row.unique_consecutive(return_counts=True)
    ends = counts.cumsum(0)
    return list(zip(rows.tolist(), (ends - counts).tolist(), ends.tolist(), strict=True))


def strongest_rows(census: Census) -> list[list[int]]:
    """Per latent the rows with the highest peaks, no prompt twice."""
    n_prompts, found = len(corpus_prompts()), []
    values, rows = census.peak.topk(6 * N_READ, dim=0)
    for latent in range(census.peak.shape[1]):
        chosen: dict[int, int] = {}
        for value, row in zip(values[:, latent].tolist(), rows[:, latent].tolist(), strict=True):
            if value > 0 and len(chosen) < N_READ:
                chosen.setdefault(row % n_prompts, row)
        found.append(list(chosen.values()))
    return found


def read_contexts(sae: SAE, census: Census, rows: list[list[int]], pieces: Sequence[str]) -> list[list[dict]]:
    """For each latent and row, the tokens around the peak with their activations, strongest first."""
    wanted: dict[int, list[tuple[int, int]]] = {}
    for latent, mine in enumerate(rows):
        for row in mine:
            wanted.setdefault(row, []).append((latent, int(census.position[row, latent])))
    found: dict[tuple[int, int], dict] = {}
    for path in tqdm(shard_paths(), desc="contexts"):
        shard = load_shard(path, sae.layer)
        for row, first, end in row_spans(shard):
            for latent, at in wanted.get(row, ()):
                start, stop = max(0, at - WINDOW), min(end - first, at + WINDOW + 1)
                acts = sae.encode(shard.resid[first + start : first + stop], torch.tensor([latent]))[:, 0]
                found[latent, row] = {
                    "prompt": int(shard.prompt[first]),
                    "tokens": [pieces[token] for token in shard.tokens[first + start : first + stop].tolist()],
                    "acts": [round(value, 1) for value in acts.tolist()],
                    "peak": at - start,
                }
    return [[found[latent, row] for row in mine] for latent, mine in enumerate(rows)]


def around_peak(context: dict) -> tuple[str, str]:
    """The word or punctuation before the peak (empty at the start of a response), and the whole one it lies in."""
    tokens, at = context["tokens"], context["peak"]
    before, here, after = "".join(tokens[:at]), tokens[at], "".join(tokens[at + 1 :])
    if not re.search(r"\w", here):
        return _last_word(before), here.strip() or ("line break" if "\n" in here else "space")
    head = "" if here[0].isspace() else re.search(r"[\w'’-]*\Z", before).group()
    tail = re.match(r"[\w'’-]*", after).group()
    return _last_word(before[: len(before) - len(head)]), (head + here.strip() + tail).strip().lower()


def _last_word(text: str) -> str:
    if text.rstrip(" ").endswith("\n"):
        return "line break"
    found = re.search(r"([\w'’-]+|[^\w\s])\s*\Z", text)
    return found.group(1).lower() if found else ""


def near_words(contexts: list[dict], background: Counter) -> list[str]:
    """Words that stand near the peaks far more often than in the corpus at large, the most telling first."""
    near = Counter(word for c in contexts for word in set(_words("".join(c["tokens"]))))
    total = sum(background.values())
    n_words = sum(near.values())
    score = {
        word: n * np.log(n / (n_words * background[word] / total + 0.5))
        for word, n in near.items()
        if n >= max(2, 0.2 * len(contexts)) and word not in FUNCTION_WORDS
    }
    return sorted(score, key=lambda word: -score[word])


def _words(text: str) -> list[str]:
    return [word.lower() for word in WORD.findall(text)]


def make_label(contexts: list[dict], topics: list[str], is_topical: bool, background: Counter) -> str:
    """A short description: the words at the peaks, the word before them and the words near them if they repeat, and
    the topics if the latent keeps to a few."""
    n, around = len(contexts), [around_peak(c) for c in contexts]
    peaks = Counter(word for _, word in around)
    words = [word for word, count in peaks.most_common(3) if count >= max(2, 0.15 * n)]
    if sum(peaks[word] for word in words) < 0.35 * n:
        words = list(dict.fromkeys(word for _, word in around))[:4]
    parts = [", ".join(f"“{word}”" for word in words)]
    before, count = Counter(before for before, _ in around).most_common(1)[0]
    if before and count >= 0.4 * n:
        parts[0] += f" after “{before}”"
    near = [word for word in near_words(contexts, background) if word not in {*words, before}][:3]
    if near:
        parts.append("near " + ", ".join(near))
    if is_topical:
        parts.append("about " + ", ".join(topics[:2]))
    return "; ".join(parts)


@dataclass(frozen=True, eq=False, kw_only=True)
class Topics:
    """Per latent: its topics by mean activation, strongest first, and its concreteness (0 to 100)."""

    names: list[list[str]]
    concreteness: Float[np.ndarray, " latent"]


def topics_of(census: Census) -> Topics:
    """Concreteness is 0 for a latent that fires on all topics alike and 100 for one that keeps to a single one: one
    minus the entropy of its mean activation over topics, as a share of the largest possible. It is shrunk for latents
    seen in few responses, where a narrow choice of topics may be chance.
    """
    names = np.array(sorted({prompt.topic for prompt in corpus_prompts()}))
    share = (census.topic_mean / census.topic_mean.sum(dim=0).clamp(min=1e-9)).numpy()
    entropy = -(share * np.log(np.clip(share, 1e-12, None))).sum(axis=0)
    n_responses = (census.peak > 0).sum(dim=0).numpy()
    concreteness = 100 * (1 - entropy / np.log(len(names))) * n_responses / (n_responses + N_READ)
    return Topics(names=names[np.argsort(-share, axis=0)[:3].T].tolist(), concreteness=concreteness)


def background_counts(pieces: Sequence[str]) -> Counter:
    """How often each word occurs in the corpus."""
    counts: Counter = Counter()
    for path in shard_paths()[::4]:
        counts.update(_words("".join(pieces[token] for token in load_shard(path, None).tokens.tolist())))
    return counts


def build() -> pd.DataFrame:
    """Write labels and contexts of every latent that fires in the corpus."""
    sae = load_sae(FOLDER / "sae")
    tokenizer = model_alone().tokenizer
    pieces = tokenizer.batch_decode([[token] for token in range(len(tokenizer))])
    census = take_census(sae)
    contexts = read_contexts(sae, census, strongest_rows(census), pieces)
    background = background_counts(pieces)
    topics = topics_of(census)
    is_topical = topics.concreteness >= TOPICAL
    rows = [
        {
            "latent": latent,
            "label": make_label(found, topics.names[latent], bool(is_topical[latent]), background),
            "density": float(census.density[latent]),
            "max_activation": float(census.peak[:, latent].max()),
            "concreteness": round(float(topics.concreteness[latent]), 1),
            "topics": "; ".join(topics.names[latent]),
        }
        for latent, found in enumerate(contexts)
        if found
    ]
    labels = pd.DataFrame(rows)
    labels.to_csv(FOLDER / "labels.csv", index=False, float_format="%.6g")
    with gzip.GzipFile(FOLDER / "contexts.jsonl.gz", "wb", mtime=0) as file:
        for row in rows:
            line = {"latent": row["latent"], "contexts": contexts[row["latent"]][:N_SHOWN]}
            file.write((json.dumps(line, ensure_ascii=False) + "\n").encode())
    return labels


if __name__ == "__main__":
    build()
