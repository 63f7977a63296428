"""``python -m esr_utils.judge_examples``: real responses on which judges are tuned and tested.

Every response is drawn from the embedded model. Restarts are rare in it, so their sentences are put into derailed
answers by hand and the model goes on from there. The three parts share no question, latent or inserted sentence: the
judge is fitted to two of them and reported on the third.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

import numpy as np

from esr_utils.config import DATA
from esr_utils.cuts import first_sentences
from esr_utils.engines.base import Engine
from esr_utils.files import write_whole
from esr_utils.latents import load_labels
from esr_utils.prompts import load_prompts
from esr_utils.steering import Row, Sampling, Steer

FOLDER = DATA / "judge"
FITTED = ("tune", "check")
PARTS = (*FITTED, "report")
BANKS = range(1, 15)  # of restarts and near misses, to which the gate is fitted
SAMPLING = Sampling(max_new_tokens=128)
STRENGTHS = (45.0, 60.0, 75.0, 90.0, 110.0, 140.0)
DERAILING = (85.0, 100.0, 115.0)
OPENERS = ("Wait,", "Sorry,", "Actually,", "Hold on,", "Oops,", "Hmm,", "No,", "Let me", "I think I", "Anyway,")
MONITOR = (
    "While you answer, check whether you are still answering the question. If you have drifted to another subject, "
    "say so, start again and answer the question."
)
N_OF_KIND = {  # in each part
    "unsteered": 18,
    "steered": 66,
    "other_question": 8,
    "restarted": 30,
    "opener": 20,
    "silent": 10,
    "near_miss": 14,
    "short": 5,
    "monitored": 16,
    "greedy": 6,
}


@dataclass(frozen=True, kw_only=True)
class Example:
    """A response to be read, and how it was made."""

    id: str
    part: str
    kind: str
    question: str
    response: str
    latent: int | None = None
    strength: float = 0.0


def phrases(kind: str, bank: int | str) -> list[str]:
    """Sentences of a bank, by its number or the part it belongs to; ``kind``: ``restarts`` or ``near_misses``."""
    return (FOLDER / "phrases" / f"{kind}_{bank}.txt").read_text().splitlines()


class Maker:
    """Draws the examples of one part, kind by kind."""

    def __init__(self, engine: Engine, part: str, *, seed: int = 3):
        which = PARTS.index(part)
        concrete = load_labels("smollm2-135m").nlargest(600, "concreteness").index.to_numpy()
        discovery = load_prompts("discovery")
        self.engine, self.part = engine, part
        self.rng = np.random.default_rng([seed, which])
        self.questions = discovery[which::2] if part in FITTED else load_prompts("held_out")
        self.latents = concrete[:400][which::2] if part in FITTED else concrete[400:]
        self.restarts, self.near_misses = phrases("restarts", part), phrases("near_misses", part)

    def all(self) -> Iterator[Example]:
        for kind, n in N_OF_KIND.items():
            rows = self._rows(n, strengths=self._strengths(kind))
            made = getattr(self, f"_{kind}")(rows)
            for i, (row, response) in enumerate(zip(rows, made, strict=True)):
                steer = row.steer[0] if row.steer else Steer(latent=0, strength=0.0)
                yield Example(
                    id=f"{self.part}-{kind}-{i:02d}",
                    part=self.part,
                    kind=kind,
                    question=row.messages,
                    response=response,
                    latent=steer.latent if row.steer else None,
                    strength=steer.strength,
                )

    def _strengths(self, kind: str) -> tuple[float, ...]:
        if kind in ("unsteered", "other_question", "near_miss", "short"):
            return (0.0,)
        return STRENGTHS if kind in ("steered", "monitored") else DERAILING

    def _rows(self, n: int, *, strengths: tuple[float, ...]) -> list[Row]:
        rows = []
        for i in range(n):
            steer = Steer(latent=int(self.rng.choice(self.latents)), strength=float(self.rng.choice(strengths)))
            question = self.questions[i % len(self.questions)]
            seed = int(self.rng.integers(2**31))
            rows.append(Row(messages=question, steer=(steer,) if steer.strength else (), seed=seed, sampling=SAMPLING))
        return rows

    def _unsteered(self, rows: list[Row]) -> list[str]:
        return [response.text for response in self.engine.generate(rows)]

    _steered = _unsteered

    def _monitored(self, rows: list[Row]) -> list[str]:
        return self._unsteered(
            [replace(row, messages=[{"role": "user", "content": f"{row.messages}\n\n{MONITOR}"}]) for row in rows]
        )

    def _greedy(self, rows: list[Row]) -> list[str]:
        greedy = replace(SAMPLING, temperature=0.0, repetition_penalty=1.0)
        return self._unsteered([replace(row, sampling=greedy) for row in rows])

    def _other_question(self, rows: list[Row]) -> list[str]:
        others = [replace(row, messages=self.questions[(i + 7) % len(self.questions)]) for i, row in enumerate(rows)]
        return self._unsteered(others)

    def _short(self, rows: list[Row]) -> list[str]:
        return self._unsteered([replace(row, sampling=replace(SAMPLING, max_new_tokens=9)) for row in rows])

    def _restarted(self, rows: list[Row]) -> list[str]:
        """A derailed start, a restart sentence, and the model's own way on: steered in one of three."""
        sentences = self.rng.permutation(self.restarts)[: len(rows)]
        texts = self._continued(rows, [str(sentence) for sentence in sentences], n_steered=len(rows) // 3)
        for i in range(0, len(texts), 6):  # some restart twice
            second = str(self.restarts[-1 - i // 6])
            texts[i] = self._continued([rows[i]], [second], n_steered=0, starts=[first_sentences(texts[i], 90)])[0]
        return texts

    def _opener(self, rows: list[Row]) -> list[str]:
        """A derailed start and a word with which restarts begin; whether one follows is up to the model."""
        openers = [OPENERS[i % len(OPENERS)] for i in range(len(rows))]
        return self._continued(rows, openers, n_steered=len(rows) // 2)

    def _silent(self, rows: list[Row]) -> list[str]:
        """A derailed start, then without a word the start of an unsteered answer."""
        starts = self._derailed(rows)
        answers = self._unsteered([replace(row, steer=()) for row in rows])
        return [f"{start}\n\n{answer}" for start, answer in zip(starts, answers, strict=True)]

    def _near_miss(self, rows: list[Row]) -> list[str]:
        """A normal answer with a sentence that only looks like a restart."""
        texts = []
        for answer, sentence in zip(self._unsteered(rows), self.rng.permutation(self.near_misses), strict=False):
            start = first_sentences(answer, int(self.rng.integers(20, 60)))
            texts.append(f"{start} {sentence}{answer[len(start) :]}")
        return texts

    def _derailed(self, rows: list[Row]) -> list[str]:
        return [first_sentences(text, int(self.rng.integers(25, 70))) for text in self._unsteered(rows)]

    def _continued(
        self, rows: list[Row], sentences: list[str], *, n_steered: int, starts: list[str] | None = None
    ) -> list[str]:
        starts = starts or self._derailed(rows)
        gaps = [str(self.rng.choice([" ", "\n\n"])) for _ in rows]
        prefills = [f"{start}{gap}{sentence}" for start, gap, sentence in zip(starts, gaps, sentences, strict=True)]
        rows = [
            replace(row, prefill=prefill, steer=row.steer if i < n_steered else (), seed=row.seed + 1)
            for i, (row, prefill) in enumerate(zip(rows, prefills, strict=True))
        ]
        return self._unsteered(rows)


def main() -> None:
    """Adds the parts that ``examples.jsonl`` does not have yet."""
    from esr_utils.engines.hf import HFEngine
    from esr_utils.models import load_pair

    path = FOLDER / "examples.jsonl"
    lines = path.read_text().rstrip("\n").split("\n") if path.exists() else []
    missing = [part for part in PARTS if part not in {json.loads(line)["part"] for line in lines}]
    engine = HFEngine(load_pair("smollm2-135m"))
    examples = [example for part in missing for example in Maker(engine, part).all()]
    lines += [json.dumps(asdict(example), ensure_ascii=False) for example in examples]
    write_whole(path, "".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    main()
