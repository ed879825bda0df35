"""Audit the locked packages for known vulnerabilities: `make audit`, or `python -m tests.audit [LOCK]`.

Exit status 0: none was found. If the advisory service could not be reached, the last line says so. 1: some were found,
or the audit itself failed. 2: wrong usage.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["ACCEPTED", "LOCK", "Audit", "audit", "main", "pins", "report"]

LOCK = Path(__file__).parent / "requirements-ci.lock"

ACCEPTED: dict[str, str] = {}
"""Vulnerabilities that do not fail the audit: the id, and the reason why it does not concern this project's tests."""

_PIN = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[^\s;\\]+)")

_UNREACHABLE = re.compile(
    r"^requests\.exceptions\.(ConnectionError|ConnectTimeout|ReadTimeout|ProxyError|SSLError)|Could not connect to ",
    re.MULTILINE,
)
"""How pip-audit says that it could not reach the service: the exception of its traceback, or its own message."""


@dataclass
class Audit:
    """What an audit found.

    Attributes:
        audited: how many packages the service knows.
        unknown: packages that the service does not know: no advisory of theirs would be seen.
        found: the vulnerabilities, a line each, without those in ACCEPTED.
        accepted: those in ACCEPTED, a line each.
        unreachable: why the advisory service could not be asked about the rest; empty if it was.
    """

    audited: int = 0
    unknown: list[str] = field(default_factory=list)
    found: list[str] = field(default_factory=list)
    accepted: list[str] = field(default_factory=list)
    unreachable: str = ""


Run = Callable[[Sequence[str]], "subprocess.CompletedProcess[str]"]


def pins(lock: str) -> list[str]:
    """Return the packages of a lock as `name==version`, without the local part of a version, as in `1.0+cpu`."""
    found = [match for line in lock.splitlines() if (match := _PIN.match(line))]
    return [f"{match['name']}=={match['version'].partition('+')[0]}" for match in found]


def pip_audit(packages: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    """Run pip-audit on these packages, which are not installed for it."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(packages) + "\n")
        file.flush()
        words = ["--requirement", file.name, "--disable-pip", "--no-deps", "--format", "json", "--timeout", "20"]
        command = [sys.executable, "-m", "pip_audit", "--progress-spinner", "off", *words]
        return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)


def audit(packages: Sequence[str], run: Run = pip_audit) -> Audit:
    """Audit packages that are given as `name==version`.

    One package is audited first: a service that cannot be reached is then asked once and not once a package.

    Raises RuntimeError if pip-audit fails, unless it could not reach the service.
    """
    result = Audit()
    for part in (packages[:1], packages[1:]):
        if part and not result.unreachable:
            _add(result, run(part))
            if not result.audited and not result.unreachable:
                result.unreachable = f"it does not know {', '.join(result.unknown)}"
    return result


def _add(result: Audit, done: "subprocess.CompletedProcess[str]") -> None:
    try:
        dependencies: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError, TypeError):
        if not _UNREACHABLE.search(done.stderr):
            raise RuntimeError(f"pip-audit ended with status {done.returncode}:\n{done.stderr}{done.stdout}") from None
        result.unreachable = done.stderr.strip().splitlines()[-1]
        return
    for each in dependencies:
        if "skip_reason" in each:
            result.unknown.append(each["name"])
            continue
        result.audited += 1
        for vulnerability in each["vulns"]:
            names = {vulnerability["id"], *vulnerability["aliases"]}
            fixed = ", ".join(vulnerability["fix_versions"]) or "no version"
            line = f"{each['name']} {each['version']}: {vulnerability['id']}, fixed in {fixed}"
            reason = next((ACCEPTED[name] for name in names if name in ACCEPTED), None)
            if reason is None:
                result.found.append(line)
            else:
                result.accepted.append(f"{line}; accepted: {reason}")


def report(result: Audit) -> str:
    """Return what people are told of an audit."""
    lines = [f"vulnerable: {line}" for line in result.found] + result.accepted
    if result.unknown and result.audited:
        lines.append(f"not audited, since the advisory service does not know them: {', '.join(result.unknown)}")
    if result.audited:
        lines.append(f"audited {result.audited} packages, found {len(result.found)} vulnerabilities")
    if result.unreachable:
        left = "the audit is not complete" if result.audited else "nothing was audited"
        lines.append(f"could not reach the advisory service, so {left}: {result.unreachable}")
    return "\n".join(lines)


def main(words: Sequence[str], run: Run = pip_audit) -> int:
    """Audit the lock that the words name, or the project's; return the exit status."""
    if len(words) > 1:
        print("usage: python -m tests.audit [LOCK]", file=sys.stderr)
        return 2
    lock = Path(words[0]) if words else LOCK
    result = audit(pins(lock.read_text()), run)
    print(report(result))
    return 1 if result.found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
