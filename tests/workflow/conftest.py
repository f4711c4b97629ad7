"""Runs of the workflow in which a stand-in for `cast` makes empty results: the whole graph, no training."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
SMOKE = REPOSITORY / "config" / "smoke.yaml"

STAND_IN = """#!/bin/sh
echo "$@" >> calls.txt
while [ $# -gt 0 ]; do
  [ "$1" = --out ] && out=$2
  shift
done
case $out in
  *.png | *.csv)
    mkdir -p "$(dirname "$out")"
    for suffix in png pdf csv md tex manifest.json; do echo > "${out%.*}.$suffix"; done ;;
  *) mkdir -p "$out" ;;
esac
"""


@dataclass
class Workflow:
    """A folder in which snakemake runs; `bin` comes first on the PATH."""

    folder: Path
    bin: Path
    name: str = "smoke"
    changes: list[Path] = field(default_factory=list)

    def snakemake(self, *arguments: str, config: Path | None = SMOKE) -> subprocess.CompletedProcess[str]:
        """Run snakemake with the smoke configuration and what `changed` laid over it."""
        configuration = ["--configfile", str(config), *map(str, self.changes)] if config else []
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "Snakefile")]
        # The number of cores comes from profiles/default, as for a user who types `snakemake` alone.
        command += ["--directory", str(self.folder), "--nolock", *arguments, *configuration]
        path = os.pathsep.join([str(self.bin), str(Path(sys.executable).parent), os.environ["PATH"]])
        environment = os.environ | {"PATH": path, "PYTHONPATH": str(REPOSITORY)}
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)

    def changed(self, changes: dict[str, object]) -> Workflow:
        """The same folder under a changed configuration."""
        path = self.folder / f"change{len(list(self.folder.glob('change*')))}.yaml"
        path.write_text(yaml.safe_dump(changes))
        return Workflow(self.folder, self.bin, self.name, [*self.changes, path])

    def fails(self, *arguments: str, config: Path | None = SMOKE) -> str:
        """What is printed by a run that must fail before it writes anything."""
        run = self.snakemake(*arguments, config=config)
        assert run.returncode != 0
        assert "Traceback" not in run.stdout + run.stderr
        assert not (self.folder / "results").exists()
        return run.stdout + run.stderr

    def planned(self, *targets: str) -> list[str]:
        """First outputs, relative to results/<name>, of the jobs that a dry run would make."""
        run = self.snakemake("--dry-run", *targets)
        assert run.returncode == 0, run.stderr
        outputs = re.findall(r"^    output: (.*)$", run.stdout + run.stderr, flags=re.MULTILINE)
        return [output.split(", ")[0].removeprefix(f"results/{self.name}/") for output in outputs]


@pytest.fixture(scope="session")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an executable `cast` that notes its arguments and makes what `--out` names."""
    folder = tmp_path_factory.mktemp("bin")
    script = folder / "cast"
    script.write_text(STAND_IN)
    script.chmod(0o755)
    return folder


@pytest.fixture(scope="session")
def workflow_in() -> type[Workflow]:
    """For tests that choose the folder, and the `cast` to run, themselves."""
    return Workflow


@pytest.fixture
def fresh(tmp_path: Path, stand_in: Path) -> Workflow:
    """A folder in which nothing has run."""
    return Workflow(tmp_path, stand_in)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, stand_in: Path) -> Workflow:
    """A folder in which everything is up to date; tests only make dry runs in it."""
    workflow = Workflow(tmp_path_factory.mktemp("finished"), stand_in)
    run = workflow.snakemake()
    assert run.returncode == 0, run.stderr
    return workflow
