"""The report of the bench: what it computes from a small result made by hand."""

from __future__ import annotations

from typing import Any

import pytest

import report


def sample(number: int, target: str, load: str, **fields: Any) -> dict[str, Any]:
    return {"round": number, "target": target, "load": load, "errors": {"read": 0}, **fields}


@pytest.fixture
def result() -> dict[str, Any]:
    """Three rounds; the machine was slow in the second one."""
    samples = [
        sample(0, "fcgid-c", "hello-1", requests_per_s=100.0, p99_ms=1.0),
        sample(1, "fcgid-c", "hello-1", requests_per_s=10.0, p99_ms=9.0),
        sample(2, "fcgid-c", "hello-1", requests_per_s=120.0, p99_ms=2.0),
        sample(0, "peer", "hello-1", requests_per_s=50.0, p99_ms=4.0),
        sample(
            1, "peer", "hello-1", requests_per_s=4.0, p99_ms=18.0, errors={"read": 2}, steal_ms=70
        ),
        sample(2, "peer", "hello-1", requests_per_s=120.0, p99_ms=1.0, errors={"status": 1}),
        sample(0, "fcgid-c", "burst", last_ms=10.0),
        sample(0, "fcgid-c", "burst", last_ms=30.0),
        sample(0, "fcgid-c", "burst", last_ms=1000.0),
        sample(0, "peer", "burst", last_ms=0.0),
    ]
    for found in samples:
        for field in ("p50_ms", "p99_ms", "max_ms", "steal_ms"):
            found.setdefault(field, 1)
    return {
        "begun": "2000-01-01 00:00:00 +0000",
        "settings": {
            "rounds": 3,
            "seconds": 4,
            "warm_up": 1,
            "settle": 0.5,
            "bursts": 3,
            "idle": 3.0,
        },
        "machine": {"cores": 2, "processor": "some processor", "kernel": "6.1"},
        "software": {"wrk": "4.1.0"},
        "modules": {"patched": {"sha256": "a"}, "pristine": {"sha256": "b"}},
        "loads": [
            {"name": "hello-1", "title": "small answer, 1 client", "clients": 1},
            {"name": "burst", "title": "64 requests at once", "clients": 64},
        ],
        "targets": [
            {"name": "fcgid-c", "title": "C"},
            {"name": "peer", "title": "a peer"},
            {"name": "slow", "title": "a slow one", "left_out": {"hello-1": "it is slow"}},
        ],
        "samples": samples,
    }


def test_a_number_is_the_median_over_the_rounds(result: dict[str, Any]) -> None:
    assert report.middle(result, "fcgid-c", "hello-1", "requests_per_s") == 100
    assert report.middle(result, "fcgid-c", "hello-1", "p99_ms") == 2


def test_several_bursts_of_a_round_are_one_number(result: dict[str, Any]) -> None:
    assert report.by_round(result, "fcgid-c", "burst", "last_ms") == {0: 30}


@pytest.mark.parametrize(("field", "expected"), [("requests_per_s", 2.0), ("p99_ms", 0.5)])
def test_a_ratio_is_taken_within_each_round(
    result: dict[str, Any], field: str, expected: float
) -> None:
    assert report.ratio(result, "fcgid-c", "peer", "hello-1", field) == expected


def test_there_is_no_ratio_to_what_was_left_out_or_to_zero(result: dict[str, Any]) -> None:
    assert report.ratio(result, "fcgid-c", "slow", "hello-1", "requests_per_s") is None
    assert report.ratio(result, "fcgid-c", "peer", "burst", "last_ms") is None


def test_failures_of_all_rounds_are_counted_by_kind(result: dict[str, Any]) -> None:
    assert report.failures(result, "peer", "hello-1") == {"read": 2, "status": 1}
    assert report.failures(result, "fcgid-c", "hello-1") == {}


def test_the_tables_have_a_row_for_each_target_and_say_what_is_missing(
    result: dict[str, Any],
) -> None:
    lines = report.markdown(result).splitlines()
    assert "| fcgid-c against | hello-1 | burst |" in lines
    assert "| peer | 2.00 |  |" in lines
    assert "| fcgid-c against, p99 | hello-1 |" in lines
    assert "| peer | 0.50 |" in lines
    assert "| fcgid-c | 100 |" in lines
    assert "- `peer`, `hello-1`: 2 read, 1 status" in lines
    assert "- `slow` without `hello-1`: it is slow" in lines


def test_a_run_without_patches_says_so(result: dict[str, Any]) -> None:
    assert "unpatched" not in report.markdown(result)
    result["modules"]["patched"] = result["modules"]["pristine"]
    assert "unpatched" in report.markdown(result)


def test_the_run_that_the_machine_disturbed_most_is_named(result: dict[str, Any]) -> None:
    assert (
        "had 75 ms of the cores' time meanwhile, and 70 ms in the worst run: `peer`, `hello-1`, "
        "round 1."
    ) in report.markdown(result)
