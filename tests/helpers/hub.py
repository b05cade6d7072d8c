"""A stand-in for the Hugging Face hub, on loopback: the routes that its client takes."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import yaml
from flask import Flask, Response, jsonify, request

TOKEN = "hf_stand_in"


@dataclass
class Hub:
    """What it holds: of each repository its commits, the newest last, and each one's files."""

    url: str = ""
    repositories: dict[str, list[tuple[str, dict[str, bytes]]]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    cut_after: int | None = None
    """Bytes after which downloads break off."""

    def files(self, repository: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        commits = self.repositories.get(repository, [])
        if revision == "main" and commits:
            return commits[-1]
        return next((commit for commit in commits if commit[0] == revision), None)


def _app(hub: Hub) -> Flask:
    app = Flask("hub")

    @app.before_request
    def note() -> None:
        hub.asked.append(f"{request.method} {request.path}")

    def authorised() -> bool:
        return request.headers.get("authorization") == f"Bearer {TOKEN}"

    @app.post("/api/repos/create")
    def create() -> tuple[Response, int]:
        if not authorised():
            return jsonify(error="Invalid credentials"), 401
        asked = request.get_json()
        owner = asked.get("organization") or "somebody"
        name = f"{owner}/{asked['name']}"
        new = name not in hub.repositories
        hub.repositories.setdefault(name, [])
        return jsonify(url=f"{hub.url}/{name}"), 200 if new else 409

    @app.post("/api/validate-yaml")
    def validate() -> Response:
        header = yaml.safe_load(request.get_json()["content"].split("---\n")[1])
        errors = [] if "license" in header else [{"message": "no license"}]
        return jsonify(errors=errors, warnings=[])

    @app.post("/api/models/<owner>/<name>/preupload/<revision>")
    def preupload(owner: str, name: str, revision: str) -> Response:
        files = request.get_json()["files"]
        return jsonify(
            files=[
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                for file in files
            ]
        )

    @app.post("/api/models/<owner>/<name>/commit/<revision>")
    def commit(owner: str, name: str, revision: str) -> tuple[Response, int]:
        if not authorised():
            return jsonify(error="Invalid credentials"), 401
        commits = hub.repositories[f"{owner}/{name}"]
        files = dict(commits[-1][1]) if commits else {}
        for line in request.get_data().splitlines():
            said = json.loads(line)
            if said["key"] == "file":
                files[said["value"]["path"]] = base64.b64decode(said["value"]["content"])
        oid = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        commits.append((oid, files))
        url = f"{hub.url}/{owner}/{name}/commit/{oid}"
        return jsonify(commitOid=oid, commitUrl=url, hookOutput=""), 200

    @app.route("/<owner>/<name>/resolve/<revision>/<file>", methods=["GET", "HEAD"])
    def resolve(owner: str, name: str, revision: str, file: str) -> Response:
        found = hub.files(f"{owner}/{name}", revision)
        if found is None:
            known = f"{owner}/{name}" in hub.repositories
            code = "RevisionNotFound" if known else "RepoNotFound"
            return Response(status=404, headers={"X-Error-Code": code})
        oid, files = found
        if file not in files:
            headers = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": oid}
            return Response(status=404, headers=headers)
        content = files[file]
        headers = {
            "X-Repo-Commit": oid,
            "ETag": f'"{hashlib.sha1(content).hexdigest()}"',
            "Content-Length": str(len(content)),
        }
        if request.method == "HEAD":
            return Response(headers=headers)
        if hub.cut_after is not None and len(content) > hub.cut_after:
            return Response(iter([content[: hub.cut_after]]), headers=headers)
        return Response(content, headers=headers)

    return app


class _Threads(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def a_hub() -> Iterator[Hub]:
    """Run one for as long as the block lasts."""
    hub = Hub()
    server = make_server("127.0.0.1", 0, _app(hub), _Threads, _Quiet)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
