"""The shared libraries of the operating system that packages need: found, installed or named.

Blender comes as a package, but it links against a few libraries of the X and GL families that a
bare Debian or Ubuntu does not have. This only looks at the file: it never loads Blender. Triton,
where it is installed, loads Python from a shared library, which Debian's python3.11 leaves to
a package of its own.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

# From the library's name to the Debian (and Ubuntu) package that holds it.
PACKAGES = {
    "libGL.so.1": "libgl1",
    "libICE.so.6": "libice6",
    "libSM.so.6": "libsm6",
    "libX11.so.6": "libx11-6",
    "libXext.so.6": "libxext6",
    "libXfixes.so.3": "libxfixes3",
    "libXi.so.6": "libxi6",
    "libXrender.so.1": "libxrender1",
    "libXxf86vm.so.1": "libxxf86vm1",
    "libgomp.so.1": "libgomp1",
    "libpython3.11.so.1.0": "libpython3.11",
    "libstdc++.so.6": "libstdc++6",
    "libxkbcommon.so.0": "libxkbcommon0",
}


def missing_libraries() -> list[str]:
    """The names of the libraries that are needed and not there."""
    return sorted([*_missing_for_blender(), *_missing_for_triton()])


def python_library() -> Path:
    """Where the library of the very Python that runs this is, or should be."""
    folder, name = sysconfig.get_config_var("LIBDIR"), sysconfig.get_config_var("INSTSONAME")
    return Path(folder or "", name or "")


def _missing_for_triton() -> list[str]:
    if importlib.util.find_spec("pytriton") is None:
        return []
    library = python_library()
    return [] if library.is_file() else [library.name]


def _missing_for_blender() -> list[str]:
    """What Blender links against and the loader does not find."""
    module = importlib.util.find_spec("bpy")
    if module is None or module.origin is None:
        raise SystemExit("Blender is not installed: pip install 'bpy==4.5.15'")
    folder = Path(module.origin).parent
    printed = subprocess.run(  # noqa: S603 - a file of the installed package
        [shutil.which("ldd") or "ldd", str(folder / "__init__.so")],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    return [line.split("=>")[0].strip() for line in printed.splitlines() if "not found" in line]


def main() -> None:
    """Installs what is missing where that is possible, else says exactly what to install."""
    missing = missing_libraries()
    if not missing:
        return
    packages = sorted({PACKAGES.get(name, name) for name in missing})
    command = ["apt-get", "install", "-y", "--no-install-recommends", *packages]
    can_install = os.geteuid() == 0 and shutil.which("apt-get") is not None
    if can_install:
        print(f"Installing the system libraries that are needed: {' '.join(packages)}")
        subprocess.run(["apt-get", "update", "-qq"], check=False)  # noqa: S607
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(command, check=False, env=environment)  # noqa: S603 - names of the table
        missing = missing_libraries()
    if missing:
        sys.exit(
            f"System libraries that are needed are missing: {', '.join(missing)}\n"
            f"Install them with:  sudo {' '.join(command)}"
        )


if __name__ == "__main__":
    main()
