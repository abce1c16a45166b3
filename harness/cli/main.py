"""`chipscale`: reads the verb and its options, and turns errors into one line and an exit code.

Imports only the standard library, so that help answers at once; a verb's module is imported when
the verb is used.
"""

import argparse
import contextlib
import importlib
import io
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from harness import __version__
from harness.errors import INTERRUPTED_EXIT_CODE, ChipscaleError, did_you_mean

DESCRIPTION = """\
How fast is this chip, is it faster than that one, and what would 100,000 of them do?
"""

EPILOG = """\
begin here:
  chipscale doctor                          what this machine can measure, and what is missing
  chipscale run                             measure this chip, project 100,000 of them, report
  chipscale ui                              the results in the MLflow UI

then:
  chipscale run suite=training model=llama3_70b device=cuda
  chipscale project model=llama3_405b cluster=h100_100k
  chipscale serve model=deepseek_v3 cluster=h100_100k serving.tpot_ms=30
  chipscale compare chip=h100,suite=training chip=h200,suite=training

exit codes: 0 all right, 1 MLflow required and absent, or a job of a sweep failed,
            2 a mistake in the input, 4 a case failed or was wrong, 5 nothing measured,
            6 the device is busy, 7 the disk is full or takes no more (what was measured is kept),
            130 stopped by Ctrl-C
"""

RUN_EPILOG = """\
examples:
  chipscale run                                       the quick suite on the best device here
  chipscale run suite=training model=llama3_70b device=cuda measure=careful
  chipscale run suite=inference suite.ops=[attention,gemm] impls=[triton]
  chipscale run -m model=llama3_8b,qwen3_32b          a sweep, by Hydra
  chipscale run device=fake                           every step, on a chip that is not there
  chipscale run suite=training plan=cases.json        write the cases, for a host with torch only;
                                                      there: python -m harness.worker cases.json OUT
                                                      back here: chipscale sync OUT
  chipscale run resume=RUN                            go on with a run that was stopped
  chipscale run --cfg job                             the composed configuration
"""

COMPARE_EPILOG = """\
examples:
  chipscale compare chip=h100,suite=training chip=h200,suite=training
  chipscale compare "chip=h100 suite=training" "chip=h200 suite=training oldest"
  chipscale compare oldest latest --cases
  chipscale compare RUN_A RUN_B RUN_C --format markdown
  chipscale compare RUN_A RUN_B --out comparison.html

A query has chip=, suite=, model=, device=, host=, branch=, commit= or a tag of yours, with spaces
or commas between, and latest or oldest; of several runs that match, the newest is taken. A value
may be cut short: chip=h200 is h200_sxm.
"""

VERBS = {
    "run": "measure a suite on a device; log, project and report it",
    "list": "what there is to choose from: suites, models, ops, chips, clusters, runs ...",
    "tune": "search the fastest launch configurations of an op's kernels on this chip",
    "project": "a training step of a model on a cluster, from runs or data sheets",
    "serve": "what a cluster serves of a model within given times, and the Pareto front",
    "validate": "hold the projection against published runs, or a table of your own",
    "compare": "chips against one another: op groups, a step taken apart, projections",
    "report": "write a run's HTML and Markdown report again",
    "sync": "fill MLflow from run folders, also those of other hosts; twice does no harm",
    "ui": "open the MLflow UI on the results and print the link that lands on the right page",
    "doctor": "devices, versions and what is missing here",
}

LISTABLE = (
    "suites",
    "models",
    "ops",
    "chips",
    "clusters",
    "devices",
    "measures",
    "parallels",
    "servings",
    "runs",
)


class _Parser(argparse.ArgumentParser):
    """Tells a mistake as every other part of the program does."""

    def error(self, message: str) -> NoReturn:
        raise ChipscaleError(f"{message}. `{self.prog} --help` shows how it is used.")


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = _Parser(prog="chipscale", description=DESCRIPTION, epilog=EPILOG, formatter_class=raw)
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    verbs = parser.add_subparsers(dest="verb", title="verbs", metavar="VERB")
    made = {
        verb: verbs.add_parser(verb, help=text, description=text, formatter_class=raw)
        for verb, text in VERBS.items()
    }
    for verb in ("run", "tune", "project", "serve", "validate"):
        made[verb].add_argument(
            "overrides", nargs="*", metavar="KEY=VALUE", help="Hydra overrides of the configuration"
        )
        made[verb].add_argument(
            "--config-dir",
            type=Path,
            action="append",
            default=[],
            help="a folder of your own chips, models, suites ...; may be given several times",
        )
        made[verb].add_argument(
            "--cfg", choices=["job"], help="print the composed configuration and do nothing"
        )
    made["run"].epilog = RUN_EPILOG
    made["run"].add_argument(
        "-m",
        "--multirun",
        action="store_true",
        help="a sweep by Hydra: key=a,b runs each; Hydra's launchers and sweepers work",
    )
    made["list"].add_argument(
        "what", nargs="?", default="suites", metavar="WHAT", help=", ".join(LISTABLE)
    )
    made["compare"].epilog = COMPARE_EPILOG
    made["compare"].add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="two or more: a run's id, a part of it, a folder, or a query; the first is the "
        "reference",
    )
    made["compare"].add_argument(
        "--format",
        choices=["table", "markdown", "html", "csv", "json"],
        help="what is printed, or written to --out (default: that of its name, else a table)",
    )
    made["compare"].add_argument(
        "--out", type=Path, help="a file to write to, or a folder for all formats"
    )
    made["compare"].add_argument(
        "--cases", action="store_true", help="every case and implementation in the table as well"
    )
    made["compare"].add_argument(
        "--track",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="log to MLflow (default: where the results are there already)",
    )
    made["compare"].add_argument(
        "--tolerance", type=float, default=None, help="difference that matters (default 0.03)"
    )
    made["compare"].add_argument(
        "--force", action="store_true", help="compare runs of different protocols, labelled"
    )
    made["report"].add_argument("runs", nargs="*", default=["latest"])
    made["report"].add_argument(
        "--against", help="a run that the page holds it against, as a baseline or another chip"
    )
    made["sync"].add_argument(
        "folders", nargs="*", type=Path, help="run folders; none: all runs of the results folder"
    )
    made["ui"].add_argument("--port", type=int, default=5177)
    for verb in ("list", "report", "sync"):
        made[verb].add_argument("--config-dir", type=Path, action="append", default=[])
    for verb in ("list", "compare", "report", "sync", "ui"):
        made[verb].add_argument("--results-dir", type=Path, default=Path("results"))
    made["sync"].set_defaults(results_dir=None)
    return parser


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Options and overrides in any order; argparse alone wants all overrides side by side."""
    verbs = [argument for argument in arguments if not argument.startswith("-")]
    if verbs and verbs[0] not in VERBS:
        raise ChipscaleError(
            f"no verb '{verbs[0]}'. {did_you_mean(verbs[0], VERBS)}`chipscale --help` shows all."
        )
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    for argument in rest:
        if argument.startswith("-") or "overrides" not in options:
            what = "option" if argument.startswith("-") else "argument"
            raise ChipscaleError(
                f"{argument}: no such {what} of `chipscale {options.verb}`. "
                f"{did_you_mean(argument, _options_of(options.verb))}"
                f"`chipscale {options.verb} --help` shows all."
            )
        options.overrides.append(argument)
    return options


def _options_of(verb: str) -> list[str]:
    """The options that the verb's own help shows."""
    help_text = io.StringIO()
    with contextlib.redirect_stdout(help_text), contextlib.suppress(SystemExit):
        _parser().parse_args([verb, "--help"])
    return re.findall(r"--[a-z-]+", help_text.getvalue())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    try:
        options = _parse(sys.argv[1:] if arguments is None else arguments)
        if options.version:
            print(f"chipscale {__version__}")
            return 0
        if options.verb is None:
            _parser().print_help()
            return 0
        verb = importlib.import_module(f"harness.cli.{options.verb}")
        return int(verb.main(options))
    except ChipscaleError as error:
        print(f"chipscale: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("chipscale: stopped.", file=sys.stderr)
        return INTERRUPTED_EXIT_CODE
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            # The reader of our output, `head` say, has seen enough.
            sys.stderr.close()
            return 0
        where = f"{error.filename}: " if error.filename else ""
        print(
            f"chipscale: {where}{error.strerror or error}. What was measured before is kept.",
            file=sys.stderr,
        )
        return ChipscaleError.exit_code


if __name__ == "__main__":
    sys.exit(main())
