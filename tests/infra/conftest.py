"""The template, read and rendered once."""

import pytest

from tests.infra.source_template import SourceTemplate, Template


@pytest.fixture(scope="session")
def source_template() -> SourceTemplate:
    return SourceTemplate.load()


@pytest.fixture(scope="session")
def rendered_template(source_template: SourceTemplate) -> Template:
    with pytest.MonkeyPatch.context() as patch:
        # The translator asks for the Region it runs in; the template itself depends on none.
        patch.setenv("AWS_DEFAULT_REGION", "us-west-2")
        return source_template.render()
