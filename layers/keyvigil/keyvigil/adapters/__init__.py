"""How the ports reach AWS: the only modules that import boto3, botocore and pynamodb."""
