"""Check that a type checker knows the type of every public name: ``pyright --verifytypes``.

pyright looks at an installed package alone. So the checkout is linked into a folder, beside all
that is installed in this environment, and pyright is shown that folder.
"""

import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import flowstream

PACKAGE = Path(flowstream.__file__).parent


def main() -> int:
    """Return pyright's exit status: 0 if all types are known."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / PACKAGE.name).symlink_to(PACKAGE)
        for directory in {entry for entry in sys.path if entry.endswith("site-packages")}:
            for entry in Path(directory).iterdir():
                link = Path(folder) / entry.name
                if entry.suffix != ".pth" and not link.exists():
                    link.symlink_to(entry)
        command = [
            str(Path(sysconfig.get_path("scripts")) / "pyright"),
            *("--pythonpath", sys.executable),
            *("--verifytypes", PACKAGE.name, "--ignoreexternal"),
        ]
        environment = {**os.environ, "PYTHONPATH": folder}
        return subprocess.run(command, cwd=folder, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
