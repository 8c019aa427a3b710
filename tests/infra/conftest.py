"""The template, read and rendered once."""

import pytest

from tests.infra.source_template import EVERYTHING, SourceTemplate, Template


@pytest.fixture(scope="session")
def source_template() -> SourceTemplate:
    return SourceTemplate.load()


@pytest.fixture(scope="session")
def rendered_template(source_template: SourceTemplate) -> Template:
    with pytest.MonkeyPatch.context() as patch:
        # The translator asks for the Region it runs in; the template itself depends on none.
        patch.setenv("AWS_DEFAULT_REGION", "us-west-2")
        return source_template.render()


@pytest.fixture(scope="session")
def plain_template(source_template: SourceTemplate, rendered_template: Template) -> Template:
    """What CloudFormation makes of the template when nobody gives it anything."""
    return source_template.resolve(rendered_template)


@pytest.fixture(scope="session")
def full_template(source_template: SourceTemplate, rendered_template: Template) -> Template:
    """What CloudFormation makes of the template when everything optional is asked for."""
    return source_template.resolve(rendered_template, **EVERYTHING)
