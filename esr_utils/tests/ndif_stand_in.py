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
    from nnsight.schema.response import ResponseModel
    from tornado import ioloop, web, websocket

    model = TransformersModel(folder, task="text-generation", dispatch=True)
    listeners, sizes = {}, []

    class Facts(web.RequestHandler):
        def get(self, kind: str, what: str) -> None:
            self.write({"status": status, "env": environment}[what](kind))

    class Sizes(web.RequestHandler):
        def get(self) -> None:
            self.write({"requests": sizes})

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
            ioloop.IOLoop.current().add_callback(answer, kind, listener, job, blob)

    def answer(kind: str, listener, job: str, blob: bytes) -> None:
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

    class Health(web.RequestHandler):
        def get(self) -> None:
            self.write({"status": "ok"})

    routes = [
        (r"/sizes", Sizes),
        (r"/serve/health", Health),
        (r"/(\w+)/subscribe", Subscribe),
        (r"/(\w+)/request", Request),
        (r"/((?!serve)\w+)/(status|env)", Facts),
    ]
    server = web.Application(routes).listen(0, address="127.0.0.1")
    port = next(iter(server._sockets.values())).getsockname()[1]
    port_file.write_text(str(port))
    ioloop.IOLoop.current().start()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
