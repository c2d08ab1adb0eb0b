"""The pipeline file itself."""

from pathlib import Path

import yaml

from pipelines.methods import METHODS

ROOT = Path(__file__).parents[2]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def test_every_stage_says_what_it_is_for_and_names_files_that_exist() -> None:
    for name, stage in STAGES.items():
        assert stage["desc"], name
        assert stage["cmd"].startswith("python -m pipelines."), name
        for path in stage["deps"]:
            source = path.startswith(("scpseg", "baselines", "pipelines"))
            if source and "$" not in path:
                assert (ROOT / path).exists(), (name, path)


def test_every_parameter_is_used_by_a_stage() -> None:
    """A parameter that no stage lists could be changed without anything rerunning."""
    used = {entry for stage in STAGES.values() for entry in stage.get("params", []) if isinstance(entry, str)}
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    # Where archives lie and come from (a manifest says what came), how many processes cut windows: no result depends.
    free = {"data.cache", "machine.workers"} | {f"upstream.{key}" for key in params["upstream"]}
    generic = {entry.removeprefix("${item.benchmark}") for entry in used if entry.startswith("${item.benchmark}")}
    for section, values in params.items():
        for key in values:
            name = f"{section}.{key}"
            if section in ("deepglobe", "inria", "potsdam", "blu", "probe"):
                assert "" in generic or f".{key}" in generic
            elif section != "suite" and name not in free:
                rivals = section in METHODS and "${item.method}" in used
                tuned = section == "tuned" and "tuned.${item.method}" in used
                assert section in used or name in used or rivals or tuned, name
