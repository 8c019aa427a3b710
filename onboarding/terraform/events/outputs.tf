output "undelivered_url" {
  description = "The queue of events that could not be forwarded"
  value       = aws_sqs_queue.undelivered.url
}
