"""The `unirig` command: run the whole service on this machine, and rig models through it."""

import argparse
import os
import signal
import sys
import time
from pathlib import Path

from rich.console import Console

from services.cli.client import ClientError
from services.cli.demo import demo
from services.cli.rig import rig
from services.cli.servers import ServerError, port_is_free
from services.cli.stack import Stack

_WATCH_SECONDS = 0.5


def main() -> None:
    """Parses the command line and runs one command; exits 1 with a clear text on a failure."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    console = Console(highlight=False, soft_wrap=True)
    parser = _parser()
    arguments, rest = parser.parse_known_args()
    if rest and arguments.command != "fetch-models":
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        match arguments.command:
            case "up":
                _up(arguments, console)
            case "rig":
                for note in rig(arguments.file, arguments.output, arguments.url, console):
                    console.print(f"Note: {note}", markup=False)
                for out in arguments.output:
                    console.print(f"Wrote {out}", markup=False)
            case "demo":
                demo(arguments.output, console)
            case "fetch-models":
                _fetch_models(rest)
    except (ClientError, ServerError) as error:
        console.print(f"Error: {error}", style="red", markup=False)
        sys.exit(1)
    except KeyboardInterrupt:
        # It is how `up` is meant to end.
        sys.exit(0 if arguments.command == "up" else 130)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="unirig", description="Turns 3D models into rigged, animatable assets."
    )
    commands = parser.add_subparsers(dest="command", required=True)

    up = commands.add_parser("up", help="run the whole service on this machine until Ctrl-C")
    up.add_argument("--port", type=int, default=8080, help="the web port (default: %(default)s)")
    up.add_argument("--host", default="127.0.0.1", help="the web address (default: %(default)s)")
    up.add_argument("--data", type=Path, default=Path("data"), help="where everything is kept")
    up.add_argument(
        "--models",
        type=Path,
        metavar="FOLDER",
        help="rig with UniRig's networks, whose checkpoints `unirig fetch-models` puts there",
    )

    one = commands.add_parser("rig", help="rig one model through a running service")
    one.add_argument("file", type=Path, help="the model: .obj, .fbx, .glb or .vrm")
    one.add_argument(
        "-o",
        "--output",
        type=Path,
        action="append",
        required=True,
        help="a .fbx, .glb or .vrm to write; may be given several times",
    )
    one.add_argument(
        "--url",
        default=os.environ.get("UNIRIG_URL", "http://localhost:8080"),
        help="the service (default: UNIRIG_URL, or %(default)s)",
    )

    show = commands.add_parser("demo", help="rig the example character on a stack of its own")
    show.add_argument("-o", "--output", type=Path, default=Path("demo"), help="the folder to fill")

    commands.add_parser(
        "fetch-models", add_help=False, help="fetch UniRig's checkpoints for the neural engine"
    )
    return parser


def _up(arguments: argparse.Namespace, console: Console) -> None:
    if not port_is_free(arguments.host, arguments.port):
        raise ServerError(f"port {arguments.port} is taken: choose another with PORT=")
    stack = Stack(arguments.data, arguments.port, arguments.host, models=arguments.models)
    try:
        stack.start(lambda line: console.print(f"  {line}", style="dim"))
        console.print(f"\nUniRig is ready at [bold]{stack.url}[/]  (API: {stack.url}/api/docs)")
        console.print(f"Data and logs are in {arguments.data}. Press Ctrl-C to stop.\n")
        while True:
            time.sleep(_WATCH_SECONDS)
            for name in stack.ended_services():
                console.print(f"{name} ended: starting it again (log: {stack.log_of(name)})")
                stack.start_service(name)
            if stack.triton_has_ended():
                console.print("triton ended: starting it again")
                stack.start_triton()
    finally:
        console.print("Stopping…", style="dim")
        # A second Ctrl-C must not leave half of it running.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        stack.stop()


def _fetch_models(options: list[str]) -> None:
    try:
        # Here, as it needs torch, which only the neural engine does.
        from services.inference.unirig_network import fetch
    except ImportError as error:
        raise ServerError(
            f"{error.name} is missing: install this package with its extra, "
            "pip install 'unirig-service[triton]'"
        ) from error
    fetch.main(options)


if __name__ == "__main__":
    main()
