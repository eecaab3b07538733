"""Run: make demo-checkpoint"""

import argparse
import logging
from pathlib import Path

from checkpoints.demo.checkpoint import write_demo_checkpoint

DEMO_CHECKPOINT = Path(__file__).with_name("qwen-image-edit-demo")


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    parser = argparse.ArgumentParser(description="Train the demo checkpoint.")
    parser.add_argument("folder", type=Path, metavar="FOLDER", nargs="?", default=DEMO_CHECKPOINT)
    write_demo_checkpoint(parser.parse_args().folder)


if __name__ == "__main__":
    main()
