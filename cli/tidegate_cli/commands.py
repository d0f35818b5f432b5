"""The commands: what each reads, and what it prints or writes. Each returns its exit code."""

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

from tidegate_cli import lookup, manifests, pairs, sidecars, terminal, verbs, watching
from tidegate_cli.cluster import ROLLOUT, Cluster, Raw
from tidegate_cli.document import document
from tidegate_cli.errors import CommandError, NotFoundError
from tidegate_cli.models import Model
from tidegate_cli.objects import WELL_ENDED, Trial
from tidegate_cli.picture import pictures
from tidegate_cli.verbs import Pause, Verb
from tidegate_contract import acknowledgement


@dataclass(frozen=True, slots=True)
class World:
    """What commands act on: the cluster, the terminal, the clock."""

    cluster: Cluster
    screen: Console
    pause: Pause


Options = argparse.Namespace
Command = Callable[[World, Options], int]


def status(world: World, options: Options) -> int:
    """Print models."""
    found = _models(world, options, options.model)
    if options.output != "table":
        return _print_document(document(found), options.output)
    if not found:
        where = "in any namespace" if options.everywhere else f"in {_namespace(world, options)}"
        raise NotFoundError(f"no model {where}: apply a ModelVersion, or look with -A")
    world.screen.print(pictures(found, detailed=options.model is not None))
    return 0


def watch(world: World, options: Options) -> int:
    """Show models until they are not watched any more."""
    if options.until_finished:
        return _watch_trial(world, options)

    def look() -> watching.Look:
        found = _models(world, options, options.name)
        shown = pictures(found, detailed=options.name is not None)
        return watching.Look(shown if found else Text("No model yet.", "dim"))

    try:
        return watching.watch(look, world.screen, world.pause, options.every)
    except KeyboardInterrupt:
        return 0


def _watch_trial(world: World, options: Options) -> int:
    if options.name is None:
        raise CommandError("--until-finished needs the name of a rollout or test")
    trial = lookup.find_trial(world.cluster, _namespace(world, options), options.name)

    def look() -> watching.Look:
        now = lookup.refreshed(world.cluster, trial)
        meta = trial.metadata
        model = lookup.observe_one(world.cluster, meta.namespace, trial.spec.model)
        code = int(now.status.phase not in WELL_ENDED) if now.finished else None
        return watching.Look(pictures([model], detailed=True), code)

    return watching.watch(look, world.screen, world.pause, options.every)


def promote(world: World, options: Options) -> int:
    """To the next step or to the end."""
    return _say(world, options, lambda trial: verbs.promote(trial, full=options.full))


def abort(world: World, options: Options) -> int:
    """Back to the split before it."""
    return _say(world, options, lambda trial: verbs.abort(trial, options.reason))


def retry(world: World, options: Options) -> int:
    """Once more from the beginning."""
    return _say(world, options, lambda trial: verbs.retry(trial, world.pause.now()))


def suspend(world: World, options: Options) -> int:
    """Hold."""
    return _say(world, options, lambda trial: verbs.suspend(trial, on=True))


def resume(world: World, options: Options) -> int:
    """Go on."""
    return _say(world, options, lambda trial: verbs.suspend(trial, on=False))


def _say(world: World, options: Options, choose: Callable[[Trial], Verb]) -> int:
    trial = lookup.find_trial(world.cluster, _namespace(world, options), options.name)
    verb = choose(trial)
    after = verbs.say(world.cluster, trial, verb, world.pause, options.timeout)
    if not options.timeout:
        world.screen.print(terminal.text(f"{trial.short}: {verb.name} written"), soft_wrap=True)
        return 0
    changed, sentence = verbs.outcome(trial, after, verb)
    world.screen.print(terminal.text(sentence), soft_wrap=True)
    return 0 if changed else 1


def discover(world: World, options: Options) -> int:
    """What Triton has and nobody declared."""
    namespace = _namespace(world, options)
    known = lookup.observe(world.cluster, namespace)
    model = next((one for one in known if one.name == options.model), None)
    model = model or Model(namespace, options.model)
    selector = next((one.spec.pod_selector for one in model.versions), None)
    pods = sidecars.serving(world.cluster, namespace, model.name, selector)
    ask = _asking(world, options, "/routing", {})
    reports, silent = sidecars.ask_all(
        pods, ask, acknowledgement.decode, may_proxy=not options.direct
    )
    acks = [one.models[model.name] for one in reports.values() if model.name in one.models]
    found = manifests.undeclared(model, (one.undeclared for one in acks))
    _warn(silent)
    written = [manifests.declaration(model, version) for version in found]
    if options.write:
        terminal.print_yaml(*written)
    elif options.output != "table":
        return _print_document({"model": model.name, "undeclared": found}, options.output)
    elif found:
        listed = ", ".join(str(version) for version in found)
        world.screen.print(
            terminal.text(f"{model.name}: no ModelVersion names version {listed}"), soft_wrap=True
        )
        world.screen.print(Text("--write prints ModelVersions to apply", "dim"))
    else:
        said = "all versions that Triton has are declared" if acks else "no pod serves it"
        world.screen.print(terminal.text(f"{model.name}: {said}"), soft_wrap=True)
    return 0


def catch_up(world: World, options: Options) -> int:
    """What Git should say."""
    model = lookup.observe_one(world.cluster, _namespace(world, options), options.model)
    if model.table is None:
        reasons = "; ".join(model.problems) or "no version has the traffic yet"
        raise CommandError(f"{model.name} has no live split to catch up with: {reasons}")
    written = [manifests.caught_up(model, one) for one in manifests.behind(model)]
    if not written:
        sys.stderr.write(f"{model.name}: the specs say what is live\n")
    elif options.output == "json":
        terminal.print_json({"apiVersion": "v1", "kind": "List", "items": written})
    else:
        terminal.print_yaml(*written)
    return 0


def export(world: World, options: Options) -> int:
    """Everything, for programs."""
    return _print_document(document(_models(world, options, options.model)), options.output)


def diff(world: World, options: Options) -> int:
    """Answers that disagreed."""
    namespace = _namespace(world, options)
    trial = lookup.find_trial(world.cluster, namespace, options.name)
    if trial.kind != ROLLOUT:
        raise CommandError(f"{trial.short} is a test: only rollouts mirror requests")
    model = lookup.observe_one(world.cluster, namespace, trial.spec.model)
    selector = next((one.spec.pod_selector for one in model.versions), None)
    token = pairs.token(world.cluster, namespace, model.name)
    headers = pairs.headers(token, direct=options.direct)
    pods = sidecars.serving(world.cluster, namespace, model.name, selector)
    ask = _asking(world, options, f"/pairs?model={model.name}", headers)
    answers, silent = sidecars.ask_all(pods, ask, pairs.decode, may_proxy=not options.direct)
    _warn(silent)
    newest = pairs.newest(answers, options.limit)
    if options.output != "table":
        return _print_document({"pairs": [pairs.builtins(one) for one in newest]}, options.output)
    if not newest:
        world.screen.print(terminal.text(_no_pairs(trial)), soft_wrap=True)
        return 0
    stable = trial.status.stable_version or trial.spec.stable_version
    shown = pairs.side_by_side(
        newest, f"stable, version {stable}", f"canary, version {trial.spec.canary_version}"
    )
    world.screen.print(shown)
    return 0


def _no_pairs(trial: Trial) -> str:
    if not trial.spec.mirror_percent:
        return f"{trial.short} mirrors nothing: set mirrorPercent to compare answers"
    return f"{trial.short}: no sidecar keeps a pair that disagreed"


def _asking(world: World, options: Options, path: str, headers: Mapping[str, str]) -> sidecars.Ask:
    if options.direct:
        return sidecars.direct(path, headers)
    return sidecars.through(world.cluster, path, headers)


def _warn(silent: dict[str, str]) -> None:
    for pod, why in silent.items():
        sys.stderr.write(f"kubectl tidegate: pod {pod} left out: {why}\n")


def _namespace(world: World, options: Options) -> str:
    return options.namespace or world.cluster.namespace


def _models(world: World, options: Options, name: str | None) -> list[Model]:
    if options.everywhere:
        found = lookup.observe(world.cluster, None)
        return [one for one in found if name in (None, one.name)]
    namespace = _namespace(world, options)
    if name is not None:
        return [lookup.observe_one(world.cluster, namespace, name)]
    return lookup.observe(world.cluster, namespace)


def _print_document(content: Raw, output: str) -> int:
    if output == "json":
        terminal.print_json(content)
    else:
        terminal.print_yaml(content, sort_keys=True)
    return 0
