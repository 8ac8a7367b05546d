"""What sensors and actuators share to speak with the world: HTTP, JSON pointers, patterns."""
