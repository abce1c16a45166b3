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
  chipscale gate base=main                  base and this tree in turns: has anything become slower?

exit codes: 0 all right, 1 MLflow required and absent, or a job of a sweep failed,
            2 a mistake in the input, 3 a regression (of `gate`), 4 a case failed or was wrong,
            5 nothing measured, or no baseline, 6 the device is busy,
            7 the disk is full or takes no more (what was measured is kept), 130 stopped by Ctrl-C
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

GATE_EPILOG = """\
examples:
  chipscale gate base=main suite=training device=cuda   this tree against a branch, in turns
  chipscale gate base=v1.2 head=HEAD --quick            two commits; 3 rounds and 5 %
  chipscale gate base=triton-3.6.whl                    what is installed against another triton
  chipscale gate base=RUN                               a stored run: advice, unless
                                                        gate.strict_stored=true
  chipscale gate base=base.json                         a file of --benchmark-json: advice
  chipscale gate base=main --case 'gemm.*'              those cases alone
  chipscale gate resume=GATE                            go on with a gate that was stopped
  chipscale gate calibrate                              the machine's own noise, by case
  chipscale gate accept CASE... --reason WHY --days 30  let a regression pass, for a time
  chipscale gate list | show GATE                       what was gated
exit codes: 0 no regression, 1 crash, 2 a mistake in the input, 3 a regression, 4 a case invalid,
            5 nothing measured or no baseline; gate.advisory=true turns 3 into 0
"""

VERBS = {
    "run": "measure a suite on a device; log, project and report it",
    "list": "what there is to choose from: suites, models, ops, chips, clusters, runs ...",
    "tune": "search the fastest launch configurations of an op's kernels on this chip",
    "project": "a training step of a model on a cluster, from runs or data sheets",
    "serve": "what a cluster serves of a model within given times, and the Pareto front",
    "validate": "hold the projection against published runs, or a table of your own",
    "compare": "chips against one another: op groups, a step taken apart, projections",
    "gate": "base and head in turns on one device: exit 3 when a case has become slower",
    "trend": "where the history of a suite changed: change points, for a nightly report",
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
    for verb in ("run", "gate", "tune", "project", "serve", "validate"):
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
    _add_gate_options(made["gate"])
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
    made["trend"].add_argument(
        "query",
        nargs="*",
        metavar="KEY=VALUE",
        help="suite, model, chip, branch (or any), fingerprint, last=N; left out: the newest run's",
    )
    made["trend"].add_argument(
        "--source",
        choices=["runs", "mlflow"],
        default="runs",
        help="the run folders here (default), or MLflow, which has those of all hosts",
    )
    made["trend"].add_argument(
        "--min-change", type=float, default=0.05, help="smallest change told (default 0.05)"
    )
    made["trend"].add_argument(
        "--out", type=Path, help="a folder for trend.json, trend.md and trend.html"
    )
    made["report"].add_argument("runs", nargs="*", default=["latest"])
    made["report"].add_argument(
        "--against", help="a run that the page holds it against, as a baseline or another chip"
    )
    made["sync"].add_argument(
        "folders",
        nargs="*",
        type=Path,
        help="run folders, or folders of them; none: all of the results folder",
    )
    made["sync"].add_argument(
        "--watch", action="store_true", help="go on with what is new or has grown, until Ctrl-C"
    )
    made["sync"].add_argument(
        "--interval", type=float, default=10.0, help="seconds between two looks (default 10)"
    )
    made["sync"].add_argument(
        "--again", action="store_true", help="look at all in MLflow, also at what has not changed"
    )
    made["ui"].add_argument("--port", type=int, default=5177)
    for verb in ("list", "report", "sync"):
        made[verb].add_argument("--config-dir", type=Path, action="append", default=[])
    for verb in ("list", "compare", "trend", "report", "sync", "ui"):
        made[verb].add_argument("--results-dir", type=Path, default=Path("results"))
    for verb in ("compare", "sync"):
        made[verb].set_defaults(results_dir=None)
    return parser


def _add_gate_options(gate: argparse.ArgumentParser) -> None:
    gate.epilog = GATE_EPILOG
    gate.add_argument("--quick", action="store_true", help="3 rounds, and 5 %% is no change")
    gate.add_argument(
        "--case",
        action="append",
        default=[],
        metavar="CASE",
        help="gate those cases alone: an id, or a pattern with *; may be given several times",
    )
    accepting = gate.add_argument_group("of `gate accept`")
    accepting.add_argument("--reason", help="why the regression may pass")
    accepting.add_argument("--until", metavar="DATE", help="the last day it may, as 2026-12-31")
    accepting.add_argument("--days", type=int, metavar="N", help="the same, in days from today")
    accepting.add_argument(
        "--limit", type=float, help="the largest slow-down that may, as 0.08; else what was found"
    )


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
