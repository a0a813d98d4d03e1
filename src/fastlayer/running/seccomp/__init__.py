"""What calls a program may make: seccomp profiles, and their filters as BPF programs (seccomp(2))."""
