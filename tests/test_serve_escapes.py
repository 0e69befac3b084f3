"""Nothing that a request says becomes a path, a file or a host: neither out of the root nor within it."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from urllib.parse import quote

import pytest
from release_maker import RELEASE
from serve_fakes import FakeEngine, app_of, call, make_root, raw_get

from simpipe.config.serve import ServeConfig
from simpipe.serve.engine import ProcessEngine
from simpipe.serve.errors import NotFoundError
from simpipe.serve.front import Front
from simpipe.serve.link import Link

SECRET = "the content of a file outside"
NAMES = (
    *("..", ".", "../outside", "../../outside", "..%2foutside", "%2e%2e/outside", "....//outside", "..\\outside"),
    *("/etc/passwd", "//etc/passwd", "file:///etc/passwd", "gs://bucket/root", "http://127.0.0.1:1/", "\\\\host\\share"),
    *("a\x00b", "\x00", "\n", "~", "~root", "$HOME", "{0}", "%s", "link", "link/outside", ".leases", "../live.json"),
    *(f"{RELEASE}/", f"{RELEASE}/..", f"./{RELEASE}", f"{RELEASE}\x00", "x" * 200, "é" * 100, "\u202e", "con", "live.json"),
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root beside a file and a folder that no request may reach, with links to them."""
    top = tmp_path_factory.mktemp("top")
    (top / "outside").mkdir()
    (top / "outside" / "manifest.json").write_text(SECRET)
    made = make_root(top / "root")
    for name in ("link", "20250101T000000Z-llllll"):
        (made / "releases" / name).symlink_to(top / "outside")
    (made / "tags").mkdir()
    (made / "tags" / "link.json").symlink_to(top / "outside" / "manifest.json")
    return made


@pytest.fixture(scope="module")
def app(root: Path) -> Front:
    return app_of(FakeEngine(root), max_body_bytes=1 << 20)


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_no_path_leads_to_a_file(app: Front, name: str) -> None:
    urls = [f"/{name}", f"/v1/{name}", f"/v1/items/{name}", f"/v1/items/{name}/picture"]
    for url in [*(quote(url) for url in urls), *(quote(url, safe="") for url in urls), f"/{quote(name, safe='')}/style.css"]:
        status, body = raw_get(app, url if url.startswith("/") else f"/{url}")
        assert (status, json.loads(body)["error"]["code"]) in ((404, "not_found"), (405, "method")), url
        assert SECRET.encode() not in body


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_no_field_names_a_file(app: Front, name: str) -> None:
    fields = [{"ids": [name]}, *({"ids": ["i1"], field: name} for field in ("release", "cutpoint", "matcher", "where", "group"))]
    fields += [{"images": [name]}, {"images": [base64.b64encode(name.encode()).decode()]}]
    fields += [{"ids": ["i1"], "metadata": [name]}]
    for body in fields:
        answer = call(app, "POST", "/v1/match", json=body)
        assert answer.status_code in (400, 404, 422), (body, answer.text)
        assert SECRET not in answer.text
    for url in ("/v1/release", "/v1/map", "/v1/items", "/v1/items/i1", "/v1/items/i1/picture"):
        answer = call(app, "GET", url, params={"release": name})
        assert answer.status_code in (400, 404, 422), url
        assert SECRET not in answer.text
    assert call(app, "GET", "/v1/items", params={"label": name}).json()["items"] == []


def test_the_engine_takes_names_of_releases_only(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is refused here starts no process, so none can open anything else."""
    import asyncio

    started: list[object] = []
    monkeypatch.setattr(Link, "start", lambda self, *args, **kwargs: started.append(self), raising=False)

    async def ask() -> None:
        engine = ProcessEngine(str(root), ServeConfig())
        for name in NAMES:
            with pytest.raises(NotFoundError):
                await engine.about(name)

    asyncio.run(ask())
    assert not started
