"""Builds the package, installs it with the oldest and the newest versions that it allows, and trains with each.

``make installs``; it needs the package registry, so it is no part of ``make test``. The sdist goes onto the oldest
Python with the oldest of every dependency; the wheel on the newest Python that this machine has, with the newest.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
OLDEST, NEWEST = "3.11", ("3.14", "3.13", "3.12", "3.11")
SMOKE = Path(__file__).parent / "smoke.py"


def main() -> None:
    """Build, install twice, and train in each."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", ROOT)
        (sdist,), (wheel,) = (folder / "dist").glob("*.tar.gz"), (folder / "dist").glob("*.whl")
        try_out(folder / "oldest", OLDEST, sdist, "lowest-direct")
        try_out(folder / "newest", newest_python(), wheel, "highest")
    print("\nBoth installs train.")


def newest_python() -> str:
    """The newest Python of the supported ones that is installed here."""
    for version in NEWEST:
        if uv("python", "find", version, check=False, capture_output=True).returncode == 0:
            return version
    raise SystemExit("no supported Python is installed")


def try_out(folder: Path, python: str, package: Path, resolution: str) -> None:
    """Install one of the built packages, say with what, and train."""
    print(f"\n{package.name} on Python {python}, resolution {resolution}", flush=True)
    folder.mkdir()
    uv("venv", "--quiet", "--python", python, folder / "venv")
    here = folder / "venv" / "bin" / "python"
    # The package's own requirements are the direct ones, of which the oldest are wanted.
    requirements = folder / "requirements.txt"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements.write_text("\n".join(project["dependencies"]) + "\n")
    uv("pip", "install", "--quiet", "--python", here, "--resolution", resolution, "--requirement", requirements)
    uv("pip", "install", "--quiet", "--python", here, "--no-deps", package)
    uv("pip", "list", "--quiet", "--python", here)
    environment = {**os.environ, "PATH": f"{here.parent}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    subprocess.run([here, SMOKE], check=True, cwd=folder, env=environment)


def uv(*words: str | Path, check: bool = True, capture_output: bool = False) -> subprocess.CompletedProcess[bytes]:
    """Run uv, which takes the Pythons that are here."""
    environment = {**os.environ, "UV_PYTHON_DOWNLOADS": "never"}
    if shutil.which("pyenv"):
        # Its python3.13 and the like run only the versions that are switched on.
        versions = subprocess.run(["pyenv", "versions", "--bare"], check=True, capture_output=True, text=True)
        environment["PYENV_VERSION"] = ":".join(versions.stdout.split())
    command = [Path(sys.executable).parent / "uv", *words]
    return subprocess.run(command, check=check, capture_output=capture_output, env=environment)


def run(*words: str | Path) -> None:
    """Run a command and fail if it does."""
    subprocess.run(words, check=True)


if __name__ == "__main__":
    main()
