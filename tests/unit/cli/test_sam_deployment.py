from keyvigil_cli.sam_deployment import DeploymentProgress

CHANGE_SET = """\
CloudFormation stack changeset
-------------------------------------------------------------------------------------------------
Operation                LogicalResourceId        ResourceType             Replacement
-------------------------------------------------------------------------------------------------
+ Add                    Api                      AWS::ApiGatewayV2::Api   N/A
+ Add                    Integration              AWS::ApiGatewayV2::Int   N/A
                                                  egration
-------------------------------------------------------------------------------------------------
"""
EVENTS = """\
ResourceStatus           ResourceType             LogicalResourceId        ResourceStatusReason
-------------------------------------------------------------------------------------------------
CREATE_IN_PROGRESS       AWS::CloudFormation::S   keyvigil                 -
                         tack
CREATE_COMPLETE          AWS::ApiGatewayV2::Api   Api                      -
CREATE_COMPLETE          AWS::ApiGatewayV2::Int   Integration              -
                         egration
CREATE_COMPLETE          AWS::CloudFormation::S   keyvigil                 -
                         tack
"""


def test_resources_are_counted_and_the_stack_is_none_of_them() -> None:
    news: list[str] = []
    progress = DeploymentProgress(news.append)
    for line in (CHANGE_SET + EVENTS).splitlines():
        progress.take(line)
    assert news == ["1 of 2 resources", "2 of 2 resources"]
