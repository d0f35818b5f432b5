"""The scenario itself: one high and one low model on one device, by every way of sharing it.

The high model gets 20 requests/s of one row at priority 1, at random times and whatever is
answered; the low one batches at priority 5, of which one is always waiting while one is worked on.
`run.py` starts this in an environment where it finds what it needs.
"""

import json
import multiprocessing
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

import gpus
import load
import options
import pod
import priority_isolation as isolation
import pytorch

from tidegate_contract import names
from tidegate_contract.table import LEVELS, BatchSettings
from tidegate_tools import triton
from tidegate_tools.addresses import Subnet
from tidegate_tools.processes import ProcessFailed, Supervisor

NAME = "gpu_priority_isolation"
RESULTS = Path("bench-results")
ROWS = 1024
ROW_BYTES = 16 * 2**20  # of the GPU's memory for each image of a batch, generously
SLICES_MS = (2, 5, 10)
WANTED_P99_MS, WANTED_KEPT = 10.0, 0.8
PATIENCE = 600.0  # seconds for models to be loaded and run once in each size
# Published for ResNet-18 over ResNet-50 on one GPU: milliseconds, and the low model's it/s.
REFERENCE = {
    "alone": {"p99": 2.71},
    "no help": {"mean": 8.14, "p50": 7.55, "p95": 15.23, "p99": 19.62, "max": 23.97, "low": 1.97},
}
COLUMNS = ("mean", "p50", "p95", "p99", "max", "low")

Figures = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class ResNet(pod.Model):
    """A ResNet on the GPU, of the depth that its config says."""

    fixed: float = 0.0
    per_row: float = 0.0
    kind: str = "KIND_GPU"

    def code(self) -> str:
        """What Triton's python backend runs."""
        return Path(__file__).with_name("resnet.py").read_text()


def resnet(name: str, depth: int, most: int, kind: str = "KIND_GPU") -> ResNet:
    """A model of its own name."""
    depth_is = f'parameters {{ key: "depth" value {{ string_value: "{depth}" }} }}'
    return ResNet(name=name, most=most, kind=kind, extra=depth_is)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Where and on what it is run.

    ``serving``: the core of Triton and the sidecar, None: any. ``environment``: Triton's, beside
    what it has anyway.
    """

    device: str
    high: pod.Model
    low: pod.Model
    rows: int
    seconds: float
    serving: int | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


def main() -> None:
    """Measure, and print the table and the figures."""
    given = options.arguments()
    began = time.monotonic()
    try:
        setting = on_cpu(given) if given.cpu else on_gpu(given)
        print(f"{setting.device}; low batches of {setting.rows} rows", flush=True)
        samples = measured(setting)
    except (gpus.NoGpu, ProcessFailed, triton.TritonUnavailable) as error:
        sys.exit(str(error))
    except subprocess.CalledProcessError as error:
        sys.exit(f"the installation failed with status {error.returncode}; pip says why above")
    except KeyboardInterrupt:
        sys.exit(130)
    print(table(samples))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{NAME}.json").write_text(json.dumps(samples, indent=1))
    figures = {"device": setting.device, "rows": setting.rows, **conclusion(samples), **samples}
    print("RESULT", json.dumps({"name": NAME, "figures": figures}))
    print(f"done in {time.monotonic() - began:.0f} s")


def on_cpu(given: Any) -> Setting:
    """Models that compute so long on one core, all else on another where there is one."""
    device, others = (sorted(os.sched_getaffinity(0)) * 2)[:2]
    os.sched_setaffinity(0, {others})
    return Setting(
        device="one core, no GPU",
        high=replace(isolation.HIGH, device=device),
        low=replace(isolation.LOW, device=device),
        rows=min(given.rows or ROWS, ROWS),
        seconds=given.seconds or 6.0,
        serving=others,
    )


def on_gpu(given: Any) -> Setting:
    """The ResNets.

    Raises:
        NoGpu: there is none that they can run on.
    """
    gpu = gpus.find(given.gpu)
    python = triton.ensure() / "bin" / "python"
    environment = {
        "BENCH_PACKAGES": str(pytorch.ensure(python, gpu)),
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # as nvidia-smi counts
        "CUDA_VISIBLE_DEVICES": str(given.gpu),
    }
    torch = pytorch.version(
        python, {**os.environ, **environment, "PYTHONPATH": environment["BENCH_PACKAGES"]}
    )
    rows = given.rows or fitting(gpu.free)
    return Setting(
        device=f"{gpu.name}, driver {gpu.driver}, PyTorch {torch}",
        high=resnet("high", 18, 8),
        low=resnet("low", 50, rows),
        rows=rows,
        seconds=given.seconds or 30.0,
        environment=environment,
    )


def fitting(free: int) -> int:
    """The largest power of two of rows, to ``ROWS``, that takes half of so many free bytes.

    Raises:
        NoGpu: not even a small one does.
    """
    rows = ROWS
    while rows * ROW_BYTES > free / 2:
        rows //= 2
    if rows < 32:  # noqa: PLR2004 - less is no batch that anybody would have to cut
        raise gpus.NoGpu(f"only {free / 2**30:.1f} GiB of the GPU's memory are free")
    return rows


def measured(setting: Setting) -> dict[str, Figures]:
    """Every way of sharing, by name."""
    samples = {}
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tidegate-gpu-")))
        subnet = stack.enter_context(Subnet.claimed())
        context = multiprocessing.get_context("forkserver")
        pool = stack.enter_context(context.Pool(2, signal.signal, (signal.SIGINT, signal.SIG_IGN)))
        for ways in (ways_of_pod, ways_of_triton):
            for way, figures in ways(setting, pool, directory, subnet):
                samples[way] = figures
                shown = ", ".join(f"{name} {value:.2f}" for name, value in figures.items())
                print(f"{way}: {shown}", flush=True)
    return samples


def ways_of_pod(
    setting: Setting, pool: Pool, directory: Path, subnet: Subnet
) -> Iterator[tuple[str, Figures]]:
    """Through Triton as it is, then through the sidecar before it."""
    ours = directory / "ours"
    ours.mkdir()
    say("starting Triton and the sidecar; the models are loaded and warmed up")
    models = (setting.high, setting.low)
    with pod.running(
        models,
        ours,
        subnet.ip(1),
        setting.serving,
        environment=setting.environment,
        patience=PATIENCE,
    ) as under_test:
        plain = Sharing(setting, pool, under_test.ip, triton.HTTP_PORT)
        yield "high alone", plain.run(low=False)
        yield "low alone", plain.run(high=False)
        yield "no help", plain.run()
        sidecar = Sharing(setting, pool, under_test.ip, names.PORT_HTTP)
        for slice_ms in SLICES_MS:
            levels = (*LEVELS[:-1], isolation.sliced(slice_ms / 1000))
            under_test.apply(BatchSettings(levels=levels, deadline=None))
            yield f"sidecar, slices of {slice_ms} ms", sidecar.run()
        under_test.apply(BatchSettings(deadline=None))
        yield "sidecar, no slices", sidecar.run()


def ways_of_triton(
    setting: Setting, pool: Pool, directory: Path, subnet: Subnet
) -> Iterator[tuple[str, Figures]]:
    """Through Triton with priorities of its own."""
    say("starting a Triton that has priorities of its own")
    with Supervisor() as supervisor:
        ip = isolation.start_theirs(
            supervisor,
            directory,
            subnet.ip(2),
            setting.serving,
            models=(setting.high, setting.low),
            environment=setting.environment,
            patience=PATIENCE,
        )
        yield "Triton's own priorities", Sharing(setting, pool, ip, triton.HTTP_PORT).run()


@dataclass(frozen=True)
class Sharing:
    """The loads that one server gets."""

    setting: Setting
    pool: Pool
    ip: str
    port: int

    def run(self, *, high: bool = True, low: bool = True) -> Figures:
        """Both loads, or one; first for a while that does not count.

        Raises:
            multiprocessing.TimeoutError: the server has ceased to answer.
        """
        seconds = self.setting.seconds
        say(f"measuring for {1.25 * seconds:.0f} s")
        self._both(seconds / 4, high, low)
        first, beside = self._both(seconds, high, low)
        found: Figures = {}
        if first:
            ms = {q: first.quantile(q / 100) * 1e3 for q in (50, 95, 99)}
            mean, longest = statistics.fmean(first.latencies), max(first.latencies)
            found = {"mean": mean * 1e3, **{f"p{q}": value for q, value in ms.items()}}
            found["max"] = longest * 1e3
        if beside:
            found["low"] = beside.rate
        found["failed"] = sum(one.failed for one in (first, beside) if one)
        return {name: round(value, 3) for name, value in found.items()}

    def _both(
        self, seconds: float, high: bool, low: bool
    ) -> tuple[load.Sample | None, load.Sample | None]:
        setting, first, beside = self.setting, None, None
        if low:
            request = setting.low.request(setting.rows, priority=5)
            loading = {"connections": 2, "seconds": seconds}
            beside = self.pool.apply_async(load.run, (self.ip, self.port, request), loading)
        if high:
            request = setting.high.request(priority=1)
            arriving = {"connections": 32, "rate": isolation.RATE, "seconds": seconds, "seed": 1}
            first = self.pool.apply_async(load.at_rate, (self.ip, self.port, request), arriving)
        patience = seconds + PATIENCE
        return first.get(patience) if first else None, beside.get(patience) if beside else None


def table(samples: Mapping[str, Figures]) -> str:
    """The figures in columns; the published ones and the mark stand below."""
    rows = {**samples, **{f"reference: {way}": of for way, of in REFERENCE.items()}}
    titles = ("avg ms", "P50", "P95", "P99", "max", "low it/s", "low kept")
    width = max(map(len, rows)) + 2
    lines = ["", "high's latency".ljust(width) + "".join(title.rjust(10) for title in titles)]
    for way, figures in rows.items():
        cells = [f"{figures[name]:.2f}" if name in figures else "-" for name in COLUMNS]
        known = way in samples and "low" in figures
        cells.append(f"{figures['low'] / samples['low alone']['low']:.0%}" if known else "-")
        lines.append(way.ljust(width) + "".join(cell.rjust(10) for cell in cells))
    lines.append(f"wanted: P99 below {WANTED_P99_MS:g} ms, low kept at least {WANTED_KEPT:.0%}")
    return "\n".join(lines)


def conclusion(samples: Mapping[str, Figures]) -> dict[str, Any]:
    """Which slices meet the mark, and each way's two ratios to each model alone."""
    alone = samples["high alone"]["p99"], samples["low alone"]["low"]
    shared = {way: of for way, of in samples.items() if "alone" not in way}
    return {
        "meets_the_mark": [
            way
            for way, of in shared.items()
            if of["p99"] < WANTED_P99_MS and of["low"] >= WANTED_KEPT * alone[1]
        ],
        "high_p99_to_alone": {way: round(of["p99"] / alone[0], 3) for way, of in shared.items()},
        "low_kept": {way: round(of["low"] / alone[1], 3) for way, of in shared.items()},
        "failed": sum(of["failed"] for of in samples.values()),
    }


def say(text: str) -> None:
    """Progress, with the time of day."""
    print(time.strftime("%H:%M:%S"), text, flush=True)


if __name__ == "__main__":
    main()
