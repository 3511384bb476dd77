"""`unirig demo`: the example character through the whole job, on a stack of its own."""

import tempfile
from pathlib import Path

from rich.console import Console

from services.cli.character import write_character
from services.cli.picture import draw_rig
from services.cli.rig import rig
from services.cli.servers import free_port
from services.cli.stack import Stack


def demo(folder: Path, console: Console) -> None:
    """Leaves character.glb, character_rigged.glb, .fbx and character_rigged.png in folder."""
    folder.mkdir(parents=True, exist_ok=True)
    character = folder / "character.glb"
    console.print("Making the example character")
    write_character(character)
    rigged = [folder / "character_rigged.glb", folder / "character_rigged.fbx"]
    with tempfile.TemporaryDirectory(prefix="unirig-demo-") as data:
        console.print("Starting the stack")
        with Stack(Path(data), free_port()) as stack:
            rig(character, rigged, stack.url, console)
        console.print("Stopped the stack")
    picture = folder / "character_rigged.png"
    draw_rig(rigged[0], picture, "The example character, rigged")
    console.print("\nLook at:")
    for path in (picture, *rigged):
        console.print(f"  {path}", markup=False)
