"""Writes the template as CloudFormation would have it when everything optional is asked for, to a given path."""

import json
import os
import sys
from pathlib import Path

from tests.infra.source_template import EVERYTHING, SourceTemplate


def main() -> None:
    """Write it to the path that the command line names."""
    # The translator asks for the Region it runs in; the template itself depends on none.
    os.environ["AWS_DEFAULT_REGION"] = "us-west-2"
    source = SourceTemplate.load()
    template = source.resolve(source.render(), **EVERYTHING)
    # checkov takes a reference to a parameter for that parameter's default.
    for name, value in EVERYTHING.items():
        template["Parameters"][name]["Default"] = value
    Path(sys.argv[1]).write_text(json.dumps(template, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
