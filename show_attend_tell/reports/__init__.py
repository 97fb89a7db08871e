"""Pictures, tables and pages made from files."""
