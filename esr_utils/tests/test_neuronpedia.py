"""Labels in bulk, from a server of this test with files of the export's shape. All labels are made up."""

import gzip
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pandas as pd
import pytest

from esr_utils import neuronpedia
from esr_utils.catalogue import add_entry
from esr_utils.latents import NO_CONCRETENESS, is_concrete, load_contexts, load_labels, search_labels
from esr_utils.neuronpedia import LabelsError, neuronpedia_labels

SOURCE = "gemma-2-2b/16-gemmascope-res-16k"
PREFIX = f"v1/{SOURCE}/explanations/"
NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"


def explanation(latent: int, text: str, *, layer: str = "16-gemmascope-res-16k") -> dict[str, object]:
    """A line of the export, with every field it has."""
    return {
        "id": f"e{latent}",
        "modelId": "gemma-2-2b",
        "layer": layer,
        "index": str(latent),
        "description": text,
        "authorId": "a",
        "typeName": "oai_token-act-pair",
        "explanationModelName": "a-model",
        "embedding": [0.1, -0.2],
        "notes": None,
    }


def packed(lines: list[dict[str, object]]) -> bytes:
    return gzip.compress("".join(json.dumps(line) + "\n" for line in lines).encode())


@dataclass
class Bucket:
    """The bucket's files, which it lists two at a time."""

    files: dict[str, bytes]
    asked: list[str] = field(default_factory=list)
    failing: list[int] = field(default_factory=list)  # status of the next answers
    sizes: dict[str, int] = field(default_factory=dict)  # listed in place of the true ones

    def listing(self, query: dict[str, list[str]]) -> bytes:
        keys = sorted(key for key in self.files if key.startswith(query["prefix"][0]))
        first = int(query.get("continuation-token", ["0"])[0])
        items = "".join(
            f"<Contents><Key>{key}</Key><Size>{self.sizes.get(key, len(self.files[key]))}</Size></Contents>"
            for key in keys[first : first + 2]
        )
        more = len(keys) > first + 2
        token = f"<NextContinuationToken>{first + 2}</NextContinuationToken>" if more else ""
        head = f"<Name>labels</Name><IsTruncated>{str(more).lower()}</IsTruncated>{token}"
        return f'<ListBucketResult xmlns="{NAMESPACE}">{head}{items}</ListBucketResult>'.encode()

    def answer(self, url: str) -> tuple[int, bytes]:
        parts = urlsplit(url)
        key = parts.path.lstrip("/")
        self.asked.append(key)
        if self.failing:
            return self.failing.pop(0), b""
        if not key:
            return 200, self.listing(parse_qs(parts.query))
        return (200, self.files[key]) if key in self.files else (404, b"")

    def serve(self) -> ThreadingHTTPServer:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(handler):  # noqa: N805
                code, body = self.answer(handler.path)
                handler.send_response(code)
                handler.send_header("Content-Length", str(len(body)))
                handler.end_headers()
                handler.wfile.write(body)

            def log_message(handler, *args):  # noqa: N805
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return server


@pytest.fixture
def bucket(request, tmp_path, monkeypatch) -> Bucket:
    lines = [explanation(i, f"talk of  thing {i}") for i in range(10)]
    made = Bucket({f"{PREFIX}batch-{i}.jsonl.gz": packed(lines[3 * i : 3 * i + 3]) for i in range(4)})
    made.files[f"{PREFIX}batch-3.jsonl.gz"] = packed([*lines[9:], explanation(0, "a second opinion")])
    made.files["v1/gemma-2-2b/16-gemmascope-res-16k/features/batch-0.jsonl.gz"] = b"not asked for"
    server = made.serve()
    request.addfinalizer(server.server_close)  # noqa: PT021 - the import hook of jaxtyping keeps yield fixtures from running
    request.addfinalizer(server.shutdown)  # noqa: PT021
    monkeypatch.setenv("ESR_CACHE", str(tmp_path))
    monkeypatch.setenv("ESR_NEURONPEDIA_URL", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setattr(neuronpedia, "N_TRIES", 3)
    return made


def test_every_label_is_read_and_the_first_explanation_counts(bucket):
    labels = neuronpedia_labels(SOURCE, d_sae=10)
    assert labels.index.tolist() == list(range(10))
    assert labels.loc[0, "label"] == "talk of thing 0"
    assert list(labels.columns) == ["label", "density", "max_activation", "concreteness", "topics"]
    assert labels[["density", "max_activation", "concreteness"]].isna().all(axis=None)
    assert search_labels(labels, "thing 7").index.tolist() == [7]


def test_labels_are_fetched_once(bucket):
    first = neuronpedia_labels(SOURCE)
    assert len(bucket.asked) == 2 + 4
    pd.testing.assert_frame_equal(neuronpedia_labels(SOURCE), first)
    assert len(bucket.asked) == 2 + 4


def test_a_busy_server_is_asked_again(bucket):
    bucket.failing = [503, 429]
    assert len(neuronpedia_labels(SOURCE)) == 10


def test_a_label_that_says_na_is_a_label(bucket):
    bucket.files[f"{PREFIX}batch-0.jsonl.gz"] = packed([explanation(0, "NA"), explanation(1, ""), explanation(2, "x")])
    assert neuronpedia_labels(SOURCE)["label"].tolist()[:3] == ["NA", "", "x"]


BATCH = f"{PREFIX}batch-1.jsonl.gz"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (gzip.compress(b"{}\n" * 50)[:-9], "batch-1.jsonl.gz is damaged .*cut off or far too long"),
        (b"plain text", "batch-1.jsonl.gz is damaged .*nothing of it was kept"),
        (packed([{"index": "3"}]), "batch-1.jsonl.gz is damaged or of another format .*modelId"),
        (packed([explanation(3, "x", layer="17-other")]), "it belongs to gemma-2-2b/17-other"),
        (gzip.compress(b"[1]\n"), "batch-1.jsonl.gz is damaged or of another format"),
    ],
    ids=["cut off", "not packed", "no model", "of another source", "no object"],
)
def test_a_damaged_batch_is_refused_and_nothing_is_kept(bucket, tmp_path, content, told):
    bucket.files[BATCH] = content
    with pytest.raises(LabelsError, match=told):
        neuronpedia_labels(SOURCE)
    assert not list(tmp_path.rglob("*.*"))


def test_a_batch_that_unpacks_without_end_is_refused(bucket, monkeypatch):
    monkeypatch.setattr(neuronpedia, "MAX_BATCH_BYTES", 1000)
    bucket.files[BATCH] = gzip.compress(b" " * 10**6)
    with pytest.raises(LabelsError, match="cut off or far too long"):
        neuronpedia_labels(SOURCE)


def test_a_batch_of_another_size_than_listed_is_refused(bucket):
    bucket.sizes[BATCH] = 5
    with pytest.raises(LabelsError, match=r"batch-1.jsonl.gz came with \d+ of 5 bytes; try again"):
        neuronpedia_labels(SOURCE)


def test_an_export_with_a_gap_is_refused(bucket):
    del bucket.files[BATCH]
    with pytest.raises(LabelsError, match="lacks some of its batches"):
        neuronpedia_labels(SOURCE)


def test_a_source_without_labels_is_named(bucket):
    with pytest.raises(LabelsError, match="Neuronpedia's export has no labels of gemma-2-2b/99-none"):
        neuronpedia_labels("gemma-2-2b/99-none")


def test_labels_beyond_the_sae_are_refused(bucket):
    with pytest.raises(LabelsError, match="has a label for latent 9, and the SAE has 9 latents"):
        neuronpedia_labels(SOURCE, d_sae=9)


def test_no_connection_is_one_sentence(bucket, monkeypatch):
    monkeypatch.setattr(neuronpedia, "N_TRIES", 1)
    monkeypatch.setenv("ESR_NEURONPEDIA_URL", "http://127.0.0.1:9")
    with pytest.raises(LabelsError, match="http://127.0.0.1:9 could not be reached .*connect once, or set ESR_NEURON"):
        neuronpedia_labels(SOURCE)


def test_a_server_that_refuses_or_lists_nothing_is_named(bucket):
    bucket.failing = [403]
    with pytest.raises(LabelsError, match=r"refuses to list its files \(403\)"):
        neuronpedia_labels(SOURCE)


# --- in the label table of a pair


def test_the_labels_of_a_pair_come_from_where_its_entry_says(bucket, catalogue):
    add_entry("mine", model="x", release="y", sae_id="z", labels=SOURCE)
    add_entry("bare", model="x", release="y", sae_id="z")
    assert len(load_labels("mine")) == 10
    with pytest.raises(ValueError, match="mine has no contexts: they come with a label table of this kit"):
        load_contexts("mine", 3)
    with pytest.raises(ValueError, match="bare has no labels; give its entry a table, or a source of Neuronpedia"):
        load_labels("bare")
    load_labels.cache_clear()


def test_labels_without_concreteness_all_count_as_concrete_and_say_so(bucket):
    labels = neuronpedia_labels(SOURCE)
    for rule in ("paper", "code"):
        with pytest.warns(UserWarning, match=NO_CONCRETENESS):
            assert is_concrete(labels, rule=rule).all()


def test_the_table_is_written_whole(bucket, tmp_path):
    neuronpedia_labels(SOURCE)
    assert [path.name for path in Path(tmp_path).rglob("*") if path.is_file()] == [f"{SOURCE.replace('/', '__')}.csv"]
