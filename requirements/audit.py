"""Look the locked requirements up in PyPI's database of known vulnerabilities; part of ``make lint``.

Ends with 1 if a version with a known vulnerability is locked. A machine that cannot reach the database is told so, in
as many words, and the check counts as skipped: nothing was looked up.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

LOCK = Path(__file__).with_name("deploy.txt")

ACCEPTED: dict[str, str] = {}
"""Vulnerabilities that do not concern us, by their identifier, each with the reason."""

_LONGEST_S = 180.0

_UNREACHABLE = re.compile(r"ConnectionError|ConnectTimeout|ReadTimeout|ProxyError|SSLError|NameResolution|ServiceError")


def main() -> int:
    """Print what was found."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(LOCK), "--disable-pip", "--require-hashes"]
    command += ["--format", "json", "--progress-spinner", "off"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LONGEST_S, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        return _skipped(f"no answer in {_LONGEST_S:.0f} s")
    try:
        found = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        if _UNREACHABLE.search(done.stderr):
            return _skipped("it cannot be reached")
        print(f"audit: pip-audit failed:\n{done.stderr[-2000:]}", file=sys.stderr)
        return 1
    known = [entry for entry in found if "skip_reason" not in entry]
    if not known:
        return _skipped("it knows none of the packages, so this is a mirror without the database")
    bad = [
        f"{entry['name']} {entry['version']}: {each['id']}, mended in {', '.join(each['fix_versions']) or 'no version'}"
        for entry in known
        for each in entry["vulns"]
        if each["id"] not in ACCEPTED
    ]
    unknown = sorted(entry["name"] for entry in found if "skip_reason" in entry)
    for line in bad:
        print(f"audit: {line}. Run make requirements, or add it to {Path(__file__).name} with the reason.")
    if unknown:
        print(f"audit: not in the database: {', '.join(unknown)}.")
    print(f"audit: {len(known)} of {len(found)} locked packages looked up, {len(bad)} known vulnerabilities.")
    return 1 if bad else 0


def _skipped(why: str) -> int:
    print(f"audit: SKIPPED, nothing was looked up in the database of vulnerabilities: {why}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
