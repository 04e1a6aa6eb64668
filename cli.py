"""The command line of a checkout: ``python cli.py``, the same program as the installed ``subkern``.

The program is `analyses.commands.group`; what is installed knows it as
``subkern.analyses.commands.group``.
"""

from analyses.commands.group import cli, main

__all__ = ["cli", "main"]

if __name__ == "__main__":
    main()
