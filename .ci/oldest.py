"""Print constraints that hold each library to the oldest version that pyproject.toml allows.

For `pip install -c`: the bounds of the runtime and of the extras named as arguments. Made from
pyproject.toml, so that the two never differ.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
asked = list(project["dependencies"])
for extra in sys.argv[1:]:
    asked += project["optional-dependencies"][extra]
oldest = {}
for requirement in asked:
    found = re.match(r"([\w-]+)(?:\[[\w,-]+\])?>=([\d.]+)", requirement)
    if found is None:
        sys.exit(f"no lower bound: {requirement}")
    oldest[found[1]] = f"{found[1]}=={found[2]}"
sys.stdout.write("".join(f"{one}\n" for one in oldest.values()))
