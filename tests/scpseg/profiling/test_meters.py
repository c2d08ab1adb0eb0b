from scpseg.profiling.meters import RssMeter, timeline
from scpseg.profiling.records import CHANNELS, without_figures


def test_thinning_keeps_every_peak_and_the_order() -> None:
    points = [(index / 100, 10_000 if index == 777 else index % 7) for index in range(1000)]
    samples = [(at, {"rss": used}) for at, used in points]
    thin = timeline(samples, "rss", since=0.0)
    assert len(thin) == 200
    assert (7.77, 10_000) in thin
    assert thin == sorted(thin)
    assert timeline(samples[:150], "rss", since=0.0) == points[:150]


def test_timeline_counts_from_the_beginning_and_above_idle() -> None:
    samples = [(10.0, {"rss": 5}), (10.5, {"rss": None}), (11.0, {"rss": 9})]
    assert timeline(samples, "rss", since=10.0, below=2) == [(0.0, 3), (1.0, 7)]


def test_every_channel_has_a_figure_or_a_reason() -> None:
    meter = RssMeter()
    meter.memory = {"rss": 7}
    described = meter.described()
    assert set(described["memory"]) == set(CHANNELS)
    for channel in CHANNELS:
        assert (described["memory"][channel] is None) == (channel in described["unavailable"])


def test_sampling_density() -> None:
    meter = RssMeter()
    meter.stretch = [(0.0, {}), (0.010, {}), (0.040, {})]
    found = meter.described()
    assert (found["samples"], found["period_ms"], found["longest_gap_ms"]) == (3, 20.0, 30.0)


def test_a_record_without_figures_has_a_reason_for_every_channel() -> None:
    record = without_figures("oom", "too large", "nvml", 24 * 2**30)
    assert (record["status"], record["limit"]) == ("oom", 24 * 2**30)
    assert record["unavailable"] == dict.fromkeys(CHANNELS, "too large")
