"""Run: make demo-checkpoint, or python -m standalone.demo [FOLDER]"""

import argparse
import logging
from pathlib import Path

from standalone.demo.checkpoint import write_demo_checkpoint
from standalone.launcher import DEMO_CHECKPOINT


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    parser = argparse.ArgumentParser(description="Train the demo checkpoint.")
    parser.add_argument("folder", type=Path, metavar="FOLDER", nargs="?", default=DEMO_CHECKPOINT)
    write_demo_checkpoint(parser.parse_args().folder)


if __name__ == "__main__":
    main()
