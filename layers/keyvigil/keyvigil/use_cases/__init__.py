"""What KeyVigil does: one verb a module, ports in, domain inside."""
