"""The real client of the Hugging Face Hub against a stand-in, named by HF_ENDPOINT, which it reads when imported."""

import hashlib
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

from server import File as Served
from server import Request, Server, cut

from scpseg.benchmarks import BENCHMARKS

ROOT = Path(__file__).parents[4]
HUB = BENCHMARKS["inria"].sources[1]
JSON = {"Content-Type": "application/json"}
CHILD = """
import sys
from dataclasses import replace
from pathlib import Path
from scpseg.data.acquire import clients
from scpseg.data.acquire.transfer import Connection
from scpseg.benchmarks import BENCHMARKS, get_benchmark
from scpseg.errors import UserError

connection = Connection()
source = BENCHMARKS["inria"].sources[1]
for name, change in (
    ("good", {}),
    ("bad", {"address": "blanchon/altered"}),
    ("gone", {"address": "blanchon/gone"}),
    ("gated", {"address": "blanchon/gated"}),
    ("none", {"pattern": "data/other/**"}),
):
    try:
        facts = clients.huggingface(replace(source, **change), "gt", Path(sys.argv[1]) / name, connection)
        print(name, facts)
    except UserError as error:
        print(name, error)
"""
COMMIT = "ab" * 20


def serve_hub(server: Server, repository: str, files: dict[str, bytes], lie: bool = False) -> None:
    def resolve(request: Request, file: Served) -> None:
        request.handler.file(request.path, file, changes={"X-Repo-Commit": COMMIT})

    tree = []
    for path, content in files.items():
        sha = hashlib.sha256(content[::-1] if lie else content).hexdigest()
        tree.append({"type": "file", "path": path, "size": len(content), "oid": "0" * 40})
        if path.endswith(".tif"):
            tree[-1]["lfs"] = {"oid": sha, "size": len(content), "pointerSize": 130}
        place = f"/datasets/{repository}/resolve/{COMMIT}/{path}"
        file = server.put(place, content, etag=f'"{sha}"')
        for method in ("HEAD", "GET"):
            server.on(method, place, partial(resolve, file=file))
    api = f"/api/datasets/{repository}"
    siblings = [
        {"rfilename": entry["path"], "size": entry["size"], "blobId": entry["oid"]}
        | ({"lfs": {**entry["lfs"], "sha256": entry["lfs"]["oid"]}} if "lfs" in entry else {})
        for entry in tree
    ]
    info = json.dumps({"id": repository, "sha": COMMIT, "siblings": siblings}).encode()
    server.on("GET", api, lambda request: request.answer(200, info, JSON))
    server.on("GET", f"{api}/tree/{COMMIT}", lambda request: request.answer(200, json.dumps(tree).encode(), JSON))


def test_hub_takes_the_labelled_half_and_checks_it(server: Server, tmp_path: Path) -> None:
    image = "data/train/images/austin1.tif"
    files = {
        image: os.urandom(1 << 20),
        "data/train/gt/austin1.tif": b"label",
        "data/test/images/sfo1.tif": b"no label",
        "README.md": b"read me",
    }
    serve_hub(server, HUB.address, files)
    serve_hub(server, "blanchon/altered", {"data/train/gt/x.tif": b"other"}, lie=True)
    gated, gone = ({"X-Error-Code": code, "X-Error-Message": code} for code in ("GatedRepo", "RepoNotFound"))
    server.on("GET", "/api/datasets/blanchon/gated", lambda request: request.answer(403, b"", gated))
    server.on("GET", "/api/datasets/blanchon/gone", lambda request: request.answer(404, b"", gone))
    place = f"/datasets/{HUB.address}/resolve/{COMMIT}/{image}"
    server.play(place, None, cut(9999))  # its HEAD, then its first GET
    settings = {
        "HF_ENDPOINT": server.url(""),
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-c", CHILD, str(tmp_path)]
    done = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert said["good"] == str({"revision": COMMIT})
    got = {path.relative_to(tmp_path / "good").as_posix(): path for path in (tmp_path / "good/data").rglob("*.tif")}
    assert {name: path.read_bytes() for name, path in got.items()} == dict(list(files.items())[:2])
    assert [request.method for request in server.asked(place)] == ["HEAD", "GET", "GET"]
    assert "data/train/gt/x.tif was damaged (sha256" in said["bad"]
    assert "does not have it (404)" in said["gone"]
    assert "refuses access (403): accept the terms on https://huggingface.co/" in said["gated"]
    assert "contains nothing like data/other/** at revision abab" in said["none"]
    assert not [request for request in server.requests if "/resolve/" in request.path and "train" not in request.path]
