"""A local fake of the W&B server that stores what `wandb` sends, for tests."""

import json
import re
import threading
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


@dataclass
class Run:
    """The data received for one run."""

    about: dict[str, Any] = field(default_factory=dict)  # project, displayName, groupName, tags, notes, ...
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)  # by path; a picture is a PNG, under its path in the history
    exit_code: int | None = None  # None: not finished

    @property
    def definitions(self) -> dict[str, dict[str, Any]]:
        """The x-axis, the summary and the visibility of each metric, decoded from the numbers that wandb sends."""
        metrics = self.config["_wandb"]["m"]
        names = [metric.get("1") or metric["2"] for metric in metrics]
        return {
            name: {
                "axis": names[metric["5"] - 1] if "5" in metric else None,
                "summary": [
                    ("min", "max", "mean", "best", "last", "none", "copy", "first")[i - 1] for i in metric["7"]
                ],
                "hidden": 2 in metric["6"],
            }
            for name, metric in zip(names, metrics, strict=True)
        }


@dataclass
class Artifact:
    """The data received for one artifact."""

    about: dict[str, Any]  # artifactCollectionName, artifactTypeName, runName, aliases, ...
    files: dict[str, bytes] = field(default_factory=dict)
    committed: bool = False


class WandbServer:
    """with WandbServer() as server: a process with `server.env` in its environment logs to this server.

    `server.runs[id]` is complete when the run's `wandb.finish()` has returned. With a `status` other than 200, every
    request is rejected.
    """

    def __init__(self, status: int = 200) -> None:
        self.status = status
        self.runs: defaultdict[str, Run] = defaultdict(Run)
        self.artifacts: dict[str, Artifact] = {}
        self.views: list[dict[str, Any]] = []
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"wandb": self}))
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        self.env = {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": "k" * 40, "WANDB_ENTITY": "team"}

    def __enter__(self) -> Self:
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the server and close its port."""
        self.http.shutdown()
        self.http.server_close()

    def graphql(self, operation: str, variables: dict[str, Any]) -> dict[str, Any]:
        match operation:
            case "Viewer" | "GetDefaultEntity":
                user = {"id": "user", "username": "user", "entity": "team", "teams": {"edges": []}}
                return {"viewer": user}
            case "RunResumeStatus":
                return {"model": {"id": "model", "bucket": self.resume_status(variables["name"])}}
            case "UpsertBucket":
                run = self.runs[name := variables["name"]]
                run.about |= {key: value for key, value in variables.items() if value is not None}
                config = json.loads(variables["config"] or "{}")
                run.config |= {key: entry["value"] for key, entry in config.items()}
                project = {"name": variables["project"], "entity": {"name": "team"}}
                return {"upsertBucket": {"bucket": {"id": name, "name": name, "project": project}}}
            case "CreateRunFiles":
                put = f"{self.url}/put/{variables['run']}"
                files = [{"name": file, "uploadUrl": f"{put}/{file}"} for file in variables["files"]]
                return {"createRunFiles": {"runID": variables["run"], "uploadHeaders": [], "files": files}}
            case "UpsertView2":
                self.views.append(variables)
                return {"upsertView": {"view": {"id": "view", "name": variables["name"]}, "inserted": True}}
            case _:
                return self.artifact_graphql(operation, variables)

    def artifact_graphql(self, operation: str, variables: dict[str, Any]) -> dict[str, Any]:
        match operation:
            case "ArtifactType":
                return {"project": {"artifact": None}}
            case "CreateArtifact":
                self.artifacts[name := str(len(self.artifacts))] = Artifact(variables["input"])
                sequence = {"latestArtifact": None}
                return {"createArtifact": {"artifact": {"id": name, "state": "PENDING", "artifactSequence": sequence}}}
            case "CreateArtifactManifest":
                name = variables["artifactID"]
                file = {"id": "file", "uploadUrl": f"{self.url}/artifact/{name}/manifest", "uploadHeaders": []}
                return {"createArtifactManifest": {"artifactManifest": {"id": name, "file": file}}}
            case "CreateArtifactFiles":
                nodes = [self.artifact_file(**file) for file in variables["input"]["artifactFiles"]]
                return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}
            case "CommitArtifact":
                self.artifacts[variables["artifactID"]].committed = True
                return {"commitArtifact": {"artifact": {"id": variables["artifactID"], "digest": ""}}}
            case _:
                return {}

    def artifact_file(self, artifactID: str, name: str, **_: Any) -> dict[str, Any]:
        url = f"{self.url}/artifact/{artifactID}/{name}"
        return {"storagePath": name, "uploadUrl": url, "uploadHeaders": [], "artifact": {"id": artifactID}}

    def resume_status(self, name: str) -> dict[str, Any] | None:
        """Return the stored state of a run that is resumed; None for a new run."""
        if name not in self.runs:
            return None
        run = self.runs[name]
        return {
            "id": name,
            "name": name,
            "displayName": run.about.get("displayName"),
            "config": json.dumps({key: {"value": value} for key, value in run.config.items()}),
            "wandbConfig": json.dumps({"t": 1}),
            "summaryMetrics": json.dumps(run.summary),
            "historyLineCount": len(run.history),
            "historyTail": json.dumps([json.dumps(row) for row in run.history[-1:]]),
            "eventsLineCount": 0,
            "eventsTail": "[]",
            "logLineCount": 0,
        }

    def file_stream(self, run: Run, body: dict[str, Any]) -> None:
        for name, part in body.get("files", {}).items():
            lines = part["content"]
            if name == "wandb-history.jsonl":
                run.history[part["offset"] :] = map(json.loads, lines)
            elif name == "wandb-summary.json":
                run.summary = json.loads(lines[-1])
        run.exit_code = body.get("exitcode", run.exit_code)


class _Handler(BaseHTTPRequestHandler):
    wandb: WandbServer

    def do_POST(self) -> None:
        reply: dict[str, Any] = {}
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        match self.path.split("/")[1:]:
            case ["graphql"] if self.wandb.status == 200:
                query = json.loads(body)
                operation = query.get("operationName") or re.findall(r"(?:query|mutation) (\w+)", query["query"])[0]
                reply = {"data": self.wandb.graphql(operation, query.get("variables") or {})}
            case ["files", _entity, _project, name, "file_stream"]:
                self.wandb.file_stream(self.wandb.runs[name], json.loads(body))
            case ["artifact", name, *file]:
                self.wandb.artifacts[name].files["/".join(file)] = body
            case ["put", name, *file]:
                self.wandb.runs[name].files["/".join(file)] = body
        with suppress(BrokenPipeError):  # the client has disconnected
            self.send_response(self.wandb.status)
            self.end_headers()
            self.wfile.write(json.dumps(reply).encode())

    do_PUT = do_POST

    def log_message(self, *_args: object) -> None:
        """Do not log requests."""
