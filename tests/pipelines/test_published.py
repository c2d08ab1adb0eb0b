import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from pipelines import published
from scpseg.errors import UserError

ROOT = Path(__file__).parents[2]
TABLE = Path("results/reference/computed/memory.csv")


def test_the_committed_table_and_figures_are_current(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (published.PAGE, TABLE):
        (tmp_path / name).parent.mkdir(parents=True)
        shutil.copy(ROOT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["published"])
    published.main()
    page = (ROOT / published.PAGE).read_text()
    assert published.PAGE.read_text() == page
    for cells in (r"DeepGlobe \| FCtL \| 814 .* 3167", r"DeepGlobe \| MagNet .* 1559", r"BLU \| WiCoNet .* 2014"):
        assert re.search(rf"^\| {cells} <sup>", page, re.MULTILINE)
    drawn = sorted(path.name for path in published.FIGURES.iterdir())
    assert drawn == [f"published-{name}.png" for name in ("blu", "deepglobe", "inria", "potsdam")]
    for name in drawn:
        committed = ROOT / published.FIGURES / name
        assert committed.stat().st_size < 100_000 and f"(figures/{name})" in page
        with Image.open(committed) as one, Image.open(published.FIGURES / name) as other:
            assert one.tobytes() == other.tobytes()
    TABLE.unlink()
    with pytest.raises(UserError, match="make memory"):
        published.main()
