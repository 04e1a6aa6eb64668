"""Installed names of the packages; everything else about the package is in setup.cfg.

A checkout has ``subkern`` and, beside it, ``analyses``. Installed, the analyses are
``subkern.analyses``, so that site-packages gets the one name ``subkern``. Modules of ``analyses``
therefore import each other relatively.
"""

from setuptools import find_packages, setup

library = find_packages(include=["subkern", "subkern.*"])
analyses = find_packages(include=["analyses", "analyses.*"])

setup(
    packages=[*library, *(f"subkern.{name}" for name in analyses)],
    package_dir={"subkern.analyses": "analyses"},
)
