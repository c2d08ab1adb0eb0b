from pathlib import Path
from typing import Any

import pytest

from scpseg.benchmarks import BENCHMARKS, REAL
from scpseg.data.acquire.sources import below, check_upstream, chosen, source_of, source_problem
from scpseg.errors import UserError
from scpseg.params import DataParams, Params, UpstreamParams

ROOT = Path(__file__).parents[4]


def with_upstream(source: str = "upstream", **changes: Any) -> Params:
    params = Params.load(ROOT / "profiles/paper.yaml")
    upstream = {**params.values["upstream"], **changes}
    return Params(
        {**params.values, "upstream": upstream, "data": {**params.values["data"], "source": source}}, params.path
    )


@pytest.mark.parametrize("profile", ["paper", "sample", "folder"])
def test_every_profile_names_known_sources(profile: str) -> None:
    params = Params.load(ROOT / f"profiles/{profile}.yaml")
    check_upstream(params)
    assert set(params.upstream.sources) == set(REAL)
    for name in REAL:
        assert params.upstream.of(name) == tuple(source.name for source in BENCHMARKS[name].sources)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"inria": ["huggingfase"]}, ["upstream.inria is 'huggingfase'", "did you mean 'huggingface'?"]),
        ({"potsdam": ["ftp://x/y"]}, ["upstream.potsdam is 'ftp://x/y'", "not an address (http://..., https://...)"]),
        ({"blu": ["kaggle"]}, ["upstream.blu is 'kaggle'", "blu has no known source"]),
        ({"unverified_hosts": ["https://files.inria.fr"]}, ["not a host name", "like files.inria.fr"]),
        ({"unverified_hosts": ["files.inria.fr:443"]}, ["not a host name"]),
        ({"deepglobe": "kaggle"}, ["upstream.deepglobe is 'kaggle'", "a list"]),
        ({"deepglobe": ["kaggle", "kaggle"]}, ["duplicated"]),
        ({"inra": []}, ["unknown parameter upstream.inra", "did you mean 'inria'?"]),
        ({"source": "ftp://x"}, ["data.source is 'ftp://x'", "start with http:// or https://"]),
        ({"source": "http://"}, ["data.source is "]),
        ({"source": "http://[::1/x"}, ["data.source is 'an invalid address'"]),
        ({"source": "http://a.test:99999/x"}, ["data.source is "]),
        ({"source": "https://u:secret@a.test/x"}, ["data.source is 'https://a.test/x'", "dvc.lock", "~/.netrc"]),
        ({"blu": ["https://a.test/x.zip?sig=secret"]}, ["upstream.blu is 'https://a.test/x.zip'", "dvc.lock"]),
        ({"probe": []}, ["unknown parameter upstream.probe"]),
    ],
)
def test_a_mistake_is_one_sentence(changes: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        check_upstream(with_upstream(**changes))
    assert str(caught.value).isprintable() and "secret" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


def test_why_a_name_is_no_source_speaks_of_no_file() -> None:
    assert (
        source_problem(BENCHMARKS["inria"], "s3") is None
        and source_problem(BENCHMARKS["blu"], "https://a.test/x") is None
    )
    why = source_problem(BENCHMARKS["inria"], "huggingfase")
    assert why is not None and why.startswith("it is not a source of inria") and "did you mean 'huggingface'?" in why
    assert str(source_problem(BENCHMARKS["probe"], "s3")).endswith("probe has no known source")


def test_addresses_are_accepted() -> None:
    check_upstream(
        with_upstream("https://mirror.test/sets", blu=["http://a.test/BLU.zip"], unverified_hosts=["a.test"])
    )


def test_names_and_addresses_in_their_order() -> None:
    upstream = UpstreamParams({"inria": ("s3", "https://u:p@a.test/x/Set.ZIP?key=1", "https://a.test/sets/")})
    s3, archive, mirror = chosen(BENCHMARKS["inria"], DataParams("upstream", False, "c"), upstream)
    assert s3 == BENCHMARKS["inria"].sources[2]
    assert (archive.how, [file.name for file in archive.files]) == ("archive", ["Set.ZIP"])
    assert archive.address == "https://u:p@a.test/x/Set.ZIP?key=1" and archive.folder.startswith("a.test-")
    assert archive.name == archive.page == "https://a.test/x/Set.ZIP"
    assert (mirror.how, mirror.address, mirror.files) == (
        "mirror",
        "https://a.test/sets/inria",
        BENCHMARKS["inria"].archives,
    )
    assert archive.folder != mirror.folder


def test_a_query_stays_at_the_end_and_out_of_the_cache() -> None:
    assert below("https://a.test/x/?t=1", "a b.zip") == "https://a.test/x/a%20b.zip?t=1"
    inria = BENCHMARKS["inria"]
    plain, first, renewed = (source_of(inria, f"https://a.test/sets{query}") for query in ("", "?sig=a", "?sig=b"))
    assert first.address == "https://a.test/sets/inria?sig=a" and renewed.address == "https://a.test/sets/inria?sig=b"
    assert plain.folder == first.folder == renewed.folder == "a.test-b04cb038"
    assert source_of(inria, "https://a.test/x.zip?sig=a").folder == source_of(inria, "https://a.test/x.zip").folder


def test_an_address_as_source_goes_alone() -> None:
    upstream = UpstreamParams({"deepglobe": ("kaggle",)})
    (mirror,) = chosen(BENCHMARKS["deepglobe"], DataParams("http://a.test", False, "c"), upstream)
    assert mirror.address == "http://a.test/deepglobe"


def test_sources_are_whole() -> None:
    for sources in (spec.sources for spec in BENCHMARKS.values()):
        assert len({source.name for source in sources}) == len({source.folder for source in sources}) == len(sources)
        assert all(source.page.startswith("https://") for source in sources)
    inria = BENCHMARKS["inria"].sources[0]
    assert sum(part.size or 0 for part in inria.files) == inria.download == 20957265875
    assert all(len(part.sha256 or "") == 64 for part in inria.files)
    for source in BENCHMARKS["potsdam"].sources:
        names = [[file.name for file in source.wanted(labels)] for labels in ("noBoundary", "bordered")]
        assert names[0] == names[1] == ["Potsdam.zip"] or [len(wanted) for wanted in names] == [2, 2]
