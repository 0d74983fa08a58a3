"""A real Chromium without a screen, driven by the W3C WebDriver protocol over plain HTTP.

The package `chromium-driver` brings the other end; what is needed here is a page of it.
"""

import base64
import http.client
import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from tests.support import wait_until

DRIVER: Final = shutil.which("chromedriver")
CHROMIUM: Final = shutil.which("chromium") or shutil.which("google-chrome")
# Without a screen it says that it is HeadlessChrome, which every list of programs knows.
USER_AGENT: Final = (
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko)"
    " Chrome/131.0.0.0 Safari/537.36"
)
_ELEMENT: Final = "element-6066-11e4-a52e-4f735466cecf"
_STARTED: Final = re.compile(r"started successfully on port (\d+)")
_LIMIT_S: Final = 60.0


def why_missing() -> str:
    """ "" when there is a browser to be driven."""
    if DRIVER is None or CHROMIUM is None:
        return "there is no chromium with its driver: apt-get install chromium chromium-driver"
    return ""


class Browser:
    """One window; `with Browser() as browser:`."""

    def __init__(self, width: int = 1440, height: int = 1000, *arguments: str) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="prefork-ads-browser-"))
        self._arguments = [
            *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
            *("--no-first-run", "--disable-background-networking", "--hide-scrollbars"),
            *(f"--window-size={width},{height}", f"--user-agent={USER_AGENT}"),
            f"--user-data-dir={self._folder / 'profile'}",
            *arguments,
        ]
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0
        self._session = ""

    def __enter__(self) -> Self:
        assert DRIVER is not None
        log = self._folder / "driver.log"
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [DRIVER, "--port=0"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(self._folder)},
            )
        try:
            started = wait_until(lambda: _STARTED.search(log.read_text()), "chromedriver", _LIMIT_S)
            assert started is not None
            self._port = int(started[1])
            options = {"binary": CHROMIUM, "args": self._arguments}
            wanted = {"alwaysMatch": {"goog:chromeOptions": options}}
            self._session = self._ask("POST", "/session", {"capabilities": wanted})["sessionId"]
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._do("DELETE", "")
        finally:
            self._end()

    # -- what one does with a browser --------------------------------------------------------------

    def open(self, url: str) -> None:
        self._do("POST", "/url", {"url": url})

    def run(self, script: str, *arguments: Any) -> Any:
        """What a script in the page returns."""
        return self._do("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def find(self, selector: str) -> Any:
        """The first element; fails when there is none."""
        return self._do("POST", "/element", {"using": "css selector", "value": selector})

    def click(self, element: Any) -> None:
        """As a person does: where it is on the screen."""
        self._do("POST", f"/element/{element[_ELEMENT]}/click", {})

    def into(self, frame: Any) -> None:
        """Look into a frame; None is the page."""
        self._do("POST", "/frame", {"id": frame})

    def windows(self) -> list[str]:
        found: list[str] = self._do("GET", "/window/handles")
        return found

    def switch(self, window: str) -> None:
        self._do("POST", "/window", {"handle": window})

    def resize(self, width: int, height: int) -> None:
        self._do("POST", "/window/rect", {"width": width, "height": height})

    def close_window(self) -> None:
        """Another one must be switched to."""
        self._do("DELETE", "/window")

    def url(self) -> str:
        return str(self._do("GET", "/url"))

    def screenshot(self) -> bytes:
        """What can be seen, as PNG."""
        return base64.b64decode(self._do("GET", "/screenshot"))

    # -- the protocol ------------------------------------------------------------------------------

    def _do(self, method: str, what: str, body: Any = None) -> Any:
        return self._ask(method, f"/session/{self._session}{what}", body)

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=_LIMIT_S)
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, {"Content-Type": "application/json"})
            value = json.loads(connection.getresponse().read())["value"]
        finally:
            connection.close()
        if isinstance(value, dict) and "error" in value:
            raise AssertionError(f"{method} {path}: {value['error']}: {value.get('message')}")
        return value

    def _end(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(_LIMIT_S)
        shutil.rmtree(self._folder, ignore_errors=True)
