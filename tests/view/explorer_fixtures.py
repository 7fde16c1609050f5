"""The explorer of a project, asked without a network."""

from __future__ import annotations

import json
from typing import Any

from starlette.testclient import TestClient

from motive_pipeline.storage.workspace import Workspace
from motive_pipeline.view.serve import build_app
from motive_pipeline.view.viewer import Viewer

PORT = 8700
ADDRESS = f"http://127.0.0.1:{PORT}"
TOKEN = "token-of-the-tests"


class Explorer:
    """A client that has visited the page once."""

    def __init__(self, ws: Workspace) -> None:
        self.viewer = Viewer(ws)
        self.client = TestClient(build_app(self.viewer, token=TOKEN, port=PORT), base_url=ADDRESS)
        assert self.client.get(f"/?token={TOKEN}").status_code == 200
        self.meta = self.get("/api/meta")

    def get(self, path: str, **parameters: Any) -> Any:
        """The JSON of an address, which must answer."""
        answer = self.ask(path, **parameters)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def ask(self, path: str, **parameters: Any):
        """The answer of an address; objects among the parameters are sent as JSON."""
        sent = {name: json.dumps(value) if isinstance(value, dict) else value for name, value in parameters.items()}
        return self.client.get(path, params={"v": self.meta["version"], **sent} if hasattr(self, "meta") else sent)

    def post(self, path: str, body: Any, origin: str = ADDRESS):
        """The answer to a request that changes something."""
        return self.client.post(path, json=body, headers={"Origin": origin})

    def clips(self, column: tuple[str, ...] = (), **view: Any) -> list[dict[str, Any]]:
        """The rows of a view."""
        return self.get("/api/clips", view=view, limit=500, column=list(column))["rows"]

    def ids(self, **view: Any) -> list[str]:
        """The clips of a view, in its order."""
        return [row["id"] for row in self.clips(**view)]
