"""NDIF's routes on loopback, as nnsight's client expects them; requests run on the model in a folder.

Run as a program, ``ndif_stand_in.py PORT_FILE MODEL_FOLDER``: this package, jaxtyping and beartype cannot be imported
in it, as on a real server, so what a request does not bring along is missing. The first part of a path says what the
server is like: ``run`` works, the others fail in their own way.
"""

import io
import json
import platform
import sys
import uuid
from importlib.metadata import version
from pathlib import Path

ABSENT = ("esr_utils", "jaxtyping", "beartype")
REPO = "tiny/llama"
KEY = 'nnsight.modeling.transformers.TransformersModel:{"repo_id": "tiny/llama", "task": "text-generation"}'


class _Absent:
    """An import hook: these packages are not installed here."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def status(kind: str) -> dict:
    deployment = {"repo_id": REPO, "task": "text-generation", "model_key": KEY, "revision": None}
    state = "DEPLOYING" if kind == "deploying" else "RUNNING"
    others = {"replica-1": deployment | {"repo_id": "other/model", "application_state": "RUNNING"}}
    ours = {} if kind == "absent" else {"replica-0": deployment | {"application_state": state}}
    return {"deployments": others | ours}


def environment(kind: str) -> dict:
    packages = {name: version(name) for name in ("nnsight", "transformers", "torch")}
    if kind == "old":
        packages["nnsight"] = "0.5.1"
    if kind == "patched":
        packages["torch"] = "2.0.0"
    return {"python_version": platform.python_version() + " (main)", "packages": packages}


def run(blob: bytes, model) -> bytes:
    """Run a request as it came; its saved values, compressed."""
    import torch
    import zstandard
    from nnsight.schema.request import RequestModel
    from nnsight.tracing import tracer as tracing

    tracing.inc()
    try:
        tracer = RequestModel.deserialize(blob, model._remoteable_persistent_objects(), compress=True)
        tracer.execute(tracer.info.code)
        saved = {name: value for name, value in tracer.info.frame.f_locals.items() if id(value) in tracing._saves()}
    finally:
        tracing.dec()
    buffer = io.BytesIO()
    torch.save(saved, buffer)
    return zstandard.ZstdCompressor().compress(buffer.getvalue())


def main(port_file: Path, folder: str) -> None:
    sys.meta_path.insert(0, _Absent())
    from nnsight import TransformersModel
    from tornado import ioloop, web

    model = TransformersModel(folder, task="text-generation", dispatch=True)
    server = web.Application(routes(model)).listen(0, address="127.0.0.1")
    port = next(iter(server._sockets.values())).getsockname()[1]
    port_file.write_text(str(port))
    ioloop.IOLoop.current().start()


def routes(model) -> list[tuple]:
    """NDIF's routes, each under a word that says how the server behaves, and ``/sizes`` of what went over the wire."""
    from tornado import ioloop, web, websocket

    listeners, sizes = {}, []

    def telling(tell) -> type:
        return type("Told", (web.RequestHandler,), {"get": lambda self, *words: self.write(tell(*words))})

    class Subscribe(websocket.WebSocketHandler):
        def open(self, kind: str) -> None:
            name = uuid.uuid4().hex
            listeners[name] = self
            self.write_message(json.dumps({"session_id": name}))

    class Request(web.RequestHandler):
        def post(self, kind: str) -> None:
            if kind == "reject":
                self.set_status(401)
                self.write({"detail": "Invalid API key"})
                return
            envelope, blob = json.loads(self.get_body_argument("data")), self.request.files["blob"][0]["body"]
            assert envelope["model_key"] == KEY
            listener, job = listeners.pop(envelope["session_id"]), uuid.uuid4().hex
            self.write({"id": job, "status": "RECEIVED"})
            ioloop.IOLoop.current().add_callback(answer, kind, listener, job, blob, model, sizes)

    return [
        (r"/sizes", telling(lambda: {"requests": sizes})),
        (r"/serve/health", telling(lambda: {"status": "ok"})),
        (r"/(\w+)/subscribe", Subscribe),
        (r"/(\w+)/request", Request),
        (
            r"/((?!serve)\w+)/(status|env)",
            telling(lambda kind, what: {"status": status, "env": environment}[what](kind)),
        ),
    ]


def answer(kind: str, listener, job: str, blob: bytes, model, sizes: list) -> None:
    """Do a job, or fail at it as ``kind`` says, and tell the listener."""
    from nnsight.schema.response import ResponseModel

    for stage in ("QUEUED", "RUNNING"):
        listener.write_message(json.dumps({"id": job, "status": stage}))
    if kind == "drop":
        listener.close()
        return
    if kind == "fail":
        told = {"id": job, "status": "ERROR", "description": "Traceback ...\nOutOfMemoryError: CUDA out of memory"}
        listener.write_message(json.dumps(told))
        return
    result = run(blob, model)
    sizes.append([len(blob), len(result)])
    listener.write_message(ResponseModel(id=job, status="COMPLETED", data=result).pickle(), binary=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
