"""What people see: tables."""
