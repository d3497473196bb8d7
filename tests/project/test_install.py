"""Which locum these tests see: the installed wheel when CI says so, the source tree otherwise."""

import importlib.metadata
import os
import tomllib
from pathlib import Path

import locum

ROOT = Path(__file__).parents[2]


def test_the_locum_under_test_is_the_one_asked_for() -> None:
    found = Path(locum.__file__).resolve()
    if os.environ.get("LOCUM_TEST_INSTALLED"):
        assert "site-packages" in found.parts
        assert ROOT / "src" not in found.parents
    else:
        assert found == ROOT / "src/locum/__init__.py"


def test_the_wheel_carries_what_a_package_must() -> None:
    package = Path(locum.__file__).parent
    assert (package / "py.typed").exists()
    metadata = importlib.metadata.metadata("locum")
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata.get_all("License-File") == ["LICENSE"]


def test_one_version_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert locum.__version__ == project["version"] == importlib.metadata.version("locum")
