"""The Helm chart: every profile lints, and what is generated is in step with its sources."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from chart_readme import documented_values, readme

from serve_app import __version__
from tests.support.helm_releases import RELEASES, chart_files, helm
from tests.support.paths import ROOT


@pytest.mark.parametrize("name", RELEASES)
def test_every_profile_lints_without_a_warning(name: str) -> None:
    report = helm.lint(chart_files.CHART, chart_files.profile_values(*RELEASES[name]), strict=True)
    worse_than_info = [item for item in report["messages"] if item["severity"] > 1]
    # An icon is the one thing lint recommends that this chart does not have.
    assert not [item for item in worse_than_info if "icon" not in item["error"]]
    assert not report["errors"]


def test_generated_chart_files_are_in_step_with_their_sources() -> None:
    different = chart_files.out_of_step(chart_files.generated())
    assert not different, f"run: python scripts/chart_files.py ({different})"


def test_golden_renderings_are_what_the_chart_renders() -> None:
    golden = {p: t for p, t in chart_files.renderings().items() if "fixtures" in p.parts}
    assert len(golden) >= 3
    assert not chart_files.out_of_step(golden), "see the diff after: python scripts/chart_files.py"


def test_the_chart_is_of_the_version_it_deploys() -> None:
    metadata = yaml.safe_load((chart_files.CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert metadata["appVersion"] == __version__
    values = yaml.safe_load((chart_files.CHART / "values.yaml").read_text(encoding="utf-8"))
    pinned = re.search(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned is not None
    assert values["ray"]["version"] == pinned[1]


def test_the_readme_describes_every_value() -> None:
    text = (chart_files.CHART / "values.yaml").read_text(encoding="utf-8")
    page = (chart_files.CHART / "README.md").read_text(encoding="utf-8")
    described = documented_values(text)
    assert len(described) > 100
    assert all(f"| `{value.path}` | {value.kind} |" in page for value in described)


def test_a_value_without_a_description_is_refused() -> None:
    with pytest.raises(ValueError, match=r"b\.c has no"):
        readme("<!-- values -->", "# -- Known.\na: 1\nb:\n  c: 2\n")


def test_the_package_holds_profiles_and_serve_config(tmp_path: Path) -> None:
    with helm.Chart.load(helm.package(chart_files.CHART, destination=tmp_path)) as chart:
        names = {item["name"] for item in chart.files}
        assert {"values-ha.yaml", "files/serve-config.yaml", "README.md"} <= names
        assert "README.md.tmpl" not in names
        assert chart.schema is not None
