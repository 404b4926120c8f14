"""A server on this machine that speaks the Hugging Face hub's protocol, as fetching and uploading need it."""

import base64
import contextlib
import hashlib
import http.server
import json
import pathlib
import re
import threading
import urllib.parse
from collections.abc import Iterator

COMMIT = hashlib.sha1(b"the only commit").hexdigest()
LARGE = ".safetensors"  # the hub keeps such files by their SHA-256


class Hub(http.server.ThreadingHTTPServer):
    """Repositories are folders ORG/NAME of `root`; each has the revision "main", which is `COMMIT`.

    Attributes:
      requests: "METHOD PATH" of each, in order.
      cut_after: bytes of a file after which the connection ends, once; None for never.
      ranges: of the requests that asked for a part of a file.
      large: {SHA-256: content} of large files that came, before a commit names them.
      closed: whether every request is refused, as by the hub to those who are not logged in.
    """

    daemon_threads = True

    def __init__(self, root: pathlib.Path):
        self.root = root
        self.requests: list[str] = []
        self.ranges: list[str] = []
        self.large: dict[str, bytes] = {}
        self.cut_after: int | None = None
        self.closed = False
        super().__init__(("127.0.0.1", 0), Answers)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answers(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_):
        """Write nothing."""

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self._asked()
        if self.server.closed:
            return self._error(401, "RepoNotFound")
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(/revision/([^/]+)|/tree/([^/]+))?", path):
            return self._about(found[1], found[3] or found[4] or "main", is_tree=bool(found[4]))
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            repository, revision, name = found.groups()
            if not self._exists(repository, revision):
                return None
            file = self.server.root / repository / name
            if not file.is_file():
                return self._error(404, "EntryNotFound")
            return self._file(file)
        file = self.server.root / path.lstrip("/")
        return self._file(file) if file.is_file() else self._error(404, "")

    def do_POST(self):
        path = self._asked()
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        if self.server.closed:
            return self._error(401, "")
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            (self.server.root / name).mkdir(parents=True, exist_ok=True)
            return self._json({"url": f"{self.server.address}/{name}", "name": name})
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/main", path):
            names = [x["path"] for x in json.loads(body)["files"]]
            modes = ["lfs" if name.endswith(LARGE) else "regular" for name in names]
            told = [
                {"path": x, "uploadMode": y, "shouldIgnore": False} for x, y in zip(names, modes, strict=True)
            ]
            return self._json({"files": told})
        if path.endswith(".git/info/lfs/objects/batch"):
            objects = [
                x | {"actions": {"upload": {"href": f"{self.server.address}/large/{x['oid']}"}}}
                for x in json.loads(body)["objects"]
            ]
            return self._json({"transfer": "basic", "objects": objects})
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", path):
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "header":
                    continue
                value = entry["value"]
                is_large = entry["key"] == "lfsFile"
                data = self.server.large[value["oid"]] if is_large else base64.b64decode(value["content"])
                file = self.server.root / found[1] / value["path"]
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(data)
            url = f"{self.server.address}/{found[1]}/commit/{COMMIT}"
            return self._json({"success": True, "commitOid": COMMIT, "commitUrl": url, "hookOutput": ""})
        return self._error(404, "")

    def do_PUT(self):
        """A large file, as the batch said."""
        digest = self._asked().removeprefix("/large/")
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if hashlib.sha256(data).hexdigest() != digest:
            return self._error(400, "")
        self.server.large[digest] = data
        return self._json({})

    # ---------------------------------------------------------------- answers
    def _asked(self) -> str:
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        self.server.requests.append(f"{self.command} {path}")
        return path

    def _exists(self, repository: str, revision: str) -> bool:
        if not (self.server.root / repository).is_dir():
            self._error(404, "RepoNotFound")
            return False
        if revision not in ("main", COMMIT):
            self._error(404, "RevisionNotFound")
            return False
        return True

    def _about(self, repository: str, revision: str, is_tree: bool) -> None:
        if not self._exists(repository, revision):
            return
        root = self.server.root / repository
        files = sorted(path for path in root.rglob("*") if path.is_file())
        names = [path.relative_to(root).as_posix() for path in files]
        if is_tree:
            about = [
                {"type": "file", "path": name, "size": path.stat().st_size, "oid": etag_of(path)}
                for name, path in zip(names, files, strict=True)
            ]
            self._json(about)
            return
        siblings = [{"rfilename": name} for name in names]
        about = {"_id": "1", "id": repository, "modelId": repository, "sha": COMMIT, "siblings": siblings}
        self._json(about | {"private": False, "downloads": 0, "likes": 0, "tags": []})

    def _json(self, value) -> None:
        data = json.dumps(value).encode()
        self._begin(200, {"Content-Type": "application/json", "Content-Length": str(len(data))})
        self.wfile.write(data)

    def _error(self, status: int, code: str) -> None:
        self._begin(status, {"X-Error-Code": code, "Content-Length": "0"})

    def _file(self, path: pathlib.Path) -> None:
        data = path.read_bytes()
        begin, asked = 0, self.headers.get("Range")
        if asked and self.command == "GET":
            self.server.ranges.append(asked)
            begin = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
            if begin >= len(data):
                self._begin(416, {"Content-Range": f"bytes */{len(data)}", "Content-Length": "0"})
                return
        headers = {"ETag": f'"{etag_of(path)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        headers["Content-Length"] = str(len(data) - begin)
        if begin:
            headers["Content-Range"] = f"bytes {begin}-{len(data) - 1}/{len(data)}"
        self._begin(206 if begin else 200, headers)
        if self.command == "HEAD":
            return
        cut, self.server.cut_after = self.server.cut_after, None
        self.wfile.write(data[begin:] if cut is None else data[begin : begin + cut])
        if cut is not None:
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(2)

    def _begin(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


def etag_of(path: pathlib.Path) -> str:
    data = path.read_bytes()
    if path.suffix == LARGE:
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()


@contextlib.contextmanager
def serving(root: pathlib.Path) -> Iterator[Hub]:
    """A hub with the repositories in `root`, until the end of the block."""
    with Hub(root) as hub:
        thread = threading.Thread(target=hub.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
