"""The command line: what may be said, with an example for each word of it."""

import argparse
from typing import Final, TypeAlias

from tidegate_cli import commands
from tidegate_cli.commands import Command
from tidegate_load import options as load
from tidegate_top import options as top
from tidegate_tune import options as tune

_TABLE: Final = ("table", "json", "yaml")
_DOCUMENT: Final = ("json", "yaml")
_MANIFEST: Final = ("yaml", "json")

_CODES: Final = """exit codes:
  0  done; watch --until-finished: Succeeded or Finished
  1  refused, or changed nothing; watch --until-finished: ended otherwise
  2  the command line is wrong
  3  no such object
  4  the API server cannot be reached, or refuses
  5  not within --timeout
  6  no sidecar answered
  130  Ctrl-C; loadgen and tune tell what they have until then
"""


def parser(program: str = "kubectl tidegate") -> argparse.ArgumentParser:
    """The whole command line. ``run`` of what it parses to is the command; ``apart``: one that
    takes no cluster, only the options.
    """
    whole = argparse.ArgumentParser(
        prog=program,
        description="Rollouts and tests of model versions: see them, steer them, report on them.",
        epilog=_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    words = whole.add_subparsers(metavar="COMMAND", required=True)
    _looking(words)
    _steering(words)
    _writing(words)
    _loading(words)
    return whole


_Words: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001 - no public name


def _looking(words: _Words) -> None:
    status = _word(
        words,
        "status",
        commands.status,
        "Show the live split of each model, who owns it, and the evidence",
        "status -A",
        "status digits -o json",
    )
    status.add_argument("model", nargs="?", metavar="MODEL", help="with its history; default: all")
    _everywhere(status)
    _output(status, _TABLE)

    watch = _word(
        words,
        "watch",
        commands.watch,
        "Show the same, kept current until Ctrl-C",
        "watch digits",
        "watch cro/digits-2 --until-finished && echo promoted",
    )
    watch.add_argument(
        "name", nargs="?", metavar="MODEL", help="or, with --until-finished, a rollout or test"
    )
    watch.add_argument(
        "--until-finished", action="store_true", help="stop when it is; 0 where it ended well"
    )
    watch.add_argument(
        "--every",
        type=top.seconds,
        default=1.0,
        metavar="SECONDS",
        help="between looks (default 1)",
    )
    _everywhere(watch)


def _steering(words: _Words) -> None:
    promote = _verb(
        words,
        "promote",
        commands.promote,
        "Move a rollout to its next step, or past a gate",
        "promote digits-2",
        "promote digits-2 --full",
        whom="ROLLOUT",
    )
    promote.add_argument(
        "--full", action="store_true", help="to the end: no steps, no gates; a Fail still stops it"
    )
    abort = _verb(
        words,
        "abort",
        commands.abort,
        "Take a rollout or test back to the split before it",
        'abort digits-2 --reason "wrong tokenizer"',
    )
    abort.add_argument("--reason", required=True, type=_text, help="stands in its history")
    _verb(
        words,
        "retry",
        commands.retry,
        "Begin anew a rollout that was rolled back or failed",
        "retry digits-2",
        whom="ROLLOUT",
    )
    _verb(
        words,
        "suspend",
        commands.suspend,
        "Hold a rollout or test where it is; a Fail still rolls back",
        "suspend digits-2",
    )
    _verb(words, "resume", commands.resume, "Go on with what was suspended", "resume digits-2")


def _writing(words: _Words) -> None:
    discover = _word(
        words,
        "discover",
        commands.discover,
        "List versions that Triton has and no ModelVersion names",
        "discover digits",
        "discover digits --write > versions.yaml",
    )
    discover.add_argument("model", metavar="MODEL")
    discover.add_argument("--write", action="store_true", help="ModelVersions to apply, as YAML")
    _direct(discover)
    _output(discover, _TABLE)

    catch_up = _word(
        words,
        "catch-up",
        commands.catch_up,
        "Print ModelVersions as the live split has them, for Git",
        "catch-up digits > digits.yaml",
    )
    catch_up.add_argument("model", metavar="MODEL")
    _output(catch_up, _MANIFEST)

    export = _word(
        words,
        "export",
        commands.export,
        "Print versions, tests, rollouts and their history as one document",
        "export -n serving > serving.json",
        "export --model digits -o yaml",
    )
    export.add_argument("--model", metavar="MODEL", help="this one only")
    _everywhere(export)
    _output(export, _DOCUMENT)

    diff = _word(
        words,
        "diff",
        commands.diff,
        "Show requests that stable and canary answered differently",
        "diff digits-2",
        "diff digits-2 --limit 3 --direct",
    )
    diff.add_argument("name", metavar="ROLLOUT", help="one with mirrorPercent")
    diff.add_argument(
        "--limit", type=load.count, default=10, metavar="N", help="the newest N pairs (default 10)"
    )
    _direct(diff)
    _output(diff, _TABLE)


def _loading(words: _Words) -> None:
    send = _bare(words, "loadgen", "Send traffic of several users, and sum up", *load.EXAMPLES)
    send.set_defaults(apart=True)
    load.add(send)
    look = _bare(words, "top", "Show what sidecars do just now: queues, rates, GPU", *top.EXAMPLES)
    look.set_defaults(apart=True)
    top.add(look)
    search = _bare(words, "tune", "Find the BatchPolicy that suits a model's load", *tune.EXAMPLES)
    search.set_defaults(apart=True)
    tune.add(search)


def _bare(words: _Words, name: str, what: str, *examples: str) -> argparse.ArgumentParser:
    shown = "\n".join(f"  %(prog)s{one.removeprefix(name)}" for one in examples)
    word: argparse.ArgumentParser = words.add_parser(
        name,
        help=what,
        description=f"{what}.",
        epilog=f"examples:\n{shown}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return word


def _word(
    words: _Words, name: str, run: Command, what: str, *examples: str
) -> argparse.ArgumentParser:
    word = _bare(words, name, what, *examples)
    word.set_defaults(run=run, apart=False, namespace=None, everywhere=False)
    word.add_argument("-n", "--namespace", help="default: that of the context")
    word.add_argument("--context", help="of the kubeconfig; default: the current one")
    word.add_argument("--kubeconfig", metavar="FILE", help="default: KUBECONFIG, ~/.kube/config")
    return word


def _verb(
    words: _Words,
    name: str,
    run: Command,
    what: str,
    *examples: str,
    whom: str = "ROLLOUT|TEST",
) -> argparse.ArgumentParser:
    word = _word(words, name, run, what, *examples)
    forms = "cro/NAME or abt/NAME" if "TEST" in whom else "cro/NAME"
    word.add_argument("name", metavar=whom, help=f"its name, or {forms}")
    word.add_argument(
        "--timeout",
        type=_seconds_or_none,
        default=30.0,
        metavar="SECONDS",
        help="to wait until the operator has acted (default 30; 0: do not wait)",
    )
    return word


def _everywhere(word: argparse.ArgumentParser) -> None:
    word.add_argument(
        "-A", "--all-namespaces", dest="everywhere", action="store_true", help="all namespaces"
    )


def _output(word: argparse.ArgumentParser, formats: tuple[str, ...]) -> None:
    word.add_argument(
        "-o", "--output", choices=formats, default=formats[0], help=f"default: {formats[0]}"
    )


def _direct(word: argparse.ArgumentParser) -> None:
    word.add_argument(
        "--direct",
        action="store_true",
        help="ask the pods' own addresses, not through the API server",
    )


def _seconds_or_none(text: str) -> float:
    return 0.0 if text in {"0", "0.0"} else top.seconds(text)


def _text(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("must say something")
    return text.strip()
