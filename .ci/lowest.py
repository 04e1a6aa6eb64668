"""Print the lowest versions that setup.cfg promises, as constraints for pip.

``python .ci/lowest.py [NAME==VERSION ...]`` prints these instead of the lowest of theirs.
"""

import configparser
import re
import sys
from pathlib import Path

setup = configparser.ConfigParser()
setup.read(Path(__file__).parents[1] / "setup.cfg", encoding="utf-8")
promised = [setup["options"]["install_requires"], *setup["options.extras_require"].values()]
pins = dict(re.findall(r"^([\w.-]+) *>=([\w.]+)", "\n".join(promised), re.MULTILINE))
pins |= dict(given.split("==") for given in sys.argv[1:])
print("\n".join(f"{name}=={version}" for name, version in pins.items()))
