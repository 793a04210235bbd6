"""What drivers have in common."""
