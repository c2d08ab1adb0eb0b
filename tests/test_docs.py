"""The promises of README.md, CONTRIBUTING.md and docs/: links, commands, and the example of a new method."""

import argparse
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import indent
from typing import Any, NoReturn

import pytest

from pipelines.check import check
from scpseg.params import Params
from scpseg.validation import parse_yaml

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
EXTENDING = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", EXTENDING, re.DOTALL)
YAML = re.findall(r"```yaml\n(.*?)   ```", EXTENDING, re.DOTALL)
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
OTHER = {"source .venv/bin/activate", "git checkout params.yaml dvc.lock"}
COPIED = (
    *("baselines", "docs", "pipelines", "profiles", "reports/published", "results/reference", "scpseg", "tests"),
    *("CITATION.cff", "CONTRIBUTING.md", "LICENSE", "Makefile", "README.md", "dvc.yaml", "params.yaml"),
    *("pyproject.toml", "requirements.txt", "results/README.md", "results/bench.csv", "results/bench-growth.csv"),
    "results/bench-growth.png",
)


def commands(page: Path) -> list[str]:
    """Lines of the code blocks without a language; continued lines joined, comments removed."""
    blocks = re.findall(r"^ *```(\w*)\n(.*?)^ *```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    lines = "".join(text for language, text in blocks if not language).replace("\\\n", " ").splitlines()
    parts = [part for line in lines if line.strip() for part in line.split(" && ")]
    return [part.partition("  #")[0].strip() for part in parts]


CASES = [(page, command) for page in PAGES for command in commands(page)]


class Parsed(BaseException):
    """The command line was accepted; nothing ran."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_a_file_and_a_heading(page: Path) -> None:
    for path, anchor in re.findall(r"\]\(([^):#]*)(#[^)]*)?\)", page.read_text(encoding="utf-8")):
        target = page.parent / path if path else page
        assert target.exists(), f"{path} in {page.name}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor[1:] in {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 160


@pytest.mark.parametrize(("page", "command"), CASES, ids=[f"{page.name}: {command}" for page, command in CASES])
@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_a_printed_command_is_valid(page: Path, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    words = shlex.split(command)
    if words[0] == "make":
        assert words[1] in TARGETS
    elif words[0] == "cp":
        assert (ROOT / words[1]).is_file() and words[2] == "params.yaml"
    elif words[0] == "dvc":
        of_dvc(words[1:])
    elif words[:3] == ["python", "-m", "pytest"]:
        assert all((ROOT / word).exists() for word in words[3:] if not word.startswith("-"))
    elif words[:2] == ["python", "-m"]:
        of_module(words[2], words[3:], monkeypatch)
    else:
        assert command in OTHER, f"{page.name} has a command that this test does not know: {command}"


def of_dvc(words: list[str]) -> None:
    """DVC accepts the command line, and the suite the parameters that it sets."""
    from dvc.cli import parse_args

    given = parse_args(words)
    params = Params.load(ROOT / "params.yaml").values
    for setting in getattr(given, "set_param", None) or []:
        key, _, values = setting.partition("=")
        section, _, name = key.partition(".")
        for value in parse_yaml(f"[{values}]", key):
            assert name in params[section], key
            params = {**params, section: {**params[section], name: value}}
            if len(words) < 4 or "--queue" in words:
                check(Params(params, Path("params.yaml")))
    check(Params(params, Path("params.yaml")))


def of_module(module: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The parser of a module accepts its command line."""
    known = argparse.ArgumentParser.parse_args

    def parse_args(self: argparse.ArgumentParser, *rest: Any) -> NoReturn:
        known(self, *rest)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
    monkeypatch.setattr(sys, "argv", [module, *words])
    with pytest.raises(Parsed):
        runpy.run_module(module, run_name="__main__")


def test_the_example_benchmark_is_the_one_that_is_tested() -> None:
    """tests/test_new_benchmark.py follows the steps with these two files."""
    examples = ROOT / "tests/examples"
    assert (examples / "islands.py").read_text(encoding="utf-8") in PYTHON
    assert indent((examples / "islands.yaml").read_text(encoding="utf-8"), "   ") in YAML
    assert 'the line `"islands",` to `NAMES` in `scpseg/benchmarks/__init__.py`' in EXTENDING


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project in which docs/extending.md was followed to the letter."""
    folder = tmp_path_factory.mktemp("extended")
    for name in COPIED:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / name)
    code = next(code for code in PYTHON if "class MeanColour" in code)
    (file,) = re.findall(r"Save it as `(baselines/\w+\.py)`", EXTENDING)
    (line,) = re.findall(r"the line `(.*)` to the dict `METHODS`", EXTENDING)
    section = next(section for section in YAML if section.startswith("   mean_colour:"))
    (tuned,) = re.findall(r"the line `(.*)` to the section `tuned`", EXTENDING)
    (folder / file).write_text(code, encoding="utf-8")
    methods = folder / "pipelines/methods.py"
    methods.write_text(methods.read_text().replace("] = {\n", f"] = {{\n    {line}\n", 1))
    for path in (folder / "params.yaml", *(folder / "profiles").glob("*.yaml")):
        text = path.read_text() + re.sub("^   ", "", section, flags=re.MULTILINE)
        path.write_text(text.replace("\ntuned:\n", f"\ntuned:\n  {tuned}\n"))
    return folder


def run(folder: Path, *command: str) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.mark.lint
def test_the_example_method_passes_lint_and_types(extended: Path) -> None:
    if (ROOT / ".mypy_cache").is_dir():  # types of the libraries
        shutil.copytree(ROOT / ".mypy_cache", extended / ".mypy_cache", dirs_exist_ok=True)
    run(extended, "ruff", "check", ".")
    run(extended, "ruff", "format", "--check", ".")
    run(extended, "mypy", "baselines/mean_colour.py", "pipelines/methods.py")


def test_the_example_method_has_valid_parameters_and_passes_the_contract_tests(extended: Path) -> None:
    chosen = ("tests/test_contract.py", "tests/pipelines/test_check.py", "-k", "mean_colour or every_profile")
    run(extended, "pytest", "-q", "-p", "no:cacheprovider", *chosen)


@pytest.mark.soak
def test_every_test_passes_with_the_example_method(extended: Path) -> None:
    # Without this file, whose example cannot be added twice.
    run(
        extended,
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-n",
        "2",
        "--dist",
        "loadfile",
        "--ignore=tests/test_docs.py",
    )
