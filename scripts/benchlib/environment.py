"""What the bench needs installed: the peers' virtual environment, and the Go peer built.

Both live under .bench/ and are made again when what they are made of changes. Go is built without modules
from Debian's source packages, so that nothing is downloaded for it.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchlib.errors import BenchError

GOPATH = Path("/usr/share/gocode")
GO_PACKAGES = {
    "golang-github-valyala-fasthttp-dev": "github.com/valyala/fasthttp",
    "golang-github-jackc-pgx-v4-dev": "github.com/jackc/pgx/v4",
}


@dataclass(frozen=True, slots=True)
class BenchEnvironment:
    """Where everything is; `root` is the project's top level."""

    root: Path

    @property
    def directory(self) -> Path:
        return self.root / ".bench"

    @property
    def peers(self) -> Path:
        return self.root / "scripts" / "peers"

    @property
    def python(self) -> Path:
        return self.directory / "venv" / "bin" / "python"

    @property
    def prefork_ads(self) -> Path:
        return self.root / ".venv" / "bin" / "prefork-ads"

    @property
    def go_binary(self) -> Path:
        return self.directory / "go-peer"

    def install_peers(self) -> None:
        """Makes .bench/venv, unless it already has what the requirements name."""
        requirements = self.peers / "requirements.txt"
        stamp = self.directory / "venv" / "requirements.sha256"
        wanted = hashlib.sha256(requirements.read_bytes()).hexdigest()
        if stamp.exists() and stamp.read_text(encoding="ascii") == wanted:
            return
        print("installing the peers into .bench/venv …", file=sys.stderr)
        venv = [sys.executable, "-m", "venv", str(self.directory / "venv")]
        pip = [str(self.python), "-m", "pip", "install", "--quiet", "-r", str(requirements)]
        for command in (venv, pip):
            if subprocess.run(command, check=False).returncode != 0:
                raise BenchError(f"could not install the peers; what failed: {' '.join(command)}")
        stamp.write_text(wanted, encoding="ascii")

    def build_go(self) -> str | None:
        """Builds the Go peer; returns why that is not possible here, or None."""
        go = shutil.which("go")
        if go is None:
            return "there is no Go compiler; install it with: apt-get install golang-go"
        for package, path in GO_PACKAGES.items():
            if not (GOPATH / "src" / path).is_dir():
                return f"{package} is not installed; install it with: apt-get install {package}"
        sources = sorted((self.peers / "go").glob("*.go"))
        newest = max(source.stat().st_mtime for source in sources)
        if self.go_binary.exists() and self.go_binary.stat().st_mtime > newest:
            return None
        print("building the Go peer …", file=sys.stderr)
        settings = {"GO111MODULE": "off", "GOPATH": str(GOPATH), "GOFLAGS": "-trimpath"}
        built = subprocess.run(
            [go, "build", "-o", str(self.go_binary), "."],
            cwd=self.peers / "go",
            env={**os.environ, **settings},
            check=False,
            capture_output=True,
            text=True,
        )
        return None if built.returncode == 0 else f"it does not build: {built.stderr.strip()}"
