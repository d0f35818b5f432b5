"""``tidegate tune``: from the command line to a search, and from that to a policy."""

import argparse
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from hashlib import sha256
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console
from rich.table import Table

from tidegate_cli import cluster, terminal
from tidegate_cli.errors import CommandError
from tidegate_load import command as load
from tidegate_load import users
from tidegate_load.schedule import Schedule
from tidegate_load.users import User
from tidegate_tune import plots
from tidegate_tune.live import Live, Policy, Sidecar
from tidegate_tune.score import Weights
from tidegate_tune.simulated import Cost, Simulated
from tidegate_tune.space import Space, fresh, manifest
from tidegate_tune.study import Evaluate, Search, Tried, best

_INTERRUPTED: Final = 130


def run(options: argparse.Namespace) -> int:
    """Search, show, write; the exit code.

    Raises:
        CommandError: what was asked for makes no sense, or cannot be reached.
    """
    for path in (options.output, options.journal, options.plot):
        load.writable(path)
    everybody = users.chosen(options.users, options.user)
    schedule, everybody = load.scheduled(options, everybody)
    policy = _policy(options)
    cost = _cost(options)
    search = Search(
        options.model,
        Space.within(policy.spec, cost.most) if policy else Space(cost.most),
        Weights(*options.weights),
        _load(options, schedule, everybody),
        options.journal or Path(f"tune-{options.model}.journal"),
        options.seed,
    )
    progress = Console(stderr=True, highlight=False)
    interrupted = False
    failure: CommandError | None = None
    done: list[Tried] = []

    def told(one: Tried) -> None:
        done.append(one)
        progress.print(_line(done, options.trials), soft_wrap=True)

    try:
        done += search.kept()
        if done:
            progress.print(f"{len(done)} trials are kept in {search.journal}")
        with _evaluator(options, policy, cost, schedule, everybody) as evaluate:
            search.run(evaluate, options.trials, told)
    except KeyboardInterrupt:
        interrupted = True
    except ValueError as error:
        raise CommandError(str(error)) from error
    except CommandError as error:
        failure = error
    if done:
        _show(options, policy, done, cost)
    if failure:
        raise failure
    return _INTERRUPTED if interrupted else 0


def _policy(options: argparse.Namespace) -> Policy | None:
    """The policy that trials change; None: they are simulated."""
    if options.policy is None:
        return None
    if options.url is None:
        raise CommandError("--policy needs a --url to send traffic to")
    connected = cluster.connect(options.kubeconfig, options.context)
    namespace = options.namespace or connected.namespace
    return Policy.found(connected, namespace, options.policy, options.model)


def _cost(options: argparse.Namespace) -> Cost:
    """What batches cost: as said; what was not said, as the sidecar knows it."""
    fixed, per_row, most = options.fixed, options.per_row, options.most
    slots = options.slots
    if options.url is None:
        if None in (fixed, per_row, most):
            raise CommandError("say what batches cost (--fixed, --per-row, --most), or ask a --url")
    elif None in (fixed, per_row, most, slots):
        sidecar = Sidecar(options.url)
        if None in (fixed, per_row):
            learned = sidecar.cost(options.model)
            fixed, per_row = (
                known if said is None else said
                for said, known in zip((fixed, per_row), learned, strict=True)
            )
        rows, instances = sidecar.size(options.model)
        most, slots = most or rows, slots or instances
    return Cost(fixed=fixed, per_row=per_row, most=most, slots=slots or 1)


def _load(
    options: argparse.Namespace, schedule: Schedule, everybody: Sequence[User]
) -> dict[str, object]:
    """What trials were made under: those of another load are not to be compared with.

    What a sidecar has learned is named by its address: it is a little different each time.
    """
    arrivals = (schedule.times, schedule.users, schedule.rows)
    return {
        "arrivals": sha256(b"".join(one.tobytes() for one in arrivals)).hexdigest(),
        "users": msgspec.to_builtins(list(everybody)),
        "target": options.target,
        "url": options.url,
        "policy": options.policy,
        "cost": [options.fixed, options.per_row, options.slots],
    }


def _evaluator(
    options: argparse.Namespace,
    policy: Policy | None,
    cost: Cost,
    schedule: Schedule,
    everybody: Sequence[User],
) -> AbstractContextManager[Evaluate]:
    if policy is None:
        return nullcontext(
            Simulated(
                model=options.model,
                cost=cost,
                schedule=schedule,
                users=everybody,
                target=options.target,
                seed=options.seed,
            )
        )
    return Live(
        policy=policy,
        sidecar=Sidecar(options.url),
        cost=cost,
        script=load.script(options, everybody, schedule),
        schedule=schedule,
        users=everybody,
        model=options.model,
        target=options.target,
        connections=options.connections,
        drain=options.drain,
    )


def _line(done: Sequence[Tried], trials: int) -> str:
    """The last trial; marked where it is the best so far."""
    one = done[-1]
    chosen = one.candidate
    mark = " *" if one is best(done) else ""
    return (
        f"{len(done):>4}/{trials}  score {one.score:.3f}{mark:<2}  {chosen.strategy:<8} "
        f"batch {chosen.max_batch_size:<4} wait {chosen.max_wait * 1000:>2.0f}ms "
        f"{chosen.optimize:<10} reserve {chosen.aging_reserve:.3f}"
    )


def _show(
    options: argparse.Namespace, policy: Policy | None, done: Sequence[Tried], cost: Cost
) -> None:
    """The policy goes to the file or, alone, to the output: what reads that may be kubectl."""
    found = best(done)
    console = terminal.console() if options.output else Console(stderr=True, highlight=False)
    console.print(_table(done[0], found))
    tried = "simulated" if options.policy is None else f"on {options.url}"
    comment = (
        f"The best of {len(done)} policies tried ({tried}): score {found.score:.3f}, "
        f"the default policy's {done[0].score:.3f}.\n"
        f"Traffic: {load.pattern(options)}. A batch of n rows took "
        f"{cost.fixed * 1000:.3g} + {cost.per_row * 1000:.3g} n ms."
    )
    metadata, spec = fresh(options.model)
    if policy:
        metadata, spec = {"name": policy.name, "namespace": policy.namespace}, policy.spec
    text = manifest(metadata, spec, found.candidate, comment)
    if options.output:
        load.write(options.output, text.encode())
    else:
        sys.stdout.write(text)
    if options.plot:
        try:
            plots.draw(done, options.plot)
        except (OSError, ValueError) as error:
            raise CommandError(f"{options.plot} cannot be written: {error}") from error
        sys.stderr.write(f"written: {options.plot}\n")


def _table(first: Tried, found: Tried) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("", "score", "throughput", "latency", "utilisation", "fairness"):
        table.add_column(column, justify="left" if not column else "right")
    for name, one in (("default policy", first), ("best", found)):
        parts = one.parts
        values = (one.score, parts.throughput, parts.latency, parts.utilisation, parts.fairness)
        table.add_row(name, *(f"{value:.3f}" for value in values))
    return table
