"""`python -m percepta`."""

from __future__ import annotations

from percepta.apps.cli import main

if __name__ == "__main__":
    main()
