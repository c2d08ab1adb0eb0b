"""The pinned set of packages: complete, with hashes, without addresses."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PINNED = (ROOT / "requirements.txt").read_text(encoding="utf-8")


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_package_is_pinned_with_hashes() -> None:
    entries = re.split(r"\n(?=\S)", "\n".join(line for line in PINNED.splitlines() if not line.startswith("#")))
    names = set()
    for entry in entries:
        first, *rest = entry.splitlines()
        assert re.match(r"[\w.-]+==[\w.!+]+( ; .*)? \\$", first), first
        assert rest and all(re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}( \\)?", line) for line in rest), first
        names.add(canonical(first.partition("==")[0]))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    # The browser of the soak tests and the peers of the bench are left to the user: `make` does not install them.
    own = ("browser", "bench")
    wanted = [*project["dependencies"], *(text for name in extras if name not in own for text in extras[name])]
    missing = {canonical(re.match(r"[\w.-]+", text)[0]) for text in wanted} - names
    assert not missing, f"run `make lock`: {missing} are not in requirements.txt"


def test_no_address_is_in_the_pinned_set() -> None:
    assert "://" not in PINNED
