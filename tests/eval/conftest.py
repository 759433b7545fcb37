"""The evaluations run over the tiny model and index."""

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.import_plugin("tests.props.live")
