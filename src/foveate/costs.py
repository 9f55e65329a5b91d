"""What a method costs: learned numbers, pictures a second, peak memory."""
