"""What needs torch. Nothing outside this folder imports it, and nothing here is imported early."""
