"""What tests of the page share: a root with two releases of digits, a server over it, and a browser."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.datasets import load_digits

from pipelines.line import Line
from simpipe import releases
from simpipe.config import parse_config
from simpipe.embeddings import vectors_column

PATIENCE = 180_000  # milliseconds; a busy machine is slow, not wrong
ITEM = "digits-00000"  # is indexed
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# The browser itself asks nobody anything, and runs where there is no sandbox and no graphics card.
_QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def make_digits(root: Path, folder: Path) -> None:
    """Two calibrated releases of scikit-learn's digits, the live one by an encoder that was hardly trained, with pictures; the
    one before is of raw pixels, with a metadata column `ink` (mean of the pixels, 0 to 16), and knows nothing of pictures.

    Args:
      folder: for the file of pixels.
    """
    loaded: Any = load_digits()
    pixels, labels = loaded.data, loaded.target
    ids = [f"digits-{row:05d}" for row in range(len(pixels))]
    vectors = vectors_column(pixels.astype(np.float32))
    columns = {"id": ids, "label": labels.astype(str), "ink": pixels.mean(axis=1), "embedding": vectors}
    pq.write_table(pa.table(columns), folder / "pixels.parquet")
    shared: dict[str, Any] = {
        "root": str(root),
        "queries": {"fraction": 0.2},
        "build": {"router": {"kind": "kmeans", "partitions": 2}, "backend": {"kind": "exact"}},
        "search": {"target_recall": None},
    }
    source = {"kind": "vectors", "path": str(folder / "pixels.parquet"), "ids": "id", "labels": "label", "metadata": ["ink"]}
    train = {"encoder": {"architecture": "conv4", "filters": 8, "dim": 8}, "epochs": 1, "steps_per_epoch": 20}
    train["sampler"] = {"classes_per_batch": 8, "examples_per_class": 4}
    for changes in (
        {"name": "pixels", "source": source},
        {"name": "digits", "source": "digits", "shard": {"num_shards": 1}, "train": train},
    ):
        line = Line(parse_config({**shared, **changes}), (), lambda said: None)
        for step in (line.shard, line.train, line.embed) if line.has_encoder else (line.embed,):
            step()
        line.build()
        line.calibrate()
        releases.publish(root, needed_steps=("calibrate",))


@contextmanager
def served(root: Path) -> Iterator[str]:
    """The URL of `simpipe serve` over a root, in a process of its own."""
    command = [sys.executable, "-m", "simpipe.cli", "serve", str(root), "--port", "0", "--set", "serve.access_log=false"]
    command += ["--set", "serve.timeout_seconds=60"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=dict(os.environ))
    try:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            found = re.search(r"http://[\w.:\[\]]+", line)
            if found:
                yield found[0]
                return
        raise AssertionError("the server ended: " + "".join(said))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def browser_path() -> str | None:
    """An installed Chromium or Chrome."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


@contextmanager
def browser(path: str) -> Iterator[Any]:
    """A headless browser of playwright's."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as tool:
        opened = tool.chromium.launch(executable_path=path, args=list(_QUIET))
        try:
            yield opened
        finally:
            opened.close()


class Watched:
    """A page, everything it asked for, and what it complained of."""

    def __init__(self, context: Any, url: str) -> None:
        self.page = context.new_page()
        self.page.set_default_timeout(PATIENCE)
        self.url = url
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", lambda said: said.type in ("error", "warning") and self.complaints.append(said.text))

    def open(self, address: str = "/") -> Any:
        """Goes to an address, and waits until it is quiet there."""
        self.page.goto(self.url + address)
        self.page.wait_for_selector("#facts:not([hidden])")
        self.settled()
        return self.page

    def settled(self) -> None:
        """Waits until nothing is being asked."""
        self.page.wait_for_selector("#results:not([aria-busy])")

    def until(self, true: str) -> None:
        """Waits for an expression of the page. Playwright's own way needs `eval`, which the page's policy forbids."""
        for _ in range(PATIENCE // 50):
            if self.page.evaluate(true):
                return
            self.page.wait_for_timeout(50)
        raise AssertionError(f"never came true: {true}")

    def pictures(self) -> list[int]:
        """Waits until the pictures of the cards are there; their widths, pixels."""
        loaded = "[...document.querySelectorAll('.card img')]"
        self.until(f"{loaded}.every(image => image.complete && image.naturalWidth)")
        return self.page.evaluate(f"{loaded}.map(image => image.naturalWidth)")

    def cards(self, side: int = 0) -> list[dict[str, Any]]:
        """What the cards of a side show."""
        return self.page.evaluate(
            """side => [...document.querySelectorAll(".side")[side].querySelectorAll(".card")].map(card => ({
                 id: card.dataset.id, distance: Number(card.dataset.distance), text: card.innerText,
                 beyond: card.classList.contains("beyond"), wrong: card.classList.contains("wrong"),
                 badge: card.querySelector(".badge")?.innerText ?? ""}))""",
            side,
        )

    def sideways(self) -> int:
        """How many pixels the page is wider than the window."""
        return self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


def asked(url: str, k: int = 5, release: str | None = None, name: str = ITEM) -> list[dict]:
    """The neighbors of an item without itself."""
    body = {"ids": [name], "k": k + 1, "cutpoint": "optimal", **({"release": release} if release else {})}
    found = httpx.post(f"{url}/v1/lookup", json=body, timeout=60).json()["results"][0]["neighbors"]
    return [each for each in found if each["id"] != name][:k]


def about(url: str, release: str | None = None) -> dict:
    """What the server says of a release."""
    return httpx.get(f"{url}/v1/release", params={"release": release} if release else {}, timeout=60).json()


def releases_of(url: str) -> list[str]:
    """The releases that it has, newest first."""
    return [each["release"] for each in httpx.get(f"{url}/v1/releases", timeout=60).json()["releases"]]
