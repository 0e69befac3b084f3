"""Walks the whole line; steps whose inputs, code and configuration are unchanged are skipped.

python -m pipelines.run --config configs/digits.yaml
"""

import sys

if __name__ == "__main__":
    from simpipe.cli import main

    sys.exit(main(["run", *sys.argv[1:]]))
