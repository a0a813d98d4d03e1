"""What is doubtful in a Dockerfile that can be built: the build checks of Docker (frontend 1.20), by the same names."""
