"""A real Prometheus on a free port of 127.0.0.1, scraping sidecars and the operator.

Sidecars are found through a file that `pods.ScrapeTargets` keeps up to date.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from tidegate_tools import binaries
from tidegate_tools.addresses import free_port
from tidegate_tools.api import answers
from tidegate_tools.processes import Process, Supervisor

SIDECAR_JOB = "tidegate-sidecar"
OPERATOR_JOB = "tidegate-operator"
START_TIMEOUT = 30.0


class Prometheus:
    """A Prometheus with its data, configuration and log in one folder."""

    def __init__(
        self,
        directory: Path,
        *,
        sidecars: Path,
        operators: Sequence[str] = (),
        scrape_interval_ms: int = 1000,
    ) -> None:
        """Made, not started.

        Args:
            directory: where its data, configuration and log go.
            sidecars: the file that lists the sidecars' addresses (file_sd, JSON).
            operators: addresses, HOST:PORT, of the operator's metrics.
            scrape_interval_ms: may be less than a second.
        """
        self.directory = directory.absolute()
        self.sidecars = sidecars.absolute()
        self._config = configuration(self.sidecars, operators, scrape_interval_ms)
        self._address = f"127.0.0.1:{free_port()}"
        self._supervisor = Supervisor()
        self._process: Process | None = None

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://{self._address}"

    def __enter__(self) -> Self:
        self._supervisor.__enter__()
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._supervisor.__exit__(*error)

    def start(self) -> None:
        """Starts it and returns once it answers; after a stop, same address and data."""
        self.directory.mkdir(parents=True, exist_ok=True)
        config = self.directory / "prometheus.json"
        config.write_text(self._config)
        argv = [
            str(binaries.ensure("prometheus")),
            f"--config.file={config}",
            f"--storage.tsdb.path={self.directory / 'data'}",
            f"--web.listen-address={self._address}",
            "--log.level=warn",
        ]
        log = self.directory / "prometheus.log"
        self._process = self._supervisor.start("prometheus", argv, log=log)
        self._process.wait_until(lambda: answers(f"{self.url}/-/ready"), START_TIMEOUT)

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.alive

    def kill(self) -> None:
        """Ends it at once, as a crash would; its data stay."""
        if self._process:
            self._process.kill()

    def stop(self) -> None:
        """Stops it; its data stay."""
        self._supervisor.stop()


def configuration(sidecars: Path, operators: Sequence[str], interval_ms: int) -> str:
    """Prometheus's configuration (JSON is YAML)."""
    jobs = [
        {"job_name": SIDECAR_JOB, "file_sd_configs": [{"files": [str(sidecars)]}]},
        {"job_name": OPERATOR_JOB, "static_configs": [{"targets": list(operators)}]},
    ]
    every = {"scrape_interval": f"{interval_ms}ms", "scrape_timeout": f"{interval_ms}ms"}
    return json.dumps({"global": every, "scrape_configs": jobs}, indent=1)
