"""`python -m services.inference.unirig_network.fetch`: fills the model folder."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import SecretStr, StringConstraints, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict
from rich.console import Console

from services.inference.unirig_network.checkpoint_download import is_sha256
from services.inference.unirig_network.checkpoint_errors import CheckpointError
from services.inference.unirig_network.checkpoint_fetching import (
    ModelSource,
    fetch_models,
    hub_address,
)
from services.inference.unirig_network.checkpoint_kinds import KINDS, OFFICIAL_REPOSITORY, Kind
from services.inference.unirig_network.download_progress import DownloadProgress
from services.inference.unirig_network.expected_state import expected_state

Sha256 = Annotated[str, StringConstraints(to_lower=True, pattern="^[0-9a-fA-F]{64}$")]


class FetchSettings(BaseSettings):
    """Where models come from and go to; each is the environment variable of the same name."""

    # A wrong setting may hold a secret: its value stays out of the error.
    model_config = SettingsConfigDict(frozen=True, hide_input_in_errors=True, env_ignore_empty=True)

    unirig_model_folder: Path = Path("models")
    unirig_model_repository: str = OFFICIAL_REPOSITORY
    unirig_model_revision: str = "main"
    # Of the file that is fetched; checked besides what the hub says of it.
    unirig_skeleton_sha256: Sha256 | None = None
    unirig_skin_sha256: Sha256 | None = None
    # The hub's own settings: a mirror, and the token for private repositories.
    hf_endpoint: str = "https://huggingface.co"
    hf_token: SecretStr | None = None


def main(arguments: Sequence[str] | None = None) -> None:
    """Fetches what is missing; exits 1 with a clear text on a failure."""
    try:
        settings = FetchSettings()
    except ValidationError as error:
        sys.exit(f"Error: {error}")
    given = _parser(settings).parse_args(arguments)
    expected = {kind: expected_state(kind) for kind in KINDS}
    try:
        with DownloadProgress(Console(stderr=True)) as progress:
            fetch_models(given.folder, _source(given, settings), expected, progress)
    except CheckpointError as error:
        sys.exit(f"Error: {error}")
    except KeyboardInterrupt:
        print("Stopped. Run it again to go on from here.", file=sys.stderr)
        sys.exit(130)


def _source(given: argparse.Namespace, settings: FetchSettings) -> ModelSource:
    sha256s = {**_sha256s_of(settings), **dict(given.sha256)}
    if given.place is not None:
        # The token is the hub's alone.
        return ModelSource(given.place, sha256=sha256s)
    address = hub_address(settings.hf_endpoint, given.repository, given.revision)
    token = settings.hf_token.get_secret_value() if settings.hf_token else None
    return ModelSource(address, token, sha256s)


def _sha256s_of(settings: FetchSettings) -> dict[Kind, str]:
    pinned: dict[Kind, str | None] = {
        "skeleton": settings.unirig_skeleton_sha256,
        "skin": settings.unirig_skin_sha256,
    }
    return {kind: sha256 for kind, sha256 in pinned.items() if sha256 is not None}


def _parser(settings: FetchSettings) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="unirig fetch-models",
        description="Fetches UniRig's checkpoints, checks them and converts them to safetensors."
        " Does nothing where they are there and whole; goes on where it was interrupted.",
        epilog="HF_ENDPOINT names a mirror of the hub, HF_TOKEN opens a private repository.",
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=settings.unirig_model_folder,
        help="the folder to fill (UNIRIG_MODEL_FOLDER; default: %(default)s)",
    )
    parser.add_argument(
        "--repository",
        default=settings.unirig_model_repository,
        help="on the Hugging Face hub (UNIRIG_MODEL_REPOSITORY; default: %(default)s)",
    )
    parser.add_argument(
        "--revision",
        default=settings.unirig_model_revision,
        help="branch, tag or commit there (UNIRIG_MODEL_REVISION; default: %(default)s)",
    )
    parser.add_argument(
        "--from",
        dest="place",
        metavar="FOLDER|URL",
        type=_place,
        help="fetch from here instead of the hub: the official files by their names there, or"
        " skeleton.safetensors and skin.safetensors",
    )
    parser.add_argument(
        "--sha256",
        metavar="KIND=HEX",
        type=_pinned,
        action="append",
        default=[],
        help="what a fetched file must have, such as skin=9f86d0…; may be given twice"
        " (UNIRIG_SKELETON_SHA256, UNIRIG_SKIN_SHA256)",
    )
    return parser


def _place(text: str) -> Path | str:
    return text if text.startswith(("http://", "https://")) else Path(text)


def _pinned(text: str) -> tuple[Kind, str]:
    name, _, sha256 = text.partition("=")
    for kind in KINDS:
        if kind == name and is_sha256(sha256.lower()):
            return kind, sha256.lower()
    raise argparse.ArgumentTypeError("must be skeleton=HEX or skin=HEX, with 64 digits")


if __name__ == "__main__":
    main()
