"""What hangs on which KMS key in an AWS account: readers, one for each service, and what their answers mean."""
